"""Probing through the command line: asked for in a launch, or added to a finished run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_core import io
from sae_core.inference import infer_by
from sweep.corpus.windows import Windows
from sweep.probing.scores import Items, code_scores, raw_scores
from sweep.probing.sets import EACH_TOKEN, LAST_TOKEN, MEAN_OF_TOKENS, Family, ProbeSet
from sweep.store.records import iterate_records, read_record
from tests.sweep.test_inference import SMALL, call


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folders, text_file):
    folder = tmp_path_factory.mktemp("probing")
    given = [f"model.path={model_folders['gpt_neox']}", f"corpus.path={text_file}"]
    return folder / "runs", [*SMALL, *given, f"runs_dir={folder / 'runs'}", f"cache_dir={folder / 'cache'}"]


@pytest.fixture(scope="module")
def probed(place):
    """The store and arguments of `place`, with a run that was probed."""
    runs, arguments = place
    call("sweep", *arguments, "eval.inference=[mp_refit]", "eval.probing=[code]")
    return runs, arguments


def test_probing_is_recorded_and_can_be_added_to_a_finished_run(probed):
    runs, arguments = probed
    ((_, record),) = iterate_records(runs)
    found = record["probing"]["code"]
    assert set(found["readings"]) == {"encoder", "mp_refit"} and "error" not in found
    for of in (*found["readings"].values(), found["raw"]):
        assert set(of) == {
            "in a string",
            "in a comment",
            "in a def line",
            "in an import",
            "in brackets",
            "indented twice",
        }
        assert all(0 <= value <= 1 for one in of.values() for values in one.values() for value in values)
    assert set(found["raw"]["in a string"]) == {"1", "2", "5", "all"}
    run_id = record["run_id"]
    done = call("sweep.evaluate", f"run={run_id}", "eval.inference=[omp]", "eval.probing=[code]", f"runs_dir={runs}")
    assert "not measured" not in done.stdout
    score = np.mean([five["5"] for five in found["readings"]["encoder"].values()])
    assert "told code" in done.stdout and f"{score:.3f}" in done.stdout and ".5 is chance" in done.stdout
    after = read_record(runs, run_id)["probing"]["code"]
    assert set(after["readings"]) == {"encoder", "mp_refit", "omp"} and after["raw"] == found["raw"]
    assert after["readings"]["encoder"] == found["readings"]["encoder"]
    again = call("sweep", *arguments, "eval.probing=[code]")
    assert "skipped: done" in again.stdout


def test_an_unknown_family_ends_in_one_line(place):
    _, arguments = place
    done = call("sweep", *arguments, "eval.probing=[colours]", code=1)
    assert "colours is none of code, texts" in done.stderr and "Traceback" not in done.stderr


def family(pooling):
    """Three windows of tokens, of which the last has two real ones."""
    windows = Windows(np.arange(12).reshape(3, 4), np.array([4, 4, 2]))
    count = 10 if pooling == EACH_TOKEN else 3
    sets = (ProbeSet("s", np.arange(count), np.arange(count) % 2 == 0, np.arange(count) < count // 2),)
    return Family("f", windows, sets, pooling)


def test_items_leave_out_tokens_that_are_not_measured():
    h = torch.arange(24.0).view(3, 4, 2)
    measured = np.ones((3, 4), dtype=bool)
    measured[:, 0] = False
    tokens = Items(family(EACH_TOKEN), lambda part: h[part], measured)
    rows, labels, _ = tokens.of(tokens.family.sets[0])
    assert tokens.h.tolist() == [*h[0, 1:].tolist(), *h[1, 1:].tolist(), *h[2, 1:2].tolist()]
    assert rows.tolist() == list(range(7)) and labels.tolist() == [False, True, False, False, True, False, False]
    texts = Items(family(MEAN_OF_TOKENS), lambda part: h[part], measured)
    pooled = texts.pooled(texts.h.numpy())
    assert np.allclose(pooled, [h[0, 1:].mean(0), h[1, 1:].mean(0), h[2, 1]])
    measured[1, 3] = measured[2] = False
    ends = Items(family(LAST_TOKEN), lambda part: h[part], measured)
    assert np.allclose(ends.pooled(ends.h.numpy()), [h[0, 3], h[1, 2], h[2, 0] * 0])  # no token of the last is measured


def test_scores_are_of_the_codes_that_the_reading_finds(probed, monkeypatch):
    runs, _ = probed
    ((_, record),) = iterate_records(runs)
    sae = io.load(runs / record["run_id"])
    seen = []
    monkeypatch.setattr(
        "sweep.probing.scores.scores",
        lambda values, labels, test, best: seen.append((values, labels, best)) or {"1": [1.0]},
    )
    h = torch.randn(3, 4, sae.dictionary.d_in, generator=torch.Generator().manual_seed(0))
    items = Items(family(EACH_TOKEN), lambda part: h[part], family(EACH_TOKEN).windows.mask())
    reader = infer_by(sae, "mp_refit")
    assert code_scores(reader, items) == {"s": {"1": [1.0]}}
    with torch.no_grad():
        codes, indices = reader.encode(items.h)
    dense = torch.zeros(10, sae.dictionary.n_latents).scatter_(1, indices, codes)
    assert np.allclose(seen[0][0].toarray(), dense.numpy()) and seen[0][2] == (1, 2, 5)
    monkeypatch.setattr(
        "sweep.probing.scores.scores", lambda values, labels, test, best: {str(count): [0.5] for count in best}
    )
    assert raw_scores(items) == {"s": {"1": [0.5], "2": [0.5], "5": [0.5], "all": [0.5]}}
