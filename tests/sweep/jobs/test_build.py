"""Every file of conf/ composes and builds what it names; the embedded weights are what their card says."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

import sweep.launch  # noqa: F401  (registers the resolver)
from sae_core.arms import DenseRandInit
from sae_core.formats import About, export
from sweep.embedded import WEIGHTS
from sweep.jobs.build import build_job
from sweep.jobs.compose import Composer
from sweep.jobs.instantiate import instantiate
from sweep.lm.find import ModelConfig
from sweep.measures.config import EvalConfig
from sweep.plan.plan import make_plan
from sweep.tracking.wandb_tracker import TrackerConfig
from sweep.train.config import TrainConfig
from tests.sweep.world import composed

CONF = Path(__file__).parents[3] / "conf"


def files(group):
    return sorted(p.stem for p in (CONF / group).glob("*.yaml"))


def job(tmp_path, *overrides):
    return build_job(composed(f"cache_dir={tmp_path}", *overrides), "test")


@pytest.mark.parametrize("arm", files("sae"))
def test_every_arm_builds_by_its_own_name(arm, tmp_path):
    given = []
    if arm in ("imported", "compressed"):
        export(DenseRandInit(64, 16).build(256, 0), "saelens", tmp_path / "sae", About("embedded", 1))
        key = "sae.path" if arm == "imported" else "sae.of.of.path"
        given = [f"{key}={tmp_path / 'sae'}", *(["n=64"] if arm == "compressed" else [])]
    built = job(tmp_path, f"sae={arm}", "d=30", "k=16", *given)
    base, bits = arm, ""
    for suffix, said in (
        ("_quantised", "bit"),
        ("_few_bits", "bit_trained"),
        ("_pq", "bit_pq"),
        ("_tcq", "bit_tcq_fourier"),
    ):
        if arm.endswith(suffix):
            base, bits = arm.removesuffix(suffix), f"-{built.spec.arm.bits}{said}"
    if arm == "compressed":
        bits = "-4bit_trained"
    if arm.endswith("_prefix"):
        base, bits = arm.removesuffix("_prefix"), "-n4"
    pursuit = "+mp_magnitude" if arm == "itda" else ""  # it has no one-shot encoder
    start = "_from0" if arm == "compressed" else ""
    assert built.spec.arm.name == base + bits and built.labels["arm"] == base + bits + pursuit + start


@pytest.mark.parametrize("group", ["model", "corpus", "train", "eval", "tracker"])
def test_every_file_of_a_group_builds_what_it_names(group):
    for name in files(group):
        plain = OmegaConf.to_container(composed(f"{group}={name}"), resolve=True)[group]
        for key in ("bos", "train_tokens"):  # settings of the corpus group that go to the windows, not to the text
            plain.pop(key, None)
        if name == "text":
            plain["path"] = __file__
        default = {"model": ModelConfig, "tracker": TrackerConfig}.get(group)
        built = instantiate(plain, group, default=default)
        if group == "model":
            named = name in ("embedded", "local", "synthetic", "synthsaebench") or built.hub_id
            assert built.name.startswith(name) and named
        elif group == "corpus":
            assert built.label.split(":")[0] == name and type(built).__name__.lower() == f"{name}corpus"
        elif group == "tracker":
            assert built == TrackerConfig() and built.mode == "offline"
        else:
            assert built == {"train": TrainConfig, "eval": EvalConfig}[group]()  # the defaults are the paper's


@pytest.mark.parametrize(
    "group, said",
    [
        ({"_target_": "sweep.train.TrainConfig", "speed": 1}, "unknown key train.speed"),
        ({"_target_": "sweep.train.TrainConfig", "steps": "many"}, "train.steps=many must be a whole number"),
        ({"_target_": "sweep.train.Nothing"}, "train._target_=sweep.train.Nothing is no class"),
        ({"_target_": "sweep.measures.EvalConfig"}, "is not a TrainConfig"),
        ({"steps": 5}, "train._target_=None is no class"),
    ],
)
def test_a_group_that_fits_no_signature_is_refused(group, said):
    with pytest.raises(ValueError, match=said):
        instantiate(group, "train", TrainConfig)


def test_a_model_may_choose_its_text_and_the_command_line_and_experiments_still_decide():
    def corpus(*overrides):
        return composed(*overrides).corpus["_target_"].removeprefix("sweep.corpus.")

    assert corpus() == corpus("model=embedded") == corpus("model=pythia-70m") == "StdlibCorpus"
    assert corpus("model=local") == corpus("experiment=frontier", "model=local") == "TextCorpus"
    assert corpus("model=local", "corpus=stdlib") == corpus("corpus=stdlib", "model=local") == "StdlibCorpus"
    assert composed("model=smollm2-135m").corpus == composed("corpus=prose").corpus
    assert corpus("model=smollm2-135m", "corpus=hub") == "HubCorpus"
    assert "defaults" not in composed("model=local").model and list(composed("model=local"))[0] == "layer"


def test_each_cell_of_a_grid_over_models_has_its_own_models_text():
    with initialize_config_module("conf", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        compose = Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))
        texts = [compose([f"model={name}"]).corpus["_target_"] for name in ("embedded", "local", "embedded")]
        assert [text.split(".")[-1] for text in texts] == ["StdlibCorpus", "TextCorpus", "StdlibCorpus"]
        assert compose(["model=local", "corpus=hub"]).corpus["_target_"] == "sweep.corpus.HubCorpus"


def test_arms_that_ignore_the_degree_are_one_run(tmp_path):
    assert job(tmp_path, "sae=dense_tied", "d=3").spec.run_id == job(tmp_path, "sae=dense_tied", "d=7").spec.run_id
    assert job(tmp_path, "d=3").spec.run_id != job(tmp_path, "d=7").spec.run_id


def test_a_whole_number_where_a_number_is_meant_is_the_same_run(tmp_path):
    ids = {
        job(tmp_path, "sae=dynamic", f"sae.drop={drop}", f"train.lr_final={zero}").spec.run_id
        for drop, zero in (("1", "0"), ("1.0", "0.0"))
    }
    assert len(ids) == 1


def test_places_and_helpers_are_not_in_the_run_id(tmp_path):
    plain = job(tmp_path).spec.run_id
    elsewhere = ["runs_dir=/elsewhere", "threads=1", "tracker.mode=disabled", "layers_together=[1]"]
    assert job(tmp_path, *elsewhere, "backend=torch_gather").spec.run_id == plain


def test_a_job_says_its_cell_once(tmp_path):
    asked = job(tmp_path, "d=9", "k=16", "n=4m", "seed=3", "layer=2")
    assert asked.axes == {"layer": 2, "d": 9, "k": 16, "n": 1024, "seed": 3}
    assert asked.sizes == (1024, 9, 16) and asked.title == "expander d=9 k=16 n=1024 L2 s3"
    assert asked.labels == {"model": "embedded", "corpus": "stdlib", "arm": "expander", "sweep": "test"}
    compared = asked.reference
    assert compared.axes == {**asked.axes, "seed": 0} and compared.labels == {**asked.labels, "arm": "dense_tied"}
    assert compared.sizes == (1024, 256, 16) and compared.starts_from is None


def test_the_main_job_is_forty_six_runs_one_shot_and_by_pursuit_with_their_floor(tmp_path):
    sweeper = OmegaConf.load(CONF / "experiment" / "frontier.yaml").hydra.sweeper
    cells: list[list[str]] = []
    for grid in sweeper.grids:
        keys = {key: str(value).split(",") for key, value in {**sweeper.params, **grid}.items()}
        cells += [[f"{key}={value}" for key, value in zip(keys, cell, strict=True)] for cell in product(*keys.values())]
    plan = make_plan([(c, composed(f"cache_dir={tmp_path}", f"runs_dir={tmp_path}", *c)) for c in cells], "t")
    arms = Counter(run.job.labels["arm"] for run in plan.runs)
    one_shot = {"expander": 10, "dense_matched": 7, "dense_tied": 2, "dense_warmtied": 2, "frozen_random": 10}
    by_pursuit = {"expander+mp_refit": 6, "dense_matched+mp_refit": 3, "frozen_random+mp_refit": 6}
    assert arms == one_shot | by_pursuit and sum(arms.values()) == 46
    assert len(plan.left_out) == 6 and plan.runs[0].job.layers_together == (1,)


def test_the_embedded_model_is_small_and_has_a_card():
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 16e6
    card = (WEIGHTS / "README.md").read_text()
    assert "bits/byte" in card and "xz -9e" in card


@pytest.mark.slow
def test_the_embedded_model_beats_xz_as_its_card_says():
    from sweep.embedded.measure import measure_held_out
    from sweep.embedded.recipe import split_documents

    held_out = measure_held_out(WEIGHTS, split_documents()[1])
    assert held_out.bits_per_byte < 0.9 * held_out.xz_bits_per_byte
    assert held_out.nats_per_token < 3.0
