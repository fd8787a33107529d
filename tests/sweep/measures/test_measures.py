"""Every measure is computed here in a second way: with plain transformers, plain loops and full-size tensors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from sae_core.arms import Expander
from sweep.corpus import TextCorpus
from sweep.corpus.windows import WindowConfig, held_out_windows
from sweep.lm.find import ModelConfig, find_model
from sweep.lm.model import load_lm
from sweep.measures.baselines import baselines
from sweep.measures.config import EvaluationError
from sweep.measures.measures import CleanPass, evaluate

LAYER = 1


@pytest.fixture(params=["gpt_neox", "llama"])
def setting(request, model_folders, text_file, tokenizer):
    """(the LM, held-out windows, the same model as transformers loads it)."""
    folder = model_folders[request.param]
    config = ModelConfig(name="t", path=str(folder), window=24)
    lm = load_lm(config, find_model(config), torch.device("cpu"))
    windows = held_out_windows(TextCorpus(str(text_file), held_out_fraction=0.1), tokenizer, WindowConfig(24), 40)
    assert windows.lengths.min() < 24  # padded windows take part
    return lm, windows, AutoModelForCausalLM.from_pretrained(folder).eval()


def ce_with(model, windows, replace):
    """Return (cross-entropy per predicted token, log probabilities) of windows that run one by one and unpadded.

    `replace` maps the output of block LAYER to what takes its place.
    """
    blocks = model.gpt_neox.layers if hasattr(model, "gpt_neox") else model.model.layers

    def hook(_module, _inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output
        new = replace(hidden[0])[None]
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = blocks[LAYER].register_forward_hook(hook)
    total, count, logits_of = 0.0, 0, []
    with torch.no_grad():
        for row, length in zip(windows.tokens, windows.lengths, strict=True):
            ids = torch.from_numpy(row[:length])[None]
            logits = model(ids).logits[0, :-1]
            total += float(F.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += length - 1
            logits_of.append(logits.log_softmax(-1))
    handle.remove()
    return total / count, torch.cat(logits_of)


def test_all_measures_agree_with_an_independent_computation(setting, tmp_path):
    lm, windows, model = setting
    mean = torch.randn(32)
    sae = Expander(128, 5, 6).build(32, seed=0, scale=0.8)
    base = baselines(lambda: lm, LAYER, windows, mean, 8, tmp_path, "k")
    got = evaluate(sae, CleanPass(lm, LAYER, windows, 8), base)
    clean, log_p = ce_with(model, windows, lambda h: h)
    zero, _ = ce_with(model, windows, torch.zeros_like)
    mean_ce, _ = ce_with(model, windows, lambda h: mean.expand_as(h))
    seen = []

    def reconstruct(h):
        seen.append(h.clone())
        return sae(h).reconstruction

    patched, log_q = ce_with(model, windows, reconstruct)
    near = {"rel": 1e-4}
    assert got["ce_clean"] == pytest.approx(clean, **near)
    assert got["ce_zero"] == pytest.approx(zero, **near)
    assert got["ce_mean"] == pytest.approx(mean_ce, **near)
    assert got["ce_sae"] == pytest.approx(patched, **near)
    assert got["delta_ce"] == pytest.approx(patched - clean, abs=1e-4)
    assert got["ce_recovered"] == pytest.approx((zero - patched) / (zero - clean), rel=1e-2)
    assert got["ce_recovered_mean"] == pytest.approx((mean_ce - patched) / (mean_ce - clean), rel=1e-2)
    assert got["kl"] == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(-1).mean()), rel=1e-3)
    h = torch.cat(seen)
    with torch.no_grad():
        r = sae(h).reconstruction
    assert got["tokens"] == len(h) == windows.n_tokens
    assert got["predicted_tokens"] == windows.n_tokens - len(windows.lengths)
    assert got["relative_error"] == pytest.approx(float(((h - r).norm(dim=1) / h.norm(dim=1)).mean()), **near)
    fvu = float((h - r).square().sum() / (h - h.mean(0)).square().sum())
    assert got["fvu"] == pytest.approx(fvu, **near)


def test_baselines_are_measured_once(setting, tmp_path):
    lm, windows, _ = setting
    first = baselines(lambda: lm, LAYER, windows, torch.zeros(32), 8, tmp_path, "k")

    def never():
        raise AssertionError("the baselines must be read back without the LM")

    assert baselines(never, LAYER, windows, torch.zeros(32), 8, tmp_path, "k") == first
    with pytest.raises(AssertionError):
        baselines(never, LAYER + 1, windows, torch.zeros(32), 8, tmp_path, "k")
    assert first.ce_mean == pytest.approx(first.ce_zero)  # because the mean given is zero


def test_a_remembered_clean_pass_changes_no_measure(setting, tmp_path, monkeypatch):
    lm, windows, _ = setting
    base = baselines(lambda: lm, LAYER, windows, torch.zeros(32), 8, tmp_path, "k")
    clean = CleanPass(lm, LAYER, windows, 8)
    saes = [Expander(128, 5, 6).build(32, seed=seed) for seed in (0, 1)]
    kept = [evaluate(sae, clean, base) for sae in (*saes, *saes)]
    assert kept[:2] == kept[2:] and kept[0] != kept[1]
    monkeypatch.setattr(CleanPass, "KEPT_BYTES", 0)
    forgetful = CleanPass(lm, LAYER, windows, 8)
    assert [evaluate(sae, forgetful, base) for sae in saes] == kept[:2]
    assert len(clean._kept) == -(-len(windows.tokens) // 8) and not forgetful._kept


def test_a_reconstruction_that_is_not_finite_is_an_error(setting, tmp_path):
    lm, windows, _ = setting
    sae = Expander(128, 5, 6).build(32, seed=0)
    base = baselines(lambda: lm, LAYER, windows, torch.zeros(32), 8, tmp_path, "k")
    with torch.no_grad():
        sae.b_dec.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="is nan"):
        evaluate(sae, CleanPass(lm, LAYER, windows, 8), base)
