"""SAEs of a synthetic model through the command line: trained, stored, measured, and measured further."""

from __future__ import annotations

import pytest
import torch

from sae_core import io
from sae_core.inference import infer_by
from sweep.store.records import COMPLETE, SYNTHETIC, iterate_records, read_record
from sweep.synthetic.config import SyntheticConfig, held_out_samples
from sweep.synthetic.model import SyntheticModel
from tests.sweep.test_inference import call
from tests.sweep.world import composed

SIZES = {"d_in": 32, "n_features": 60, "roots": 3, "branching": 2, "depth": 2, "window": 50}
RATES = {"max_prob": 0.3, "min_prob": 0.03}
MODEL = ["model=synthetic", *(f"model.{key}={value}" for key, value in {**SIZES, **RATES}.items())]
CELL = ["d=7", "k=4", "n=2m", "train.steps=60", "train.batch_size=32", "corpus.train_tokens=2000", "eval.windows=12"]
SMALL = [*MODEL, *CELL, "threads=1", "tracker.mode=disabled", "hydra/launcher=basic"]
ARMS = "expander,dense_tied,frozen_random,dynamic,pruned_retuned,dense_matched,expander_quantised,dense_randinit,pca"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    return folder / "runs", [*SMALL, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]


@pytest.fixture(scope="module")
def launched(place):
    """Launch many arms; give what the terminal showed and the records by arm."""
    runs, arguments = place
    done = call("sweep", "-m", *arguments, f"sae={ARMS}", "eval.inference=[encoder,mp_refit]")
    return done, {record["labels"]["arm"]: record for _, record in iterate_records(runs)}


def test_every_arm_and_reading_runs_on_it(launched):
    done, records = launched
    names = "expander dense_tied frozen_random dynamic pruned_retuned dense_matched expander-8bit dense_randinit pca"
    assert set(records) == set(names.split())
    assert {record["status"] for record in records.values()} == {COMPLETE}
    for record in records.values():
        assert record["kind"] == SYNTHETIC and record["labels"]["model"] == "synthetic"
        assert record["spec"]["synthetic"]["n_features"] == 60
        assert {"coverage", "feature_f1", "absorption", "mcc", "mcc_ceiling", "fvu"} <= record["metrics"].keys()
        assert record["metrics"]["tokens"] == 12 * 50 and "ce_recovered" not in record["metrics"]
        if record["labels"]["arm"] != "pca":
            assert set(record["inference"]) == {"encoder", "mp_refit"}
        assert record["theory"]["flatness_max"]["value"] >= 1 and record["latents"]
    assert "found by mp_refit" in done.stdout and "FVU" in done.stdout and "CE recovered" not in done.stdout


