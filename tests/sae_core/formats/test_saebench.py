"""Our sparse file on SAEBench's path for custom SAEs: its core evaluation says of it what it says of the dense export.

Install it by `pip install --no-deps sae-bench tabulate`: its requirements pin numpy below 2. Its core evaluation takes
an LM by its name on a hub; the embedded LM is put in its place. Most of its others load data sets from a hub.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from sae_core.formats import export
from tests.sae_core.formats.test_saelens_lm import ABOUT, TEXT, compact, lens_lm, ours, sae_lens

core: Any = pytest.importorskip("sae_bench.evals.core.main", reason="sae-bench is not installed")


class Local:
    """The class that loads LMs, for an LM that lies here."""

    @staticmethod
    def from_pretrained_no_processing(name: str, **_: Any) -> Any:
        assert name == ABOUT.model
        return lens_lm.hooked()


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A function that evaluates an SAE and returns what SAEBench wrote."""
    monkeypatch.setattr(core, "HookedTransformer", Local)
    monkeypatch.setattr(core.general_utils, "retry_with_exponential_backoff", lambda **_: lambda function: function)
    text = tmp_path / "text"
    text.mkdir()
    rows = [json.dumps({"text": TEXT[start : start + 3000]}) for start in range(0, len(TEXT), 3000)]
    (text / "train.jsonl").write_text("\n".join(rows))

    def evaluated(name: str, sae: Any) -> dict[str, Any]:
        out = tmp_path / name
        sizes = {"eval_batch_size_prompts": 4, "context_size": 64, "device": "cpu"}
        by_latent = dict.fromkeys(("density_statistics", "weight_based_metrics"), True)
        by_latent = {f"compute_featurewise_{key}": value for key, value in by_latent.items()}
        core.multiple_evals([(name, sae)], 2, 2, dataset=str(text), output_folder=str(out), **sizes, **by_latent)
        (file,) = out.glob("*.json")
        return json.loads(file.read_text())["eval_result_metrics"]

    return evaluated


def test_its_core_evaluation_runs_and_agrees_with_the_dense_export(results, tmp_path):
    sae = ours()
    sae.scale.fill_(1.0)  # SAEBench wants atoms of unit norm, and SAELens' TopK cannot be folded to that
    export(sae, "saelens", tmp_path / "export", ABOUT)
    expected = results("dense", sae_lens.SAE.load_from_disk(tmp_path / "export"))
    found = results("compact", compact.ExpanderSAE.of(sae, ABOUT))
    assert found["sparsity"]["l0"] == sae.k and found["model_performance_preservation"]["ce_loss_score"] > 0.5
    for part, values in expected.items():
        assert found[part] == pytest.approx(values, rel=1e-4, abs=1e-4), part


def test_folded_it_has_the_unit_atoms_that_saebench_asks_for(results):
    sae = compact.ExpanderSAE.of(ours("mp_refit"), ABOUT)
    sae.fold_W_dec_norm()
    found = results("folded", sae)
    assert found["sparsity"]["l0"] == pytest.approx(sae.ours.k, rel=0.01)
