"""The contract of every basis, held against the explicit matrix Q: orthogonal, invertible, every gradient, any SAE."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import replace

import pytest
import torch

from sae_core.arms import CellError, Dynamic, Expander, SoftFrozen
from sae_core.bases import BASES, Butterfly, Monarch, Reflections, basis_name, basis_values, make_basis
from sae_core.bases.base import BASIS_BITS
from sae_core.bases.blocks import cayley, skew_values
from sae_core.bases.monarch import block_widths
from sae_core.bases.names import SAMPLE_TOKENS, basis_sample
from sae_core.bases.principal import principal_directions
from sae_core.inference import infer_by, multiply_adds
from sae_core.losses import reconstruction_loss

M, N, K, D = 18, 60, 4, 5
NAMES = [
    "neurons",
    "reflections1",
    "reflections4",
    "reflections4_trained",
    "reflections18",
    "monarch",
    "monarch_trained",
    "butterfly",
    "butterfly_trained",
    "fourier",
]
READINGS = ["encoder", "topk", "refit", "mp", "mp_refit", "omp", "omp_magnitude", "gomp2", "niht", "cosamp"]
by_name = pytest.mark.parametrize("name", NAMES)


def sample(tokens=400, d_in=M, seed=0):
    """Activations (tokens, d_in) of very unequal variance in random directions, and of a mean other than 0."""
    g = torch.Generator().manual_seed(seed)
    turned = torch.linalg.qr(torch.randn(d_in, d_in, generator=g)).Q
    return torch.randn(tokens, d_in, generator=g) * torch.logspace(1, -1, d_in) @ turned.T + 2


def matrix(basis, d_in=M):
    """Q as a matrix (d_in, d_in), made without the basis' own arithmetic where it stores values of 32 bits."""
    if isinstance(basis, Reflections):
        product = identity(d_in)
        for v in basis.vectors.double():
            product = product @ (identity(d_in) - 2 * v.outer(v) / (v @ v))
        return product.T
    if isinstance(basis, Monarch):
        return monarch_matrix(basis)
    if isinstance(basis, Butterfly):
        product = identity(d_in)
        for angles in basis.angles.double():
            product = level_matrix(angles, d_in) @ product
        return product
    return basis.into(identity(d_in)).T


def identity(d_in):
    return torch.eye(d_in, dtype=torch.float64)


def monarch_matrix(basis):
    (short, long), values = basis.widths, iter(basis.values.double())

    def block(width):
        skew = torch.zeros(width, width, dtype=torch.float64)
        for i in range(width):
            for j in range(i):
                skew[i, j] = next(values)
        skew = skew - skew.T
        return (identity(width) - skew) @ torch.linalg.inv(identity(width) + skew)

    first = torch.block_diag(*(block(long) for _ in range(short)))
    second = torch.block_diag(*(block(short) for _ in range(long)))
    permutation = identity(short * long)[torch.arange(short * long).view(short, long).T.flatten()]
    return second @ permutation @ first


