"""SAEs that SAELens and sparsify trained by their own runners: read, measured and exported as the libraries do."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("sae_lens", reason="extra bench is not installed")
pytest.importorskip("sparsify", reason="extra bench is not installed")
gallery: Any = pytest.importorskip("tests.benchmarks.gallery", reason="extra bench is not installed")
trainers: Any = pytest.importorskip("tests.benchmarks.trainers", reason="extra bench is not installed")

SIZES = trainers.Sizes(n_latents=384, k=8, tokens=20_000)
WINDOWS = 4


@pytest.mark.slow
@pytest.mark.parametrize("train, architecture", trainers.GALLERY, ids=lambda part: getattr(part, "__name__", part))
def test_what_is_read_measured_and_exported_is_what_the_library_reads(train, architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    trained = train(architecture, tmp_path / "sae", SIZES, trainers.text(tokens=SIZES.tokens))
    settings, measured_on = gallery.settings(tmp_path / "cache", WINDOWS), trainers.held_out(windows=WINDOWS)
    row = gallery.taken_through(trained, gallery.Place(tmp_path / "steps", settings, measured_on))
    if architecture == "matching_pursuit":
        assert "architecture=matching_pursuit is none of" in row["refused"]
        return
    assert "refused" not in row and row["l0"] > 0
    for step in ("reading", "exported", "as our file"):
        assert row[step].rest < 1e-5 and row[step].ties <= 2, step
    assert row["CE recovered"] == pytest.approx(row["by the library"], abs=1e-4)
