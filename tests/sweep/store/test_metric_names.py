from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from sae_core.arms import Expander
from sae_core.correlation import code_matrix
from sae_core.quantised import rounding_measures
from sae_core.stability import ReadTokens, stability_measures
from sweep.store.metric_names import PREFIXES, probing_means, stability_means
from sweep.synthetic.config import SyntheticConfig, held_out_samples
from sweep.synthetic.measure import held_out, measure
from sweep.synthetic.model import SyntheticModel

README = Path(__file__).parents[3] / "sweep" / "tracking" / "README.md"


def listed(row):
    """Return the names in the row of the README's table that begins with `row`."""
    (line,) = (line for line in README.read_text().splitlines() if line.startswith(f"| {row}"))
    return set(re.findall(r"`([^`]+)`", line.split("|")[2]))


def test_probing_is_logged_as_means_over_sets_and_draws():
    sets = {"a": {"1": [0.5, 0.7], "5": [0.9, 0.9]}, "b": {"1": [0.8, 0.8], "5": [1.0, 1.0]}}
    raw = {name: {**of, "all": [0.9, 1.0]} for name, of in sets.items()}
    found = probing_means({"code": {"raw": raw, "readings": {"omp": sets}}, "texts": {"error": "no file"}})
    assert found["probing/code/omp/best_1"] == pytest.approx(0.7)
    assert found["probing/code/omp/best_5"] == pytest.approx(0.95) == found["probing/code/raw/best_all"]
    assert set(found) == {
        f"probing/code/{r}/best_{b}" for r, bs in (("omp", "15"), ("raw", ["1", "5", "all"])) for b in bs
    }
    assert {"best_1", "best_5", "best_all"} <= listed("`probing/<family>/<inference>/...`")


def test_stability_is_logged_as_means_over_runs_by_which_seed_differs():
    sae = Expander(32, 3, 4).build(16, seed=0)
    h = torch.randn(400, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        read = ReadTokens(*sae.encode(h), torch.arange(400))
    one = stability_measures(sae.dictionary, read, sae.dictionary, read)
    stability = {"a": {"differs": "all", **one}, "b": {"differs": "order", **one, "pw_mcc": 0.5}}
    stability["c"] = {**stability["b"], "pw_mcc": 0.7, "above_90": None}
    found = stability_means(stability)
    assert found["stability/order/pw_mcc"] == pytest.approx(0.6) and found["stability/all/pw_mcc"] == pytest.approx(1)
    assert found["stability/order/above_90"] == pytest.approx(1)
    names = {name.removeprefix("stability/all/") for name in found if name.startswith("stability/all/")}
    assert names == set(one) == listed("`stability/<differs>/...`") - {"stability/<differs>/..."}


def test_the_readme_lists_what_rounding_changes():
    codes = code_matrix(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.long), 2)
    assert set(rounding_measures(codes, codes)) == listed("`rounding/...`") - {"rounding/..."}
    assert PREFIXES["rounding"] == "rounding/"


def test_the_readme_lists_how_latents_survive():
    codes = code_matrix(torch.ones(3, 1), torch.zeros(3, 1, dtype=torch.long), 2)
    measures = {*rounding_measures(codes, codes), "removed", "survived"}
    assert measures == listed("`survival/...`") - {"survival/..."}
    assert PREFIXES["survival"] == "survival/"


def test_the_readme_lists_what_is_measured_of_known_features():
    config = SyntheticConfig(d_in=16, n_features=20, roots=2, branching=2, depth=1, window=50, min_prob=0.05)
    model = SyntheticModel(config)
    sae = Expander(32, 3, 4).build(16, seed=0)
    found = measure(sae, "encoder", model, held_out(model, held_out_samples(config, 4)), lambda done, total: None)
    of_every_sae = {
        "tokens",
        "relative_error",
        "fvu",
        "explained_variance",
        "l0",
        "dead_fraction",
        "dead_window_tokens",
    }
    assert set(found["metrics"]) - of_every_sae == listed("with `model=synthetic`") - {"eval/...", "model=synthetic"}
    assert torch.is_tensor(model.features.vectors)