def level_matrix(angles, d_in):
    """A level of a butterfly: coordinate i is turned with coordinate i + ceil(d_in / 2)."""
    turn, far = torch.zeros(d_in, d_in, dtype=torch.float64), -(-d_in // 2)
    for i, angle in enumerate(angles):
        turn[2 * i, i], turn[2 * i, i + far] = angle.cos(), angle.sin()
        turn[2 * i + 1, i], turn[2 * i + 1, i + far] = -angle.sin(), angle.cos()
    if d_in % 2:
        turn[d_in - 1, d_in // 2] = 1
    return turn


def test_every_kind_of_basis_is_tested():
    assert {basis_name(name).kind for name in NAMES} == set(BASES)


@by_name
def test_a_basis_is_orthogonal_and_its_two_ways_are_inverse(name):
    basis, x = make_basis(name, M, 0, sample()).double(), sample(7).double()
    q = matrix(basis)
    torch.testing.assert_close(q @ q.T, identity(M))
    torch.testing.assert_close(basis.into(x), x @ q.T)
    torch.testing.assert_close(basis.out_of(x), x @ q)
    torch.testing.assert_close(basis.out_of(basis.into(x)), x)


@by_name
@pytest.mark.parametrize("count", [1, 4, M])
def test_the_leading_coordinates_are_the_first_of_all(name, count):
    basis, x = make_basis(name, M, 0, sample()).double(), sample(7).double()
    torch.testing.assert_close(basis.leading(x, count), basis.into(x)[:, :count])
    assert basis.leading_multiply_adds(M, count) in (basis.multiply_adds(M), count * M)


@by_name
def test_every_gradient_is_that_of_the_matrix(name):
    upstream = torch.randn(7, M, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for way in ("into", "out_of"):
        found = []
        for by_matrix in (False, True):
            basis, x = make_basis(name, M, 0, sample()).double(), sample(7).double().requires_grad_()
            q = matrix(basis)
            out = (x @ (q.T if way == "into" else q)) if by_matrix else getattr(basis, way)(x)
            (out * upstream).sum().backward()
            found.append([x.grad, *(p.grad for p in basis.parameters() if p.requires_grad)])
        assert len(found[0]) == (2 if name.endswith("_trained") else 1)
        for got, wanted in zip(*found, strict=True):
            torch.testing.assert_close(got, wanted)


@by_name
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_lengths_stay_in_each_dtype(name, dtype, tolerance):
    basis, x = make_basis(name, M, 0, sample()).to(dtype), sample(50).to(dtype)
    for out in (basis.into(x), basis.out_of(x)):
        assert out.dtype == dtype
        torch.testing.assert_close(out.norm(dim=1), x.norm(dim=1), rtol=tolerance, atol=0)


@by_name
def test_no_rows_stay_no_rows(name):
    basis, none = make_basis(name, M, 0, sample()), torch.zeros(0, M)
    assert basis.into(none).shape == basis.out_of(none).shape == (0, M)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.02), (torch.float16, 0.004)])
def test_the_control_takes_short_floats(dtype, tolerance):
    basis, x = make_basis("fourier", M, 0, None), sample(50)
    for found, wanted in (
        (basis.to(dtype).into(x.to(dtype)), basis.into(x)),
        (basis.out_of(x.to(dtype)), basis.out_of(x)),
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), wanted, rtol=tolerance, atol=tolerance)


@by_name
@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_bases_take_short_floats(name, dtype, tolerance):
    basis, x = make_basis(name, M, 0, sample()), sample(50)
    for there in (True, False):
        wanted = basis.into(x) if there else basis.out_of(x)
        short = copy.deepcopy(basis).to(dtype)
        found = short.into(x.to(dtype)) if there else short.out_of(x.to(dtype))
        assert found.dtype == dtype
        assert (found.float() - wanted).norm() < tolerance * wanted.norm()


ODD_SIZES = [
    *((name, d_in) for name in ("reflections1", "fourier", "neurons") for d_in in (1, 2, 7, 64, 97)),
    *(("butterfly_trained", d_in) for d_in in (2, 3, 7, 12, 64, 97, 128)),
    *(("monarch_trained", d_in) for d_in in (2, 3, 7, 16, 22, 60)),
]


@pytest.mark.parametrize("name, d_in", ODD_SIZES)
def test_any_number_of_coordinates_will_do(name, d_in):
    basis, x = make_basis(name, d_in, 0, sample(30, d_in)).double(), sample(5, d_in).double()
    torch.testing.assert_close(basis.out_of(basis.into(x)), x)
    q = matrix(basis, d_in)
    torch.testing.assert_close(q @ q.T, identity(d_in))
    torch.testing.assert_close(basis.into(x), x @ q.T)
    torch.testing.assert_close(basis.out_of(x), x @ q)


@by_name
def test_a_seed_and_a_sample_always_make_the_same_basis(name):
    x = sample(5)
    first, again = (make_basis(name, M, 3, sample()) for _ in range(2))
    assert torch.equal(first.into(x), again.into(x))
    other = make_basis(name, M, 4, None).into(x)
    assert torch.equal(first.into(x), other) == (name == "neurons")


def test_the_signs_of_the_control_are_the_same_on_every_platform():
    signs = make_basis("fourier", 1000, 5).signs.to(torch.int8)
    digest = hashlib.sha256(signs.numpy().tobytes()).hexdigest()
    assert digest == "aa91cb9e95b42c3ea804dc875da137dad7b396c0b91874a42aebd9ec38e6c4eb" and abs(int(signs.sum())) < 100


