"""Every measure is computed here in a second way: with plain transformers, plain loops and full-size tensors."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from sae_core.arms import Expander
from sweep.corpus import TextCorpus
from sweep.corpus.windows import WindowConfig, held_out_windows
from sweep.lm.find import ModelConfig, find_model
from sweep.lm.losses import cross_entropies, kl_divergences, log_normalisers
from sweep.lm.model import load_lm
from sweep.lm.ordinary import OrdinaryTokens
from sweep.measures.baselines import Baselines, baselines
from sweep.measures.clean import CleanPass, batch_size_within, hidden_of
from sweep.measures.config import EvaluationError
from sweep.measures.measures import Reading, ReadingRequest, held_out_codes, measure_together
from sweep.measures.positions import ALL, Positions

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


def pass_of(lm, windows, batch_size, positions=ALL, layer=LAYER):
    """Return the unchanged LM on the windows, from the hook point up."""
    hidden = hidden_of(lm, layer, windows, batch_size)
    return CleanPass(lambda: lm, layer, windows, hidden, batch_size, positions)


def evaluate(sae, clean, base, inference="encoder"):
    """Return the metrics of one reading, measured alone."""
    reading = Reading(sae, inference, base, clean.positions.mask_policy)
    measure_together(clean, [ReadingRequest([reading], lambda done, total: None)])
    return reading.result()["metrics"]


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
    base = baselines(pass_of(lm, windows, 8), mean, tmp_path, "k")
    got = evaluate(sae, pass_of(lm, windows, 8), base)
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
    first = baselines(pass_of(lm, windows, 8), torch.zeros(32), tmp_path, "k")

    def never():
        raise AssertionError("the baselines must be read back without the LM")

    clean = pass_of(lm, windows, 8)
    clean._lm = never
    assert baselines(clean, torch.zeros(32), tmp_path, "k") == first
    other = pass_of(lm, windows, 8, layer=LAYER + 1)
    other._lm = never
    with pytest.raises(AssertionError):
        baselines(other, torch.zeros(32), tmp_path, "k")
    assert first.ce_mean == pytest.approx(first.ce_zero)  # because the mean given is zero


def test_a_remembered_clean_pass_changes_no_measure(setting, tmp_path, monkeypatch):
    lm, windows, _ = setting
    base = baselines(pass_of(lm, windows, 8), torch.zeros(32), tmp_path, "k")
    clean = pass_of(lm, windows, 8)
    saes = [Expander(128, 5, 6).build(32, seed=seed) for seed in (0, 1)]
    kept = [evaluate(sae, clean, base) for sae in (*saes, *saes)]
    assert kept[:2] == kept[2:] and kept[0] != kept[1]
    monkeypatch.setattr(CleanPass, "KEPT_BYTES", 0)
    forgetful = pass_of(lm, windows, 8)
    assert [evaluate(sae, forgetful, base) for sae in saes] == kept[:2]
    assert len(clean._kept) == -(-len(windows.tokens) // 8) and not forgetful._kept


def test_a_reconstruction_that_is_not_finite_is_an_error(setting, tmp_path):
    lm, windows, _ = setting
    sae = Expander(128, 5, 6).build(32, seed=0)
    base = baselines(pass_of(lm, windows, 8), torch.zeros(32), tmp_path, "k")
    with torch.no_grad():
        sae.b_dec.fill_(float("nan"))
    with pytest.raises(EvaluationError, match="is nan"):
        evaluate(sae, pass_of(lm, windows, 8), base)


SPECIAL = (0, 289)  # the token id that opens a document, and one that stands everywhere


def lengthen_the_first_token(block):
    """Make the first token of every window an attention sink after `block`: two hundred times as long."""

    def hook(_module, _inputs, output):
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, 0] *= 200.0
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    block.register_forward_hook(hook)


def with_sinks(setting):
    """Return (LM, windows, the plain model), both with sinks, and the positions that leave sinks and SPECIAL alone."""
    lm, windows, model = setting
    blocks = model.gpt_neox.layers if hasattr(model, "gpt_neox") else model.model.layers
    for block in (lm.blocks[LAYER], blocks[LAYER]):
        lengthen_the_first_token(block)
    norms = lm.capture(torch.from_numpy(windows.tokens), [LAYER])[LAYER].norm(dim=-1)
    limit = 5 * float(norms[torch.from_numpy(windows.mask())].median())
    return lm, windows, model, Positions(OrdinaryTokens(SPECIAL, limit), all_tokens=False)


def at_ordinary(windows, limit, change):
    """Return a `replace` for `ce_with` that changes tokens neither long nor SPECIAL, and a list of those it changed."""
    rows, seen = iter(zip(windows.tokens, windows.lengths, strict=True)), []

    def replace(h):
        ids, length = next(rows)
        new = h.clone()
        for t in range(length):
            if ids[t] not in SPECIAL and float(h[t].norm()) <= limit:
                seen.append(h[t].clone())
                new[t] = change(h[t][None])[0]
        return new

    return replace, seen


def test_with_sinks_only_ordinary_tokens_are_replaced_ablated_and_measured(setting, tmp_path):
    lm, windows, model, positions = with_sinks(setting)
    mean, limit = torch.randn(32), positions.ordinary.norm_limit
    sae = Expander(128, 5, 6).build(32, seed=0, scale=0.8)
    base = baselines(pass_of(lm, windows, 8, positions), mean, tmp_path, "k")
    got = evaluate(sae, pass_of(lm, windows, 8, positions), base)
    clean, _ = ce_with(model, windows, lambda h: h)
    replace, seen = at_ordinary(windows, limit, lambda h: sae(h).reconstruction)
    patched, _ = ce_with(model, windows, replace)
    zero, _ = ce_with(model, windows, at_ordinary(windows, limit, torch.zeros_like)[0])
    mean_ce, _ = ce_with(model, windows, at_ordinary(windows, limit, lambda h: mean[None])[0])
    near = {"rel": 1e-4}
    assert got["ce_clean"] == pytest.approx(clean, **near)
    assert got["ce_zero"] == pytest.approx(zero, **near)
    assert got["ce_mean"] == pytest.approx(mean_ce, **near)
    assert got["ce_sae"] == pytest.approx(patched, **near)
    h = torch.stack(seen)
    with torch.no_grad():
        r = sae(h).reconstruction
    assert len(h) < windows.n_tokens - len(windows.lengths)
    assert got["tokens"] == len(h) and got["mask_policy"] == "ordinary_tokens"
    assert got["not_ordinary_fraction"] == pytest.approx(1 - len(h) / windows.n_tokens)
    assert got["fvu"] == pytest.approx(float((h - r).square().sum() / (h - h.mean(0)).square().sum()), **near)
    assert got["l0"] == pytest.approx(float((sae(h).codes != 0).sum(1).double().mean()), **near)
    every = pass_of(lm, windows, 8, Positions(positions.ordinary, all_tokens=True))
    of_all = evaluate(sae, every, baselines(pass_of(lm, windows, 8), mean, tmp_path, "k"))
    assert of_all["tokens"] == windows.n_tokens and of_all["mask_policy"] == "all_tokens"
    assert of_all["not_ordinary_fraction"] == got["not_ordinary_fraction"]
    assert abs(of_all["ce_zero"] - got["ce_zero"]) > 1e-3 and of_all["fvu"] != pytest.approx(got["fvu"], rel=0.1)


def windows_that_run(lm, do):
    """Return how many windows go through the block above the hook point when `do` is called."""
    ran = []
    handle = lm.blocks[LAYER + 1].register_forward_hook(lambda _m, given, _o: ran.append(len(given[0])))
    do()
    handle.remove()
    return sum(ran)


def test_windows_that_an_ablation_makes_alike_run_once(setting, tmp_path, monkeypatch):
    lm, windows, _ = setting
    lm.why_whole(LAYER)
    firsts = tuple(set(windows.tokens[:, 0].tolist()))
    keep_firsts = Positions(OrdinaryTokens(firsts, float("inf")), all_tokens=False)
    kept = [
        tuple((at, int(t)) for at, t in enumerate(row[:length]) if t in firsts)
        for row, length in zip(windows.tokens, windows.lengths, strict=True)
    ]
    # Activations that are left are alike only where all before them are left too, or at the first token.
    lengths = windows.lengths.tolist()
    alike = {(lengths[i], left if all(at == 0 for at, _ in left) else i) for i, left in enumerate(kept)}
    count = len(kept)

    def measured(name, positions):
        return baselines(pass_of(lm, windows, 8, positions), torch.ones(32), tmp_path / name, "k")

    assert windows_that_run(lm, lambda: measured("all", ALL)) == count + 2 * len(set(windows.lengths)) < 3 * count
    runs = windows_that_run(lm, lambda: measured("firsts", keep_firsts))
    assert runs == count + 2 * len(alike)
    monkeypatch.setattr(lm, "uses_tokens", lambda layer: True)
    assert windows_that_run(lm, lambda: measured("each", ALL)) == 3 * count
    measured("each firsts", keep_firsts)
    for name, positions in (("all", ALL), ("firsts", keep_firsts)):
        each = measured("each" if positions is ALL else "each firsts", positions)
        for field, value in asdict(each).items():
            assert value == pytest.approx(asdict(measured(name, positions))[field], rel=1e-6)


def test_nothing_fires_on_tokens_that_are_not_measured(setting):
    lm, windows, _, positions = with_sinks(setting)
    sae = Expander(128, 5, 6).build(32, seed=0, scale=0.8)
    found = held_out_codes(sae, pass_of(lm, windows, 8, positions))
    assert len(found.measured) == windows.n_tokens and 0 < int(found.measured.sum()) < windows.n_tokens
    assert bool((found.activity.latents[~found.measured] == -1).all())
    assert found.measured_activity.tokens.tolist() == found.activity.tokens[found.measured].tolist()
    h = lm.capture(torch.from_numpy(windows.tokens), [LAYER])[LAYER][torch.from_numpy(windows.mask())][found.measured]
    assert torch.equal(found.indices[found.measured].sort().values, sae.encode(h)[1].sort().values)


def test_a_window_of_sinks_alone_is_measured_as_nothing(setting, tmp_path):
    lm, windows, *_ = setting
    nothing = Positions(OrdinaryTokens((), 0.0), all_tokens=False)
    base = baselines(pass_of(lm, windows, 8, nothing), torch.zeros(32), tmp_path, "k")
    assert base.ce_zero == base.ce_clean and base.undefined()
    sae = Expander(128, 5, 6).build(32, seed=0)
    few = Positions(
        OrdinaryTokens(tuple(range(1, 400)), float("inf")), all_tokens=False
    )  # in some batches there is none
    got = evaluate(sae, pass_of(lm, windows, 1, few), base)
    assert got["ce_recovered"] is None and got["ce_recovered_mean"] is None and got["delta_ce"] is not None
    assert got["tokens"] == int((windows.tokens[windows.mask()] == 0).sum()) > 0


def test_the_standard_error_of_an_ablations_cost_is_that_of_the_paired_difference(setting, tmp_path):
    lm, windows, model = setting
    got = baselines(pass_of(lm, windows, 8), torch.zeros(32), tmp_path, "k")
    clean, zero = (ce_with(model, windows, change)[1] for change in (lambda h: h, torch.zeros_like))
    follow = torch.cat([torch.from_numpy(r[1:n]) for r, n in zip(windows.tokens, windows.lengths, strict=True)])
    cost = (clean - zero).gather(1, follow[:, None]).double()
    assert got.ce_zero_se == pytest.approx(float(cost.std() / len(cost) ** 0.5), rel=1e-4)
    assert got.costs("zero") and not got.undefined()


@pytest.mark.parametrize(
    "zero, error, defined",
    [(6.24, 0.02, False), (7.05, 0.0, False), (7.1, 0.02, False), (7.2, 0.02, True), (7.1, None, True)],
)
def test_a_cost_that_is_not_clearly_positive_makes_ce_recovered_undefined(zero, error, defined):
    base = Baselines(7.05, zero, 9.0, 1000, error, 0.02)
    assert base.costs("zero") == defined and base.costs("mean")
    said = base.undefined()
    assert len(said) == (0 if defined else 1)
    assert defined or said[0].startswith(
        f"ce_recovered is undefined: zero ablation takes the LM's cross-entropy from 7.0500 to {zero:.4f}"
    )


def test_logits_that_are_not_finite_are_an_error_of_the_baselines(setting, tmp_path):
    lm, windows, _ = setting
    lm.blocks[2].register_forward_hook(times_nan)
    with pytest.raises(EvaluationError, match="layer=1: ce_clean is nan: the LM's logits are not finite"):
        baselines(pass_of(lm, windows, 8), torch.zeros(32), tmp_path, "k")


def times_nan(_module, _inputs, output):
    return (output[0] * float("nan"), *output[1:]) if isinstance(output, tuple) else output * float("nan")


def test_readings_of_several_saes_measured_together_are_those_measured_alone(setting, tmp_path, monkeypatch):
    monkeypatch.setattr(CleanPass, "KEPT_BYTES", 0)
    lm, windows, _ = setting
    base = baselines(pass_of(lm, windows, 8), torch.zeros(32), tmp_path, "k")
    saes = [Expander(128, 5, 6).build(32, seed=seed) for seed in (0, 1)]
    broken = Expander(128, 5, 6).build(32, seed=2)
    with torch.no_grad():
        broken.b_dec.fill_(float("nan"))
    clean, ticks, runs = pass_of(lm, windows, 8), [], []
    requests = [
        ReadingRequest(
            [Reading(sae, name, base, "all_tokens") for name in ("encoder", "mp_refit")],
            lambda done, total: ticks.append((done, total)),
        )
        for sae in (saes[0], broken, saes[1])
    ]
    handle = lm.blocks[LAYER + 1].register_forward_hook(lambda *_: runs.append(1))
    measure_together(clean, requests)
    handle.remove()
    batches = -(-len(windows.tokens) // 8)
    # Each batch: the clean pass once, and each reading once. The first batch's reading ends where a NaN stops it.
    assert len(runs) <= batches * 7 and len(runs) >= batches * 5
    assert ticks[-1] == (len(windows.tokens), len(windows.tokens)) and len(ticks) == 3 * batches
    for request, sae in ((requests[0], saes[0]), (requests[2], saes[1])):
        for reading in request.readings:
            alone = evaluate(sae, clean, base, reading.inference)
            assert reading.result()["metrics"] == alone
    with pytest.raises(EvaluationError, match="is nan"):
        requests[1].readings[0].result()


def test_the_way_from_the_hook_point_up_and_the_whole_way_give_the_same_figures(setting, tmp_path):
    lm, windows, _ = setting
    sae = Expander(128, 5, 6).build(32, seed=0)
    entered = baselines(pass_of(lm, windows, 8), torch.zeros(32), tmp_path / "entered", "k")
    measured = evaluate(sae, pass_of(lm, windows, 8), entered)
    lm._entrances[LAYER] = lm._entrances[LAYER]._replace(why_not="a test wants it so")
    whole = baselines(pass_of(lm, windows, 8), torch.zeros(32), tmp_path / "whole", "k")
    assert whole == entered and evaluate(sae, pass_of(lm, windows, 8), whole) == measured


@pytest.mark.parametrize("vocabulary", [7, 3000])
def test_losses_and_divergences_a_few_rows_at_a_time_are_those_of_whole_logits(vocabulary, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    clean, logits = (3 * torch.randn(5, 24, vocabulary, generator=draw) for _ in range(2))
    tokens = torch.randint(0, vocabulary, (5, 24), generator=draw)
    log_p, log_q = clean[:, :-1].log_softmax(-1), logits[:, :-1].log_softmax(-1)
    for values in (1, 20_000, 1 << 27):  # one row at a time, a part of a window, all windows
        monkeypatch.setattr("sweep.lm.losses._ON_CPU", values)
        ours, theirs = log_normalisers(logits), log_normalisers(clean)
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(5, 23)
        torch.testing.assert_close(cross_entropies(logits, tokens, ours), losses)
        wanted = (log_p.exp() * (log_p - log_q)).sum(-1)
        torch.testing.assert_close(kl_divergences(clean, theirs, logits, ours), wanted, rtol=1e-4, atol=1e-5)
    a, b = clean.bfloat16(), logits.bfloat16()  # what is rounded is computed with in float32
    log_p, log_q = a[:, :-1].float().log_softmax(-1), b[:, :-1].float().log_softmax(-1)
    half = kl_divergences(a, log_normalisers(a), b, log_normalisers(b))
    torch.testing.assert_close(half, (log_p.exp() * (log_p - log_q)).sum(-1), rtol=1e-4, atol=1e-5)


def test_fewer_windows_run_together_where_their_logits_would_be_large():
    assert batch_size_within(16, 128, 4096, 4) == 16
    assert batch_size_within(16, 128, 49152, 4) == 10
    assert batch_size_within(16, 128, 49152, 2) == 16
    assert batch_size_within(8, 2048, 151936, 2) == 1
    assert batch_size_within(8, 128, None, 4) == 8
