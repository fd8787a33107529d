"""ITDA, whose atoms are activations: which ones a pass chooses, and what their file says of where they came from."""

from __future__ import annotations

import json

import pytest
import torch

from sae_core import io
from sae_core.arms import ITDA, CellError
from sae_core.arms.itda import _HALVINGS
from sae_core.kernels.dispatch import get_backend
from sae_core.pursuit.reference import matching_pursuit
from sae_core.storage import count_storage

M, N, K, T = 12, 30, 3, 1200


def pool(count=T, seed=0):
    """Activations (count, M) in float16 around 40 directions, of many lengths, some of them equal."""
    g = torch.Generator().manual_seed(seed)
    directions = torch.randn(40, M, generator=torch.Generator().manual_seed(9))
    h = directions[torch.randint(40, (count,), generator=g)] + 0.3 * torch.randn(count, M, generator=g)
    h *= 10 ** torch.randn(count, 1, generator=g)
    h[5], h[600] = h[2], h[2]
    return h.half()


def fitted(arm=None, h=None, batch=77):
    arm, h = arm or ITDA(N, K, tokens=T), pool() if h is None else h
    sae = arm.build(M, seed=0, scale=0.3)
    arm.fit(sae, h.split(batch))
    return sae


def one_pass(threshold):
    found = ITDA(N, K, tokens=T)._one_pass(get_backend("auto", torch.device("cpu")), pool(), threshold)
    return found.tolist()


def plain_pass(h, threshold, n, batch=512):
    """One pass by the definition, an activation at a time: the rows that become atoms, until there are n."""
    chosen: list[int] = []
    for first in range(0, len(h), batch):
        part = h[first : first + batch].double()
        distinct = [i for i, row in enumerate(part) if not any(torch.equal(row, other) for other in part[:i])]
        often = sorted(distinct, key=lambda i: -int((part == part[i]).all(1).sum()))
        chosen += [first + i for i in often[: max(0, M - len(chosen))]]
        atoms = torch.nn.functional.normalize(h[chosen].double(), dim=1)
        for i in distinct:
            found = matching_pursuit(atoms, part[i], K, signed=False, refit=False)
            made = found.codes @ atoms[found.indices]
            if float((part[i] / part[i].norm() - made / made.norm()).square().sum()) > threshold:
                chosen.append(first + i)
    return chosen[:n]


@pytest.mark.parametrize("threshold", [0.1, 0.4])
def test_a_pass_chooses_the_activations_that_the_definition_chooses(threshold):
    assert one_pass(threshold) == plain_pass(pool(), threshold, N)


def test_atoms_are_the_activations_that_their_numbers_name():
    sae, h = fitted(), pool()
    sources = sae.dictionary.sources
    assert len(set(sources.tolist())) == N and 2 in sources[:1]  # row 2 occurs twice in the first batch
    torch.testing.assert_close(sae.dictionary.values.detach(), h[sources].float() * 0.3)
    assert not sae.b_dec.any()


def test_the_threshold_is_the_largest_that_finds_n_atoms():
    chosen = fitted().dictionary.sources.tolist()
    width = (2 / 1e-6) ** (1 / 2**_HALVINGS)  # of the last interval of the bisection
    steps = [2 / width**step for step in range(2**_HALVINGS)]
    largest = next(t for t in steps if len(one_pass(t)) == N)
    assert chosen in (one_pass(largest), one_pass(largest * width**0.5), one_pass(largest * width**0.99))
    assert chosen != one_pass(largest / 10)


def test_only_the_first_tokens_count_and_the_batches_that_they_come_in_do_not():
    h = pool(3 * T)
    few = fitted(h=h).dictionary.sources
    assert few.equal(fitted(h=h[:T], batch=1000).dictionary.sources) and int(few.max()) < T
    assert ITDA(N, K, tokens=T).fit_tokens(3 * T) == T and ITDA(N, K, tokens=T).fit_tokens(50) == 50


def test_a_file_says_where_atoms_came_from_in_as_few_bits_as_that_takes(tmp_path):
    sae, h = fitted(), pool()
    n_bytes = io.save(sae, tmp_path)
    loaded, storage = io.load(tmp_path), count_storage(sae)
    assert loaded.dictionary.sources.equal(sae.dictionary.sources) and loaded.dictionary.tokens == T
    assert torch.equal(loaded(h.float()).reconstruction, sae(h.float()).reconstruction)
    assert storage.source_bits == N * 11 and 2**10 < T <= 2**11
    header = int.from_bytes((tmp_path / "sae.safetensors").read_bytes()[:8], "little") + 8
    assert n_bytes == header + 4 * (N * M + M) + -(-N * 11 // 8)
    restored = ITDA(N, K, tokens=T).build(M, 0, 0.3)
    with torch.no_grad():  # who has the pool needs nothing but the numbers
        restored.dictionary.values.copy_(h[loaded.dictionary.sources].float() * restored.scale)
    assert torch.equal(restored(h.float()).reconstruction, sae(h.float()).reconstruction)


@pytest.mark.parametrize(
    "changes",
    [
        {"source_tokens": 0},
        {"source_tokens": -5},
        {"source_tokens": 2.5},
        {"source_tokens": 5000},
        {"degree": 11},
        {"format": 3},
        {"format": 1},
        {"basis": {"name": "fourier", "seed": 0, "value_bits": 32}},
    ],
)
def test_a_file_whose_config_does_not_fit_is_refused(tmp_path, changes):
    io.save(fitted(), tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert config["format"] == 6
    (tmp_path / "cfg.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(io.SAEFileError, match=str(tmp_path)):
        io.load(tmp_path)


def test_too_few_activations_that_differ_are_an_error():
    h = pool()[:20].repeat(60, 1)
    with pytest.raises(ValueError, match=r"n=30 atoms cannot be chosen: the first 1200 activations .* hold 19"):
        fitted(h=h)


@pytest.mark.parametrize(
    "make, kind, message",
    [
        (lambda: ITDA(M, K), CellError, "n=12 must be in 13..65536"),
        (lambda: ITDA(40, K, tokens=39), CellError, "n=40 must be in 13..39"),
        (lambda: ITDA(40, K, tokens=0), ValueError, "sae.tokens=0"),
        (lambda: ITDA(40, K, encoder="topk"), ValueError, "sae.encoder=topk is no pursuit"),
    ],
)
def test_sizes_out_of_range_are_named(make, kind, message):
    with pytest.raises(kind, match=message):
        make().sizes(M)