def test_the_control_spreads_every_neuron_over_all_coordinates():
    q = matrix(make_basis("fourier", 64, 0).double(), 64)
    assert float(q.abs().max()) < 1.5 / 64**0.5 and float(q.square().mean(1).max()) == pytest.approx(1 / 64)


@pytest.mark.parametrize("count", [1, 4, 18])
def test_reflections_turn_the_first_coordinates_into_the_directions_of_largest_variance(count):
    h = sample(2000)
    _, directions = torch.linalg.eigh(torch.cov(h.double().T))
    found = principal_directions(h, count, 0).double()
    cosines = (found * directions.flip(1)[:, :count]).sum(0).abs()
    assert float(cosines.min()) > 0.999
    q = matrix(make_basis(f"reflections{count}", M, 0, h))
    torch.testing.assert_close((q[:count] @ found).abs(), torch.eye(count, dtype=torch.float64), atol=1e-5, rtol=0)
    variances = (h.double() @ q.T).var(0)
    assert float(variances[:count].sum()) > 0.999 * float(torch.linalg.eigvalsh(torch.cov(h.double().T))[-count:].sum())


def test_a_few_reflections_leave_the_other_coordinates_nearly_the_neurons():
    d_in = 200
    q = matrix(make_basis("reflections4", d_in, 0, None), d_in)
    assert float(q[4:].diagonal(4).min()) > 0.8 and float(q[4:].diagonal(4).mean()) > 0.98


def test_a_sample_smaller_than_the_number_of_directions_still_makes_a_basis():
    basis = make_basis("reflections6", M, 0, sample(3)).double()
    q = matrix(basis)
    torch.testing.assert_close(q @ q.T, identity(M))


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_the_length_of_a_vector_changes_nothing(length):
    basis, x = make_basis("reflections4", M, 0, sample()).double(), sample(5).double()
    other = Reflections(basis.vectors.detach() * length)
    torch.testing.assert_close(other.into(x), basis.into(x))


@by_name
def test_rounded_values_are_whole_numbers_that_make_nearly_the_same_orthogonal_map(name):
    basis, x = make_basis(name, M, 0, sample()).double(), sample(50).double()
    before = basis.into(x)
    basis.round_values()
    if basis.stored is None:
        assert basis.value_bits == 32 and torch.equal(basis.into(x), before)
        return
    stored = basis.stored.detach().clone()
    assert basis.value_bits == BASIS_BITS and torch.equal(stored, stored.round())
    assert float(stored.min()) >= -128 and float(stored.max()) <= 127
    q = basis.into(identity(M)).T
    torch.testing.assert_close(q @ q.T, identity(M))
    torch.testing.assert_close(basis.out_of(x), x @ q)
    assert 0 < float((basis.into(x) - before).detach().norm() / before.detach().norm()) < 0.04
    basis.round_values()
    assert torch.equal(basis.stored, stored)


@pytest.mark.parametrize("name", ["monarch", "butterfly"])
@pytest.mark.parametrize("factor, error", [(4, 0.06), (1000, 2)])
def test_values_of_any_size_make_an_orthogonal_map_and_can_be_rounded(name, factor, error):
    basis, x = make_basis(name, M, 0, sample()).double(), sample(50).double()
    with torch.no_grad():
        basis.stored.mul_(factor)
    before = basis.into(x)
    basis.round_values()
    for out in (before, basis.into(x)):
        torch.testing.assert_close(out.norm(dim=1), x.norm(dim=1))
    assert float((basis.into(x) - before).detach().norm() / before.detach().norm()) < error


@pytest.mark.parametrize("name, d_in", [("monarch", 12), ("monarch", 16), ("butterfly", 16), ("butterfly", 12)])
def test_a_single_direction_becomes_a_single_coordinate_mostly_the_first(name, d_in):
    g = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(d_in, generator=g), dim=0)
    basis = make_basis(name, d_in, 0, 5 * torch.randn(500, 1, generator=g) * direction + 1)
    found = basis.into(direction[None]).detach()[0].abs()
    torch.testing.assert_close(float(found.max()), 1.0, atol=1e-5, rtol=0)
    assert int(found.argmax()) == 0 or (name, d_in) == ("butterfly", 12)


