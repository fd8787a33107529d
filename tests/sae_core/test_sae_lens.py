"""BatchTopK and Matryoshka SAEs beside those that SAELens trains on the same activations, from the same start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae_core.arms import DenseRandInit
from sae_core.losses import matryoshka_loss
from sae_core.sae import SAE

batchtopk: Any = pytest.importorskip("sae_lens.saes.batchtopk_sae", reason="extra bench is not installed")
matryoshka: Any = pytest.importorskip("sae_lens.saes.matryoshka_batchtopk_sae", reason="extra bench is not installed")
TrainStepInput: Any = pytest.importorskip("sae_lens.saes.sae", reason="extra bench is not installed").TrainStepInput

M, N, K, TOKENS, STEPS = 32, 128, 8, 128, 400
PREFIXES = (16, 48)
SEEDS = (0, 1, 2)


def activations(steps: int, seed: int) -> torch.Tensor:
    """Sums of a few of 200 directions, whose number and lengths differ between tokens: (steps, TOKENS, M)."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(200, M, generator=torch.Generator().manual_seed(99)), dim=1)
    fires = torch.rand(steps, TOKENS, 200, generator=generator) < 0.02
    return (fires * (1 + torch.rand(fires.shape, generator=generator))) @ directions


def theirs(start: SAE, prefixes: tuple[int, ...]) -> Any:
    """SAELens' trainer with the weights of an untrained SAE of ours; codes are those of the atoms as they are."""
    sizes = {"d_in": M, "d_sae": N, "k": K, "decoder_init_norm": None, "rescale_acts_by_decoder_norm": False}
    if prefixes:
        config = matryoshka.MatryoshkaBatchTopKTrainingSAEConfig(**sizes, matryoshka_widths=[*prefixes, N])
        model = matryoshka.MatryoshkaBatchTopKTrainingSAE(config)
    else:
        model = batchtopk.BatchTopKTrainingSAE(batchtopk.BatchTopKTrainingSAEConfig(**sizes))
    encoder: Any = start.encoder
    with torch.no_grad():
        model.W_enc.copy_(encoder.encoder.weight.T)
        model.W_dec.copy_(start.dictionary.unit_values())
        model.b_enc.zero_()
        model.b_dec.zero_()
    return model


def curves(seed: int, prefixes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, float, float]:
    """Train both on the same batches; return their losses at each step, and the thresholds that they end with.

    Our atoms are used at unit norm. Theirs are brought back to it after each step, without the gradient along them, as
    the code of the BatchTopK paper does: a norm that is free to grow is one more gain for each latent, and quicker.
    """
    ours = DenseRandInit(N, K, "batch_topk", prefixes).build(M, seed)
    with torch.no_grad():  # at unit norm, so that Adam moves both by as much
        ours.dictionary.values.copy_(ours.dictionary.unit_values())
    peer, losses = theirs(ours, prefixes), torch.zeros(2, STEPS)
    optimizers = [torch.optim.Adam(model.parameters(), lr=2e-3) for model in (ours, peer)]
    for step, h in enumerate(activations(STEPS, seed)):
        losses[0, step] = _step(matryoshka_loss(ours.residual(h)), optimizers[0])
        output = peer.training_forward_pass(TrainStepInput(h, {}, None, 0, False))
        losses[1, step] = _step(output.loss, optimizers[1], peer.W_dec)
    encoder: Any = ours.encoder
    return losses[0], losses[1], float(encoder.threshold), float(peer.topk_threshold)


def _step(loss: torch.Tensor, optimizer: torch.optim.Optimizer, atoms: Any = None) -> torch.Tensor:
    """Do one step, which leaves `atoms` at unit norm where they are given; return the loss before it."""
    optimizer.zero_grad()
    loss.backward()
    if atoms is not None:
        atoms.grad -= (atoms.grad * atoms.detach()).sum(1, keepdim=True) * atoms.detach()
    optimizer.step()
    if atoms is not None:
        atoms.data = torch.nn.functional.normalize(atoms.detach(), dim=1)
    return loss.detach()


def test_a_batch_keeps_the_entries_that_sae_lens_keeps():
    sae = DenseRandInit(N, K, "batch_topk").build(M, 0)
    h = activations(1, 5)[0]
    codes, indices = sae.encode(h)
    encoder: Any = sae.encoder
    z = (h @ encoder.encoder.weight.T).detach()
    kept = torch.zeros(TOKENS, N).scatter(1, indices, codes.detach())
    torch.testing.assert_close(kept, batchtopk.BatchTopK(K)(z))


@pytest.mark.parametrize("prefixes", [(), PREFIXES], ids=["batch_topk", "matryoshka"])
def test_loss_curves_are_those_of_sae_lens_within_the_spread_of_seeds(prefixes):
    found = [curves(seed, prefixes) for seed in SEEDS]
    for ours, peer, _, _ in found:
        torch.testing.assert_close(ours[0], peer[0], rtol=1e-5, atol=0)  # the same start, the same loss
        assert float(peer[-50:].mean()) < 0.5 * float(peer[0])
    for part in (slice(0, 50), slice(100, 200), slice(300, 400)):
        means = torch.tensor([[float(curve[part].mean()) for curve in (ours, peer)] for ours, peer, _, _ in found])
        spread = float(means.std(0).mean())
        assert abs(float((means[:, 0] - means[:, 1]).mean())) < spread
    for _, _, threshold, peer_threshold in found:
        assert threshold == pytest.approx(peer_threshold, rel=0.05)  # theirs has started at 0
