"""Runs on an LM with tokens that are not ordinary, and on one whose activations do not matter, as a user makes them."""

from __future__ import annotations

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

import sweep.launch  # noqa: F401  (conf needs the resolvers that it registers)
from analysis.read.records import Records
from sweep.jobs.build import build
from sweep.store.records import read_record
from tests.conftest import random_model
from tests.sweep.test_inference import call
from tests.sweep.world import World, composed

LONG = 289  # the token that the LM of `sinking` makes a hundred times as long as the others
SAID = re.compile(r"sinking, layer 1: (\d+) of 800 tokens are not ordinary: (\d+) special, (\d+) longer than 5 medians")


@pytest.fixture(scope="module")
def sinking(tmp_path_factory, model_folders, tokenizer):
    """The folder of a model in which one token of the vocabulary is an outlier wherever it stands."""
    folder = tmp_path_factory.mktemp("models") / "sinking"
    model = AutoModelForCausalLM.from_pretrained(model_folders["llama"])
    with torch.no_grad():
        model.get_input_embeddings().weight[LONG] *= 300.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory, sinking, text_file):
    """A world in which one run over ordinary tokens and one over all tokens were made, and what the terminal showed."""
    world = World(tmp_path_factory.mktemp("world"), sinking, text_file)
    world.shown = {tokens: world.sweep(f"eval.tokens={tokens}") for tokens in ("ordinary", "all")}
    world.made = {record["metrics"]["mask_policy"]: record for record in world.records()}
    return world


def test_ordinary_and_all_tokens_are_two_runs_and_the_record_says_which(world):
    assert [code for code, *_ in world.shown.values()] == [0, 0]
    ordinary, every = world.made["ordinary_tokens"], world.made["all_tokens"]
    norms = ordinary["activations"]["norms"]
    assert norms == every["activations"]["norms"] and norms["captured"] == 800 and norms["special_ids"] == [0]
    assert norms["outliers"] > 0 and norms["special"] > 0 and norms["largest"] > 10 * norms["median"]
    assert every["activations"]["rows"] == 800
    assert ordinary["activations"]["rows"] == 800 - norms["outliers"] - norms["special"]
    share = ordinary["metrics"]["not_ordinary_fraction"]
    assert 0 < share < 1 and share == every["metrics"]["not_ordinary_fraction"]
    assert ordinary["metrics"]["tokens"] == round(every["metrics"]["tokens"] * (1 - share))
    assert ordinary["latents"]["tokens"] == ordinary["metrics"]["tokens"]
    # Over all tokens the longest ones hide what happens to the others.
    assert every["metrics"]["fvu"] < 0.9 * ordinary["metrics"]["fvu"]


def test_the_plan_the_log_and_the_table_say_once_how_many_tokens_are_not_ordinary(world):
    record = world.made["ordinary_tokens"]
    norms = record["activations"]["norms"]
    wanted = (str(norms["special"] + norms["outliers"]), str(norms["special"]), str(norms["outliers"]))
    for tokens, fate in (("ordinary", "left out"), ("all", r"treated like the others \(eval.tokens=all\)")):
        out = world.shown[tokens][1]
        assert SAID.findall(out) == [wanted] and re.search(f"medians, .* against .*; {fate}\n", out)
    log = (world.runs / record["run_id"] / "run.log").read_text()
    assert log.count("tokens are not ordinary") == 1 and "trained on 7" in log
    code, out, _ = world.sweep("-m", "d=3,5", "plan=true")
    assert code == 0 and SAID.findall(out) == [wanted]


def test_a_run_over_ordinary_tokens_is_read_further_over_the_same_tokens(world):
    run_id = world.made["ordinary_tokens"]["run_id"]
    places = [f"runs_dir={world.runs}", f"cache_dir={world.folder / 'no-cache'}"]  # the record knows what is ordinary
    call("sweep.evaluate", f"run={run_id}", "eval.inference=[refit]", "eval.contexts=2", *places)
    record = read_record(world.runs, run_id)
    refit = record["inference"]["refit"]["metrics"]
    assert refit["tokens"] == record["metrics"]["tokens"] and refit["ce_zero"] == record["metrics"]["ce_zero"]
    assert refit["mask_policy"] == "ordinary_tokens" and refit["fvu"] < record["metrics"]["fvu"]


def test_figures_never_mix_the_two(world, capsys):
    assert set(Records.read(world.runs).runs["mask_policy"]) in ({"ordinary_tokens"}, {"all_tokens"})
    assert "1 run(s) of sinking with other settings left out" in capsys.readouterr().err


def test_on_the_embedded_lm_both_choices_are_one_run_and_its_id_is_what_it_was():
    jobs = [build(composed(f"eval.tokens={tokens}", "eval.windows=100"), "x") for tokens in ("ordinary", "all")]
    assert jobs[0].spec.run_id == jobs[1].spec.run_id and jobs[0].spec.activations.outlier_norm is None
    assert "outlier_norm" not in json.dumps(jobs[0].spec.as_json())


def test_one_and_one_point_zero_are_the_same_limit(sinking, text_file):
    here = ["model=local", f"model.path={sinking}", "model.window=24", "corpus=text", f"corpus.path={text_file}"]
    ids = [build(composed(*here, f"model.outlier_norm={c}", "n=64", "k=4"), "x").spec.run_id for c in ("5", "5.0", "6")]
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize(
    "given", ["eval.tokens=some", "model.outlier_norm=1", "model.outlier_norm=-3", "cache_dtype=float8"]
)
def test_a_setting_out_of_range_is_one_line(given):
    done = call("sweep", given, code=1)
    assert done.stderr.startswith(f"error: {given.split('=')[0]}") and done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def indifferent(tmp_path_factory, tokenizer):
    """The folder of an untrained model: replacing its activations costs it nothing that is clear."""
    folder = tmp_path_factory.mktemp("models") / "indifferent"
    random_model("llama").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_where_ablation_costs_nothing_ce_recovered_is_undefined_said_at_once_and_never_ranked(
    tmp_path, indifferent, text_file, capsys
):
    world = World(tmp_path, indifferent, text_file)
    code, out, err = world.sweep("-m", "d=3,5")
    assert code == 0 and out.count("undefined") == 2, out
    (warning,) = [line for line in err.splitlines() if "ce_recovered is undefined" in line]
    assert warning.startswith("warning: indifferent, layer 1: ce_recovered is undefined: zero ablation takes")
    for record in world.records():
        log = (world.runs / record["run_id"] / "run.log").read_text()
        assert log.index("ce_recovered is undefined") < log.index("training expander")
        assert record["metrics"]["ce_recovered"] is None and record["metrics"]["kl"] >= 0
    code, out, _ = world.sweep("-m", "hydra/sweeper=optuna_frontier", "d=3,5", "hydra.sweeper.n_trials=2")
    assert code == 1 and "CE recovered is undefined, so the run has no rank" in out
    with pytest.raises(ValueError, match="no complete run"):
        Records.read(world.runs).everything  # noqa: B018
    assert "2 run(s) left out, whose CE recovered is undefined" in capsys.readouterr().err
