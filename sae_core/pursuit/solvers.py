"""Pursuits by name, as configs and records write them.

    omp                OMP, one atom a step              mp         matching pursuit
    gomp{L}, block{L}  generalised OMP, L atoms a step   mp_refit   the same, ended with one least squares
    mp_cg{T}           mp, ended with T steps of conjugate gradients towards least squares
    niht               normalised iterative thresholding cosamp     compressive sampling matching pursuit
    mp_floor{P}        mp_refit that stops at a pick that explains less than P thousandths of the target's energy
    nested_floor{P}    the same among the first n / 32 atoms, then among those up to n / 8, then among the rest

`omp`, `gomp{L}`, `mp` and `mp_refit` pick the largest correlations, as the paper's pursuits do; with `_magnitude` after
the name, the largest in magnitude.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from sae_core.kernels.dispatch import Backend
from sae_core.pursuit.corrected import corrected_matching_pursuit
from sae_core.pursuit.nested import nested_pursuit
from sae_core.pursuit.thresholding import cosamp, niht

Solver = Callable[[Backend, Tensor, Tensor, Tensor | None, int], tuple[Tensor, Tensor]]
"""(backend, x (tokens, d_in), unit values, support, k) -> (codes, indices), each (tokens, k)."""

NAMES = (
    "omp, gomp{L} (or block{L}), mp, mp_refit, each also with _magnitude, mp_cg{T}, mp_floor{P}, nested_floor{P}, "
    "niht, cosamp"
)
_BLOCK = re.compile(r"(?:gomp|block)([1-9][0-9]*)(_magnitude)?")
_STEPPING = re.compile(r"mp_cg([1-9][0-9]?)")
_STOPPING = re.compile(r"(mp|nested)_floor([1-9][0-9]{0,2})")
_PREFIXES = (32, 8, 1)  # n_latents over these are the prefixes of nested_floor{P}


def canonical(name: str) -> str:
    """Return the canonical name of a pursuit, which may have several names: block4 is gomp4, gomp1 is omp.

    Raises:
        ValueError: no pursuit has this name.
    """
    block = _BLOCK.fullmatch(name)
    if block:
        name = (f"gomp{block[1]}" if block[1] != "1" else "omp") + (block[2] or "")
    elif (
        not _STOPPING.fullmatch(name)
        and not _STEPPING.fullmatch(name)
        and name not in ("niht", "cosamp")
        and name.removesuffix("_magnitude") not in ("omp", "mp", "mp_refit")
    ):
        raise ValueError(f"{name} is no pursuit: choose from {NAMES}")
    return name


def ends_in_least_squares(name: str) -> bool:
    """Return whether a pursuit's codes minimise the error on its picks, so that training may ignore their gradient.

    Those of `mp_cg{T}` do so nearly, and count. Raises ValueError where no pursuit has this name.
    """
    return not canonical(name).startswith("niht") and canonical(name) not in ("mp", "mp_magnitude")


def solver(name: str) -> Solver:
    """Return the pursuit called `name`. Raises ValueError where no pursuit has this name."""
    name = canonical(name)
    if stops_by_gain(name):
        return _stopping_solver(name)
    if steps := steps_of(name):
        return _corrected_solver(steps)
    signed, base = not name.endswith("_magnitude"), name.removesuffix("_magnitude")
    if base in ("niht", "cosamp"):
        return niht if base == "niht" else cosamp
    if base in ("mp", "mp_refit"):
        return matching_pursuit_solver(signed, refit=base == "mp_refit")
    return gomp_solver(block_of(name), signed)


def block_of(name: str) -> int:
    """Return how many atoms a step of OMP or generalised OMP picks."""
    block = _BLOCK.fullmatch(canonical(name))
    return int(block[1]) if block else 1


def steps_of(name: str) -> int:
    """Return how many steps of conjugate gradients end a pursuit; most take none."""
    stepping = _STEPPING.fullmatch(name)
    return int(stepping[1]) if stepping else 0


def stops_by_gain(name: str) -> bool:
    """Return whether a pursuit makes fewer than k picks where the next one would explain little."""
    return bool(_STOPPING.fullmatch(name))


def prefixes_of(name: str, n_latents: int) -> list[int]:
    """Return the rising lengths of the prefixes of the atoms that a pursuit picks from in turn; most have only one."""
    return sorted({n_latents // part for part in (_PREFIXES if name.startswith("nested") else (1,))} - {0})


def gomp_solver(block: int, signed: bool) -> Solver:
    """Return generalised OMP of `block` atoms a step."""
    return lambda backend, x, values, support, k: backend.gomp(x, values, support, k, block, signed)


def matching_pursuit_solver(signed: bool, refit: bool) -> Solver:
    """Return matching pursuit, ended with least squares on the picks if `refit`."""
    return lambda backend, x, values, support, k: backend.matching_pursuit(x, values, support, k, signed, refit)


def _corrected_solver(steps: int) -> Solver:
    """Return the pursuit called `mp_cg{T}`, of T steps."""
    return lambda backend, x, values, support, k: corrected_matching_pursuit(backend, x, values, support, k, steps)


def _stopping_solver(name: str) -> Solver:
    """Return the pursuit called `mp_floor{P}` or `nested_floor{P}`."""
    stopping = _STOPPING.fullmatch(name)
    assert stopping is not None
    floor = int(stopping[2]) / 1000
    return lambda backend, x, values, support, k: nested_pursuit(
        backend, x, values, support, k, floor, prefixes_of(name, len(values))
    )
