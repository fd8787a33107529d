"""Our sparse file in an LM that SAELens runs, and in its own evaluation, beside its own class on the dense export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_core.arms import Expander
from sae_core.formats import About, export
from sae_core.inference import infer_by

sae_lens: Any = pytest.importorskip("sae_lens", reason="extra bench is not installed")
compact: Any = pytest.importorskip("sae_core.formats.saelens", reason="extra bench is not installed")
lens_lm: Any = pytest.importorskip("tests.benchmarks.lens_lm", reason="extra bench is not installed")
evals: Any = pytest.importorskip("sae_lens.evals", reason="extra bench is not installed")
scaler: Any = pytest.importorskip("sae_lens.training.activation_scaler", reason="extra bench is not installed")
datasets: Any = pytest.importorskip("datasets", reason="extra bench is not installed")

N, D, K, LAYER, WINDOW = 1024, 7, 32, 1, 64
ABOUT = About("embedded", LAYER, WINDOW, "readme", bos=False)
TEXT = (Path(__file__).parents[3] / "README.md").read_text()
FORMS = pytest.mark.parametrize("form", ["hooked", "bridge"])


def ours(encoder: str = "topk") -> Any:
    return Expander(N, D, K, encoder=encoder).build(256, seed=0, scale=0.5).eval()


@pytest.fixture(scope="module")
def windows() -> torch.Tensor:
    _, tokenizer = lens_lm.embedded()
    ids = tokenizer(TEXT).input_ids
    return torch.tensor(ids[: len(ids) // WINDOW * WINDOW]).view(-1, WINDOW)


def replaced_logits(sae: Any, ids: torch.Tensor) -> torch.Tensor:
    """Logits of transformers' own model with the output of the block replaced by our reconstruction of it."""
    model, _ = lens_lm.embedded()

    def edit(module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        found = sae(hidden.flatten(0, 1)).reconstruction.view_as(hidden)
        return (found, *output[1:]) if isinstance(output, tuple) else found

    handle = model.gpt_neox.layers[LAYER].register_forward_hook(edit)
    with torch.no_grad():
        logits = model(ids).logits
    handle.remove()
    return logits


@FORMS
@pytest.mark.parametrize("encoder", ["topk", "mp_refit"])
def test_an_lm_runs_with_it(form, encoder, windows):
    lm, sae, ids = getattr(lens_lm, form)(), ours(encoder), windows[:2]
    spliced = compact.ExpanderSAE.of(sae, ABOUT)
    clean = lm(ids)
    expected = replaced_logits(sae, ids)
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(lm.run_with_saes(ids, saes=[spliced]), expected, **close)
    assert float((expected - clean.detach()).abs().max()) > 1
    lm.add_sae(spliced)
    torch.testing.assert_close(lm(ids), expected, **close)
    lm.reset_saes()
    torch.testing.assert_close(lm(ids), clean)
    lm.add_sae(spliced, use_error_term=True)
    torch.testing.assert_close(lm(ids), clean, **close)
    lm.reset_saes()
    assert spliced.ours.encoder.__class__ is sae.encoder.__class__ and getattr(spliced.ours.encoder, "name", "") == (
        getattr(sae.encoder, "name", "")
    )


@FORMS
def test_its_codes_are_in_the_cache(form, windows):
    lm, sae, ids = getattr(lens_lm, form)(), compact.ExpanderSAE.of(ours(), ABOUT), windows[:2]
    _, cache = lm.run_with_cache_with_saes(ids, saes=[sae])
    (codes,) = (value for key, value in cache.items() if key.endswith("hook_sae_acts_post"))
    (given,) = (value for key, value in cache.items() if key.endswith("hook_sae_input"))
    assert codes.shape == (2, WINDOW, N) and codes.equal(sae.encode(given))
    assert int((codes != 0).sum(-1).amax()) == K


def test_attribution_reaches_latents_that_do_not_fire(windows):
    """Attribution patching with the error term: the gradient of a logit by all codes."""
    lm, sae, found = lens_lm.hooked(), compact.ExpanderSAE.of(ours(), ABOUT), []

    def keep(codes, hook):
        codes.requires_grad_()  # the LM itself takes no gradients
        found.append(codes)
        return codes

    lm.add_sae(sae, use_error_term=True)
    name = f"blocks.{LAYER}.hook_resid_post.hook_sae_acts_post"
    lm.run_with_hooks(windows[:1], fwd_hooks=[(name, keep)])[0, -1, 5].backward()
    (codes,) = found
    assert codes.grad is not None and bool((codes.grad[0, -1] != 0).all()) and bool((codes[0, -1] == 0).any())


@torch.no_grad()
def measured(lm: Any, sae: Any, windows: torch.Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    """What SAELens' evaluation says of an SAE with everything on."""
    rows = datasets.Dataset.from_dict({"tokens": windows.tolist()})
    sizes = {"streaming": False, "store_batch_size_prompts": 4, "total_tokens": len(windows)}
    store = sae_lens.ActivationsStore.from_sae(lm, sae, rows, **sizes)
    config = evals.get_eval_everything_config(4, n_eval_reconstruction_batches=3, n_eval_sparsity_variance_batches=3)
    return evals.run_evals(sae, store, lm, scaler.ActivationScaler(), config, exclude_special_tokens=False)


@pytest.mark.parametrize("encoder", ["topk", "mp_refit"])
def test_its_evaluation_says_of_it_what_it_says_of_its_own_class(encoder, windows, tmp_path):
    sae, lm = infer_by(ours(encoder), "mp") if encoder == "mp_refit" else ours(encoder), lens_lm.hooked()
    export(sae, "saelens", tmp_path, ABOUT)
    dense = sae_lens.SAE.load_from_disk(tmp_path)
    spliced = compact.ExpanderSAE.of(sae, ABOUT)
    if encoder == "mp_refit":
        spliced.fold_W_dec_norm()  # SAELens' pursuit has codes in the units of the input
    found, by_latent = measured(lm, spliced, windows)
    expected, by_latent_expected = measured(lm, dense, windows)
    assert {part: set(values) for part, values in found.items()} == {part: set(v) for part, v in expected.items()}
    near = 1e-4 if encoder == "topk" else 0.02  # theirs may come back to an atom
    for part, values in expected.items():
        assert found[part] == pytest.approx(values, rel=near, abs=near), part
    assert found["sparsity"]["l0"] == pytest.approx(K, rel=near)
    assert set(by_latent) == set(by_latent_expected)
