"""Any causal LM of transformers is captured and patched after each of its blocks, whatever it calls them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from sweep.lm import outline
from sweep.lm.blocks import find_blocks
from sweep.lm.find import ModelConfig, find_model
from tests.sweep.lm.zoo import BLOCKS, D_MODEL, TOKENS, WITHOUT_A_FINAL_NORM, ZOO

STATE_SPACE = {"mamba"}  # transformers' hidden states of these start after the first block


@pytest.mark.parametrize("architecture", ZOO)
def test_captured_activations_are_the_hidden_states(architecture, zoo, loaded, ids):
    lm, info = loaded(architecture)
    assert (info.d_model, info.n_layers, info.vocabulary) == (D_MODEL, BLOCKS, TOKENS)
    theirs = AutoModelForCausalLM.from_pretrained(zoo(architecture)).eval()
    with torch.inference_mode():
        hidden = theirs(ids, output_hidden_states=True, use_cache=False).hidden_states
    captured = lm.capture(ids, [0, 1, 2])
    after = 0 if architecture in STATE_SPACE else 1
    for layer in (0, 1):
        torch.testing.assert_close(captured[layer], hidden[layer + after])
    last = hidden[2 + after]
    same = last.shape == captured[2].shape and torch.allclose(last, captured[2])
    assert same == (architecture in WITHOUT_A_FINAL_NORM)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma3_with_vision", "opt", "mamba"])
def test_the_blocks_are_found_without_the_weights(architecture, zoo, loaded, monkeypatch):
    lm, _ = loaded(architecture)  # before: it looks for blocks too
    found = []
    monkeypatch.setattr(outline, "find_blocks", lambda *given: found.append(find_blocks(*given)))
    find_model(ModelConfig(name="t", path=str(zoo(architecture)), window=16))
    assert [lm.model.get_submodule(path) for path in found] == [lm.blocks]


@pytest.mark.parametrize("architecture", ZOO)
def test_replacing_activations_by_themselves_leaves_the_logits_exactly_alone(architecture, loaded, ids):
    lm, _ = loaded(architecture)
    for layer in (0, 2):
        clean = lm.logits(ids, layer, lambda h: None)
        own = lm.capture(ids, [layer])[layer]
        assert torch.equal(lm.logits(ids, layer, lambda h, own=own: own), clean)
        assert not torch.allclose(lm.logits(ids, layer, torch.zeros_like), clean)
        assert torch.equal(lm.logits(ids, layer, lambda h: None), clean)  # no hook is left behind


@pytest.mark.parametrize("architecture", ZOO)
def test_the_pass_from_the_hook_point_up_equals_the_whole_pass_to_the_last_bit(architecture, loaded, ids):
    lm, _ = loaded(architecture)
    for layer in range(BLOCKS):
        hidden = lm.capture(ids, [layer])[layer]
        for given in (hidden, torch.zeros_like(hidden), hidden.flip(1)):
            assert torch.equal(lm.logits_from(ids, layer, given), lm.logits(ids, layer, lambda _, given=given: given))
        assert lm.why_whole(layer) is None and not lm.uses_tokens(layer)
        assert torch.equal(lm.logits(ids, layer, lambda h: None), lm.logits_from(ids, layer, hidden))


def test_the_blocks_below_the_hook_point_do_not_run(loaded, ids):
    lm, _ = loaded("llama")
    hidden = lm.capture(ids, [1])[1]
    lm.why_whole(1)
    ran = []
    handles = [block.mlp.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(lm.blocks)]
    lm.logits_from(ids, 1, hidden)
    assert ran == [2]
    for handle in handles:
        handle.remove()


def test_a_model_whose_later_blocks_look_at_the_token_ids_is_found_out(loaded, ids, monkeypatch):
    lm, _ = loaded("mistral")
    monkeypatch.setattr(lm, "_entrances", {})
    embed, seen = lm.model.get_input_embeddings(), []
    handles = [
        embed.register_forward_hook(lambda _m, _i, output: seen.append(output)),
        lm.blocks[2].register_forward_hook(lambda _m, _i, output: output + seen[-1]),  # as Gemma 3n's blocks do
    ]
    assert lm.uses_tokens(1) and lm.why_whole(1) is None
    for handle in handles:
        handle.remove()


def test_a_model_whose_blocks_share_more_than_the_residual_stream_runs_as_a_whole(loaded, ids, monkeypatch):
    lm, _ = loaded("mistral")
    monkeypatch.setattr(lm, "_entrances", {})  # other tests have entered it
    first, last, kept = lm.blocks[0], lm.blocks[2], []
    plain = last.forward
    handle = first.register_forward_hook(lambda _m, _i, output: kept.append(output))
    last.forward = lambda hidden, *args, **named: plain(hidden + kept[-1], *args, **named)
    try:
        hidden = lm.capture(ids, [1])[1]
        assert "residual stream" in lm.why_whole(1)
        other = hidden.flip(0)
        assert torch.equal(lm.logits_from(ids, 1, other), lm.logits(ids, 1, lambda h: other))
        assert lm.why_whole(2) is None  # the last block's own output says all
    finally:
        handle.remove()
        del last.forward