@pytest.mark.parametrize("name", ["monarch", "butterfly"])
def test_the_start_finds_the_directions_of_data_made_by_such_a_map(name):
    """Independent coordinates of unequal variance, put through a random map of the same form."""
    d_in = 64
    deviations = torch.logspace(0, -4, d_in)
    h = make_basis(name, d_in, 1).out_of(
        torch.randn(4000, d_in, generator=torch.Generator().manual_seed(0)) * deviations
    )

    def gathered(basis):
        energy = basis.into(h).square().mean(0)
        return float(energy.sort(descending=True).values[: d_in // 10].sum() / energy.sum())

    best = float(deviations.square()[: d_in // 10].sum() / deviations.square().sum())
    assert gathered(make_basis(name, d_in, 0, h)) > 0.95 * best > 2 * gathered(make_basis(name, d_in, 5))


def test_the_widths_of_monarch_s_blocks_are_as_near_each_other_as_can_be():
    widths = {256: (16, 16), 576: (24, 24), 768: (24, 32), 2048: (32, 64), 2304: (48, 48), 5120: (64, 80), 18: (3, 6)}
    assert {d_in: block_widths(d_in) for d_in in widths} == widths
    for d_in in (1, 11, 97, 509, 2 * 487):
        with pytest.raises(CellError, match=rf"p\*q = {d_in} \(d_in\)"):
            Expander(N, 1, K, basis="monarch").sizes(d_in)
    with pytest.raises(CellError, match="at least 2 coordinates"):
        Expander(N, 1, K, basis="butterfly").sizes(1)
    assert basis_values("monarch", 256) == 256 * 15 and basis_values("monarch_trained", 2048) == 2048 * 47
    assert basis_values("butterfly", 256) == 256 * 8 and basis_values("butterfly_trained", 97) == 48 * 14


@pytest.mark.parametrize("width", [1, 2, 3, 8, 33])
def test_some_signs_of_the_rows_make_every_value_of_an_orthogonal_block_at_most_1(width):
    g = torch.Generator().manual_seed(width)
    drawn = torch.linalg.qr(torch.randn(20, width, width, generator=g, dtype=torch.float64)).Q
    permuted = identity(width)[torch.randperm(width, generator=g)]
    blocks = torch.cat((drawn, torch.stack((identity(width), -identity(width), permuted, -permuted))))
    values, signs = skew_values(blocks)
    assert values.shape == (24, width * (width - 1) // 2) and bool((signs.abs() == 1).all())
    assert not values.numel() or float(values.abs().max()) <= 1 + 1e-5
    torch.testing.assert_close(cayley(values, width), signs[:, :, None] * blocks)


def sae_in(name, encoder="topk", always_on=0, arm=Expander):
    """An SAE in float64 with random biases."""
    sae = arm(N, D, K, encoder=encoder, basis=name, always_on=always_on).build(M, 0, 0.7, sample()).double()
    with torch.no_grad():
        sae.b_dec += torch.randn(M, generator=torch.Generator().manual_seed(1))
        if encoder == "topk":
            sae.encoder.b_enc.normal_(generator=torch.Generator().manual_seed(2)).mul_(0.1)
    return sae


def turned(sae):
    """The SAE of the same numbers in the neurons' basis: what `sae` is to h, it is to Qh."""
    arm = Expander(N, D, K, encoder="topk" if hasattr(sae.encoder, "b_enc") else "mp_refit")
    twin = arm.build(M, 0, float(sae.scale)).double()
    twin.dictionary.support = sae.dictionary.support
    with torch.no_grad():
        twin.dictionary.values.copy_(sae.dictionary.values)
        twin.b_dec.copy_(sae.dictionary.basis.into(sae.b_dec[None])[0])
        if hasattr(sae.encoder, "b_enc"):
            twin.encoder.b_enc.copy_(sae.encoder.b_enc)
    return twin


@by_name
@pytest.mark.parametrize("encoder", ["topk", "mp_refit"])
@pytest.mark.parametrize("reading", READINGS)
@torch.no_grad()
def test_every_way_to_read_codes_is_that_of_the_sparse_atoms_on_turned_activations(name, encoder, reading):
    sae, h = sae_in(name, encoder), sample(8).double()
    q, twin = matrix(sae.dictionary.basis), turned(sae)
    codes, indices = infer_by(sae, reading).encode(h)
    wanted, atoms = infer_by(twin, reading).encode(h @ q.T)
    assert torch.equal(indices.sort(1).values, atoms.sort(1).values)
    torch.testing.assert_close(sae.decode(codes, indices), twin.decode(wanted, atoms) @ q)


@by_name
@pytest.mark.parametrize("encoder", ["topk", "mp_refit"])
@pytest.mark.parametrize("backend", ["auto", "torch_gather", "reference"])
def test_every_gradient_of_the_loss_is_that_of_dense_atoms(name, encoder, backend):
    """The SAE against plain PyTorch on W = A Q with the same picks; a pursuit's codes count as constants."""
    sae, h = sae_in(name, encoder), sample(25).double().requires_grad_()
    sae.backend = backend
    out = sae.residual(h)
    upstream = torch.randn(out.residual.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (out.residual * upstream).sum().backward()
    reconstruction_loss(sae.residual(h).residual).backward()
    got = {"h": h.grad, **{key: p.grad for key, p in sae.named_parameters() if p.requires_grad}}

    other, h = sae_in(name, encoder), sample(25).double().requires_grad_()
    unit = torch.nn.functional.normalize(other.dictionary.values, dim=1)
    sparse = torch.zeros(N, M, dtype=torch.float64).scatter(1, other.dictionary.support, unit)
    atoms = sparse @ matrix(other.dictionary.basis)
    torch.testing.assert_close(other.dictionary.dense_atoms(), atoms)
    torch.testing.assert_close(other.dictionary.dense_atoms(slice(7, 20)), atoms[7:20])
    x = h * other.scale - other.b_dec
    codes = out.codes.detach()
    if encoder == "topk":
        codes = (x @ atoms.T + other.encoder.b_enc).gather(1, out.indices)
    left = x - torch.einsum("tk,tkm->tm", codes, atoms[out.indices])
    ((left * upstream).sum() + left.square().sum(1).mean()).backward()
    wanted = {"h": h.grad, **{key: p.grad for key, p in other.named_parameters() if p.requires_grad}}
    assert got.keys() == wanted.keys()
    torch.testing.assert_close(out.residual, left)
    for key in wanted:
        torch.testing.assert_close(got[key], wanted[key], msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("encoder", ["topk", "mp_refit"])
@pytest.mark.parametrize("name", ["neurons", "reflections4", "reflections4_trained", "monarch", "butterfly", "fourier"])
def test_coordinates_that_are_always_on_are_kept_and_count_among_the_codes(name, encoder):
    sae, h = sae_in(name, encoder, always_on=3), sample(20).double()
    dictionary = sae.dictionary
    assert int(dictionary.support.min()) == 3 and sae.n_latents == N + 3
    codes, indices = sae.encode(h)
    assert codes.shape == indices.shape == (20, K + 3)
    assert torch.equal(indices[:, K:], torch.arange(N, N + 3).expand(20, 3))
    u = (h * sae.scale - sae.b_dec) @ matrix(dictionary.basis).T
    torch.testing.assert_close(codes[:, K:], u[:, :3])
    out = sae(h)
    torch.testing.assert_close(out.reconstruction, sae.decode(codes, indices))
    left = sae.residual(h).residual
    torch.testing.assert_close(left, sae.scale * (h - out.reconstruction))
    torch.testing.assert_close((left @ matrix(dictionary.basis).T)[:, :3], torch.zeros(20, 3, dtype=torch.float64))
    without = copy.deepcopy(sae)
    without.dictionary.always_on = 0
    torch.testing.assert_close(without.encode(h)[0], codes[:, :K])  # no atom looks at them
    assert bool(left.norm() < without.residual(h).residual.norm())


@pytest.mark.parametrize("kind", ["reflections4", "monarch", "butterfly"])
def test_training_leaves_a_trained_basis_orthogonal_and_a_fixed_one_as_it_was(kind):
    for name in (f"{kind}_trained", kind):
        sae, h = Expander(N, D, K, basis=name).build(M, 0, 0.5, sample()), sample(256)
        before = sae.dictionary.basis.stored.detach().clone()
        optimizer = torch.optim.Adam(sae.parameters(), lr=3e-2, fused=True)
        losses = []
        for _ in range(40):
            loss = reconstruction_loss(sae.residual(h).residual)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        basis = sae.dictionary.basis
        q = matrix(basis.double())
        torch.testing.assert_close(q @ q.T, identity(M), atol=1e-10, rtol=0)
        x = sample(9).double()
        torch.testing.assert_close(basis.out_of(basis.into(x)), x)
        assert torch.equal(basis.stored.float(), before) == (name == kind)
        assert losses[-1] < 0.85 * losses[0]


def test_b_dec_starts_at_the_mean_where_the_basis_follows_the_data_only():
    h = sample()
    for name, centred in (("reflections4", True), ("monarch", True), ("fourier", False), ("neurons", False)):
        sae = Expander(N, D, K, basis=name).build(M, 0, 0.5, h if basis_sample(name) else None)
        torch.testing.assert_close(sae.b_dec.detach(), h.mean(0) * 0.5 if centred else torch.zeros(M))
    assert Expander(N, D, K, basis="reflections4").sample_tokens == SAMPLE_TOKENS
    assert Expander(N, D, K).sample_tokens == Expander(N, D, K, basis="fourier").sample_tokens == 0


@pytest.mark.parametrize("arm", [Expander, SoftFrozen, Dynamic])
def test_dead_latents_are_re_aimed_in_the_neurons_space(arm):
    sae = sae_in("reflections4", arm=arm)
    directions = torch.randn(3, M, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    latents, rows = torch.tensor([4, 9, 30]), sae.dictionary.support[[4, 9, 30]]
    sae.dictionary.set_atoms(latents, directions)
    along = torch.nn.functional.cosine_similarity(sae.dictionary.dense_atoms()[latents], directions)
    best = (directions @ matrix(sae.dictionary.basis).T).gather(1, rows).norm(dim=1) / directions.norm(dim=1)
    if arm is SoftFrozen:
        assert (along <= best + 1e-9).all()
    else:
        torch.testing.assert_close(along, best)  # no atom on these rows is nearer


def test_the_way_into_the_basis_is_counted_once():
    for reading in ("encoder", "omp", "mp_refit", "refit"):
        plain, turned_too = (infer_by(sae_in(name), reading) for name in ("neurons", "reflections4"))
        assert multiply_adds(turned_too) - multiply_adds(plain) == 2 * 4 * M + 10
        for name, more in (("fourier", M * 6), ("monarch", M * (3 + 6)), ("butterfly", 4 * 10 * M // 2)):
            assert multiply_adds(infer_by(sae_in(name), reading)) - multiply_adds(plain) == more


@pytest.mark.parametrize(
    "wrong",
    ["reflections", "reflections0", "reflections-1", "reflections4_train", "monarch4", "fourier_trained", "pca", ""],
)
def test_a_name_that_no_basis_has_is_refused_with_the_choice(wrong):
    with pytest.raises(ValueError, match=rf"sae.basis={wrong} is no basis: choose from neurons, reflections\{{R\}}"):
        Expander(N, D, K, basis=wrong)


@by_name
def test_names_are_read_back(name):
    assert str(basis_name(name)) == name == str(make_basis(name, M, 0).name)
    stored = make_basis(name, M, 0).stored
    assert basis_values(name, M) == (0 if stored is None else stored.numel())


def test_more_directions_than_coordinates_leave_the_cell_out():
    for arm in (
        Expander(N, D, K, basis="reflections19"),
        Expander(N, D, K, always_on=M),
        Expander(N, D, K, always_on=M - D + 1),
    ):
        with pytest.raises(CellError):
            arm.sizes(M)
    with pytest.raises(ValueError, match="always_on=-1 must be at least 0"):
        replace(Expander(N, D, K), always_on=-1)
    assert Expander(N, D, K, always_on=M - D).sizes(M).degree == D