def test_the_figures_are_those_of_plain_loops_over_the_saved_sae(launched, place):
    runs, _ = place
    record = launched[1]["expander"]
    config = SyntheticConfig(**SIZES, **RATES)
    model, sae = SyntheticModel(config), io.load(runs / record["run_id"])
    windows = held_out_samples(config, 12)
    activations = torch.cat([model.activations(int(row[0]) // 50) for row in windows.tokens])
    h = activations @ model.features.vectors + model.features.bias
    for name in ("encoder", "mp_refit"):
        found = record["inference"][name]["metrics"]
        with torch.no_grad():
            reader = infer_by(sae, name)
            codes, indices = reader.encode(h)
            reconstruction = reader.decode(codes, indices)
        fires = torch.zeros(600, 64, dtype=torch.bool).scatter_(1, indices, codes != 0)
        true = activations > 0
        fvu = float((h - reconstruction).square().sum() / (h - h.mean(0)).square().sum())
        assert found["fvu"] == pytest.approx(fvu, rel=1e-3)
        assert found["true_l0"] == pytest.approx(float(true.sum(1).double().mean()))
        assert found["negative_codes"] == pytest.approx(float((codes < 0).sum() / (codes != 0).sum()))
        values = []
        for feature in range(60):
            scores = []
            for half in (slice(0, 300), slice(300, 600)):
                both = (fires[half] & true[half, feature, None]).sum(0)
                scores.append(2 * both / (fires[half].sum(0) + true[half, feature].sum()).clamp_min(1))
            if true[:300, feature].any() and true[300:, feature].any():
                values.append(float(scores[1][scores[0].argmax()]))
        assert found["feature_f1"] == pytest.approx(sum(values) / len(values), abs=0.02)  # ties may fall otherwise
        assert found["coverage"] == pytest.approx(sum(value > 0.5 for value in values) / len(values), abs=0.02)
    cosines = (torch.zeros(64, 32).scatter_(1, sae.dictionary.support, sae.dictionary.unit_values().detach())).abs()
    assert record["metrics"]["mcc"] <= float(cosines.max(1).values.mean()) * 32**0.5
    assert (
        record["metrics"]["mcc"]
        < record["metrics"]["mcc_ceiling"]
        < 1
        == launched[1]["dense_tied"]["metrics"]["mcc_ceiling"]
    )


def test_a_finished_run_is_measured_further_and_nothing_is_trained_twice(launched, place):
    runs, arguments = place
    run_id = launched[1]["expander"]["run_id"]
    call("sweep.evaluate", f"run={run_id}", "eval.inference=[omp]", f"runs_dir={runs}")
    after = read_record(runs, run_id)
    assert set(after["inference"]) == {"encoder", "mp_refit", "omp"}
    assert after["finished"] == launched[1]["expander"]["finished"]
    assert "skipped: done" in call("sweep", "-m", *arguments, "sae=expander,dense_tied").stdout
    assert "features found" in call("sweep.status", "--runs", str(runs)).stdout


def test_its_experiment_runs_at_smoke_size(place):
    runs, arguments = place
    rest = [a for a in arguments if not a.startswith(("runs_dir", "model="))]
    call("sweep", "experiment=meaning/synthetic", *rest, f"runs_dir={runs.parent / 'smoke'}", "seed=0")
    found = {
        (r["labels"]["arm"], r["spec"]["synthetic"]["feature_degree"])
        for _, r in iterate_records(runs.parent / "smoke")
    }
    arms = ("expander", "dynamic", "dense_matched", "frozen_random", "soft_frozen", "dense_tied")
    assert found == {(arm + by, degree) for arm in arms for by in ("", "+mp_refit") for degree in (None, 7)}


def test_the_experiment_of_nested_saes_runs_at_smoke_size(place):
    runs, arguments = place
    rest = [a for a in arguments if not a.startswith(("runs_dir", "model=", "d="))]
    call("sweep", "experiment=meaning/adaptive", *rest, f"runs_dir={runs.parent / 'nested'}", "seed=0")
    found = {r["labels"]["arm"] for _, r in iterate_records(runs.parent / "nested")}
    assert {"dense_tied+batch_topk", "expander:n16:n4-n4", "expander:n16:n4+batch_topk-n4"} <= found


def test_samples_may_come_without_a_pool_on_disk(place):
    runs, arguments = place
    rest = [a for a in arguments if not a.startswith("runs_dir")]
    call("sweep", *rest, f"runs_dir={runs.parent / 'streamed'}", "cache.mode=stream", "cache.buffer=500")
    ((_, record),) = iterate_records(runs.parent / "streamed")
    assert record["status"] == COMPLETE and record["activations"]["stream"]["buffers"] == 4


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("layer=1", "layer=1 must be in 0..0"),
        ("eval.novelty=true", "eval.novelty=True needs an LM"),
        ("eval.contexts=3", "eval.contexts=3 needs an LM"),
        ("model.max_prob=2", "max_prob=2.0"),
        ("model.colour=red", "model.colour"),
        ("d=33", "d=33"),
    ],
)
def test_bad_input_ends_in_one_line(place, override, said):
    _, arguments = place
    key = override.split("=")[0]
    done = call(
        "sweep",
        *(a for a in arguments if a.split("=")[0] != key),
        f"+{override}" if "colour" in key else override,
        code=1,
    )
    assert said in done.stderr and "Traceback" not in done.stderr


def test_a_plan_says_what_it_would_cost(place):
    runs, arguments = place
    done = call("sweep", "-m", *arguments, "sae=expander", "seed=5,6", "plan=true")
    assert "expander" in done.stdout
    assert composed("model=synthetic").model.n_features == 2048
    published = composed("model=synthsaebench")
    assert (published.model.d_in, published.model.n_features) == (768, 16384)
    assert published.corpus._target_ == "sweep.synthetic.SyntheticCorpus"


def test_a_search_is_refused_at_once_as_there_is_no_cross_entropy(place):
    runs, arguments = place
    done = call("sweep", "-m", *arguments, "hydra/sweeper=optuna_frontier", "d=3,7", "seed=9", code=1)
    assert "error: model=synthetic has no LM, and so no ce_recovered to search" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [record for _, record in iterate_records(runs) if record["axes"]["seed"] == 9]
