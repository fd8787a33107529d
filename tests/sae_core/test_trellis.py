"""Atoms on paths through a trellis: the best is found, activations may choose it, files and memory hold its steps."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file

from sae_core import io
from sae_core.arms import DenseMatched, DenseTied, Expander, FrozenRandom, TrellisCoded
from sae_core.kernels import cpu
from sae_core.kernels.on_packed import unpacked
from sae_core.losses import reconstruction_loss
from sae_core.trellis import (
    STATE_BITS,
    TrellisDictionary,
    best_states_in_torch,
    nearest_steps,
    path_table,
    paths_in_bytes,
    state_values,
    values_on,
    weighted_steps,
)

ARM = TrellisCoded(DenseTied(100, 4), 2)
BITS = (4, 2, 1)


def gaussian(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def sine_squared(found, atoms):
    return float(1 - torch.cosine_similarity(found, atoms).square().mean())


def test_the_values_of_states_are_those_that_files_were_written_with():
    values = state_values()
    assert values.shape == (4096,) and abs(float(values.mean())) < 1e-6 and float(values.square().mean()) > 0.99
    assert values[:4].tolist() == pytest.approx([-0.810375, -0.755496, 1.297149, -1.507854], abs=1e-6)
    assert len(values.unique()) == 4096


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("d_in", [12, 13, 40])
def test_a_value_is_that_of_the_last_bits_and_the_path_ends_where_it_starts(bits, d_in):
    steps = torch.randint(1 << bits, (5, d_in), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = torch.empty(5, d_in)
    for row, path in zip(expected, steps.tolist(), strict=True):
        state = 0
        for step in (*path, *path):  # the first round leads to the state that the second starts in
            state = (state << bits | step) & (2**STATE_BITS - 1)
            row[:-1] = row[1:].clone()
            row[-1] = state_values()[state]
    assert torch.equal(values_on(steps, bits), expected)
    packed = paths_in_bytes(steps, bits)
    assert packed.dtype == torch.uint8 and packed.shape == (5, 2 + -(-d_in * bits // 8))
    assert torch.equal(unpacked(packed, path_table(bits), d_in, bits), expected)


def test_no_path_with_the_same_ends_is_nearer_than_the_one_found():
    atoms = torch.nn.functional.normalize(gaussian(3, 12, seed=5))
    found = nearest_steps(atoms, 1)
    every = torch.tensor(list(itertools.product((0, 1), repeat=12)), dtype=torch.uint8)  # all that there are
    values = values_on(every, 1)
    scaled = atoms * (1.1 * 12**0.5)
    errors = torch.cdist(scaled, values).square()
    same_ends = torch.stack([(every == path).all(1) for path in found])
    assert same_ends.sum(1).tolist() == [1, 1, 1]  # twelve steps of one bit are the state: only the path itself ends so
    assert torch.allclose(errors[same_ends], (values_on(found, 1) - scaled).square().sum(1), atol=1e-4)
    # With more steps than a state has bits, paths of the same ends differ in the middle: the best of these is found.
    atoms = torch.nn.functional.normalize(gaussian(1, 18, seed=6))
    found, scaled = nearest_steps(atoms, 1), atoms * (1.1 * 18**0.5)
    ends = found[:, 6:].expand(64, 12)  # the last twelve steps are the state at both ends
    middles = torch.tensor(list(itertools.product((0, 1), repeat=6)), dtype=torch.uint8)
    errors = (values_on(torch.cat([middles, ends], 1), 1) - scaled).square().sum(1)
    assert float((values_on(found, 1) - scaled).square().sum()) == pytest.approx(float(errors.min()), rel=1e-5)


@pytest.mark.skipif(cpu.why_unavailable(torch.device("cpu")) is not None, reason="no compiled kernels")
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("ends", ["free", "start", "both"])
def test_the_compiled_search_finds_the_states_of_the_one_in_pytorch(level, bits, ends):
    """They are the same bit for bit, so that an SAE has the same paths wherever it is made smaller."""
    targets, weights = gaussian(7, 50), gaussian(1, 50, seed=1)[0].exp()
    start, end = torch.randint(4096, (2, 14), generator=torch.Generator().manual_seed(2))[:, ::2]
    given = (targets, weights, bits, None if ends == "free" else start, end if ends == "both" else None)
    wanted = best_states_in_torch(*given)
    used = cpu.limit_instructions(level)
    try:
        found = cpu.best_states(targets, weights, state_values(), *given[2:])
    finally:
        cpu.limit_instructions(2)
    assert used <= level and torch.equal(found, wanted)


@pytest.mark.parametrize("bits, error", [(4, 0.0058), (2, 0.076), (1, 0.285)])
def test_paths_meet_gaussian_atoms_better_than_single_values_or_pieces_can(bits, error):
    atoms = gaussian(40, 300)
    assert sine_squared(values_on(nearest_steps(atoms, bits), bits), atoms) < error


def test_a_path_does_not_depend_on_the_atoms_beside_it():
    atoms = gaussian(70, 24)
    assert torch.equal(nearest_steps(atoms, 2)[:5], nearest_steps(atoms[:5], 2))
    assert torch.equal(nearest_steps(3 * atoms, 2), nearest_steps(atoms, 2))


@pytest.mark.parametrize("bits", BITS)
def test_weighted_paths_keep_products_with_activations_better_for_errors_of_atoms_that_are_little_larger(bits):
    atoms = torch.nn.functional.normalize(gaussian(40, 200))
    activations = gaussian(4000, 200, seed=1) @ gaussian(200, 200, seed=2) / 14  # some directions are much larger
    moments = activations.T @ activations / len(activations)
    nearest, weighted = (
        torch.nn.functional.normalize(values_on(steps, bits))
        for steps in (nearest_steps(atoms, bits), weighted_steps(atoms, bits, moments))
    )

    def lost(found):
        return float(((found - atoms) @ activations.T).square().sum())

    assert lost(weighted) < 0.95 * lost(nearest)
    assert sine_squared(nearest, atoms) < sine_squared(weighted, atoms) < 1.35 * sine_squared(nearest, atoms)


def test_an_arm_of_weighted_paths_chooses_them_for_the_sample_and_the_nearest_without_one():
    of, sample = ARM.of.build(16, seed=0), gaussian(800, 16, seed=3) * torch.linspace(0.1, 3, 16)
    weighted = TrellisCoded(ARM.of, 2, path="weighted")
    assert ARM.name == "dense_tied-2bit_tcq_fourier" and weighted.name == "dense_tied-2bit_tcq_weighted_fourier"
    assert weighted.sample_tokens > 0 == ARM.sample_tokens
    steps = ARM.derive(of, seed=0).dictionary.steps
    assert torch.equal(weighted.derive(of, seed=0).dictionary.steps, steps)
    assert torch.equal(ARM.derive(of, seed=0, sample=sample).dictionary.steps, steps)
    assert not torch.equal(weighted.derive(of, seed=0, sample=sample).dictionary.steps, steps)


def test_the_start_is_that_of_the_trained_sae_and_training_moves_the_biases_alone():
    of = ARM.of.build(32, seed=0)
    with torch.no_grad():
        of.encoder.b_enc.normal_()
    sae, h = ARM.derive(of, seed=0), gaussian(64, 32, seed=2)
    assert torch.equal(sae.encoder.b_enc, of.encoder.b_enc)
    assert sine_squared(sae.dictionary.dense_atoms(), of.dictionary.dense_atoms().detach()) < 0.1
    assert {name for name, _ in sae.named_parameters()} == {"b_dec", "encoder.b_enc"}
    optimizer, losses = torch.optim.Adam(sae.parameters(), lr=1e-2), []
    for _ in range(50):
        optimizer.zero_grad()
        loss = reconstruction_loss(sae.residual(h).residual)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_a_dead_latent_keeps_its_path():
    sae = ARM.build(32, seed=0)
    before = {name: tensor.clone() for name, tensor in sae.dictionary.state_dict().items()}
    sae.dictionary.set_atoms(torch.tensor([3, 50]), gaussian(2, 32, seed=4))
    assert all(torch.equal(before[name], tensor) for name, tensor in sae.dictionary.state_dict().items())


@pytest.mark.parametrize("rounded_in", ["neurons", "fourier"])
@pytest.mark.parametrize("d_in", [16, 21])
def test_k_on_average_and_nested_prefixes_are_kept_in_the_file(tmp_path, rounded_in, d_in):
    arm = TrellisCoded(DenseTied(100, 4, "batch_topk", ("1/4",)), 2, rounded_in=rounded_in)
    trained, h = arm.of.build(d_in, seed=0), gaussian(64, d_in, seed=2)
    trained(h)  # makes a threshold
    sae = arm.derive(trained.eval(), seed=0)
    assert sae.prefixes == trained.prefixes and float(sae.encoder.threshold) == float(trained.encoder.threshold) > 0
    io.save(sae, tmp_path)
    assert json.loads((tmp_path / "cfg.json").read_text())["format"] == 11
    assert load_file(tmp_path / "sae.safetensors")["values"].shape == (-(-100 * d_in * 2 // 8),)  # two bits a value
    for again in (io.load(tmp_path), io.load(tmp_path, keep_packed=True)):
        torch.testing.assert_close(again(h).reconstruction, sae.eval()(h).reconstruction)
        assert str(again.dictionary.basis.name) == rounded_in and again.prefixes == sae.prefixes


@pytest.mark.parametrize(
    "of, settings, said",
    [
        (
            Expander(64, 3, 4),
            {"rounded_in": "neurons"},
            "sae.of=expander must have dense atoms to be paths through a trellis",
        ),
        (FrozenRandom(64, 3, 4), {}, "sae.of=frozen_random cannot be quantised"),
        (DenseTied(64, 4), {"bits": 8}, "sae.bits=8 must be 4, 2 or 1"),
        (DenseMatched(640, 3, 4), {"bits": 1.58}, "sae.bits=1.58 must be 4, 2 or 1"),
        (DenseTied(64, 4), {"path": "best"}, "sae.path=best must be nearest or weighted"),
        (DenseTied(64, 4), {"rounded_in": "monarch"}, "sae.rounded_in=monarch must be neurons or fourier"),
    ],
)
def test_an_arm_that_cannot_be_paths_is_an_error(of, settings, said):
    with pytest.raises(ValueError, match=said):
        TrellisCoded(of, **{"bits": 2, **settings})


def test_atoms_that_are_shorter_than_a_state_are_an_error():
    with pytest.raises(ValueError, match="d_in=5 values of bits=2 make no path"):
        ARM.layout(5)
    with pytest.raises(ValueError, match="d_in=11 values of bits=1 make no path"):
        TrellisDictionary(torch.zeros(4, 11, dtype=torch.uint8), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"trellis": 10},
        {"trellis": "12"},
        {"trellis": None},
        {"value_bits": 3},
        {"value_bits": 32},
        {"value_bits": 4},
        {"format": 6},
        {"format": 9},
        {"degree": 3},
        {"sparse": True},
        {"tied": False},
        {"codebook": 4},
        {"basis": None},
        {"always_on": 1},
        {"batch_topk": 1},
        {"source_tokens": 4},
    ],
)
@pytest.mark.parametrize("keep_packed", [False, True])
def test_a_config_that_does_not_fit_a_trellis_is_an_error(tmp_path, changes, keep_packed):
    io.save(ARM.build(16, seed=0), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["format"] == 11 and config["trellis"] == 12
    (tmp_path / "cfg.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(io.SAEFileError, match=str(tmp_path)):
        io.load(tmp_path, keep_packed=keep_packed)
