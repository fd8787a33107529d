"""The compiled CPU backend: fused and multithreaded C++ (cpu.cpp, cpu_body.h), called through ctypes.

Sparse atoms: encode + TopK is one pass over a tile of tokens that stays in L2; pre-activations never reach memory.
Dense atoms: oneDNN's matrix product of a chunk of tokens at a time, then the compiled TopK and sums. float16 and
bfloat16 are computed in float32. `autograd.Kernels` says the shapes.

The library is built when the project is installed, if a C++ compiler is there (pyproject.toml, `ext-modules`).
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from sae_core.kernels.autograd import LossSums, widened
from sae_core.kernels.private_names import onednn_linear

INTERFACE_VERSION = 7  # the same number as in cpu.cpp; raise both with every change of a signature
WAYS = (
    "best",
    "changes",
    "rows",
    "anew",
    "screened",
)  # for matching pursuit to keep correlations up to date; as in cpu.cpp
_CHUNK_VALUES = 1 << 24  # pre-activations of dense atoms held at once: 64 MiB in float32
_GRAM_VALUES = 1 << 26  # largest Gram matrix of dense atoms: 256 MiB in float32
_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
# Each function takes so many sizes (int64), then so many pointers, and last the number of threads (cpu.cpp).
_SIGNATURES = {
    "encode_topk": (5, 6),
    "topk": (3, 3),
    "weighted_atoms": (5, 6),
    "atom_products": (4, 5),
    "atom_gradient": (5, 5),
    "dense_atom_gradient": (4, 4),
    "loss_sums": (6, 13),
    "gomp": (7, 5),
    "matching_pursuit": (7, 6),
    "refit": (5, 5),
    "unit_norm": (2, 3),
    "unit_norm_gradient": (2, 4),
}
_PLAIN: dict[str, list[Any]] = {
    "clipped_adam": [ctypes.c_int64, ctypes.c_void_p, *[ctypes.c_double] * 6, ctypes.c_int64],
    "best_states": [*[ctypes.c_int64] * 3, *[ctypes.c_void_p] * 6, ctypes.c_int64],
}
_COUNTING = {
    "encode_topk",
    "weighted_atoms",
    "loss_sums",
    "gomp",
    "matching_pursuit",
    "refit",
}  # they return a count of bad indices


def why_unavailable(device: torch.device) -> str | None:
    """Return the reason why the compiled library cannot compute on `device`; None where it can."""
    if device.type != "cpu":
        return f"it computes on cpu, not on {device.type}"
    try:
        _library()
    except (OSError, AttributeError, ImportError) as error:
        return f"{error}"
    return None


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """Load the compiled library. Raises ImportError, OSError or AttributeError where it is missing or outdated."""
    spec = importlib.util.find_spec("sae_core.kernels._cpu")
    if spec is None or spec.origin is None:
        raise ImportError("its library was not built: install a C++ compiler (g++), then this project again")
    library = ctypes.CDLL(spec.origin)  # its OpenMP symbols are those that torch, imported above, has loaded
    if library.interface_version() != INTERFACE_VERSION:
        raise ImportError("its library is of another version: install this project again")
    return library


@lru_cache(maxsize=1)
def _functions() -> dict[tuple[str, torch.dtype], Any]:
    """Return the library's functions by name and dtype, with their argument types declared."""
    found = {}
    for (name, (sizes, pointers)), (dtype, suffix) in product(_SIGNATURES.items(), _SUFFIX.items()):
        function = getattr(_library(), f"{name}_{suffix}")
        function.argtypes = [ctypes.c_int64] * sizes + [ctypes.c_void_p] * pointers + [ctypes.c_int64]
        function.restype = ctypes.c_int64 if name in _COUNTING else None
        found[name, dtype] = function
    return found


def encode_topk(x: Tensor, values: Tensor, support: Tensor | None, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Compute what `autograd.Kernels.encode_topk` defines."""
    if support is None:
        return _encode_dense(x, values, bias, k)
    (tokens, d_in), (n, degree), dtype = x.shape, values.shape, x.dtype
    x, values, bias = widened(x), widened(values), widened(bias)
    codes = torch.empty(tokens, k, dtype=x.dtype)
    indices = torch.empty(tokens, k, dtype=torch.int64)
    wrong = _call("encode_topk", x, tokens, d_in, n, degree, k, x, values, support, bias, codes, indices)
    if wrong:
        raise IndexError(f"{wrong} rows of the support are not in 0..{d_in - 1} (d_in)")
    return codes.to(dtype), indices


def _encode_dense(x: Tensor, values: Tensor, bias: Tensor, k: int) -> tuple[Tensor, Tensor]:
    tokens, n = len(x), len(values)
    codes = torch.empty(tokens, k, dtype=widened(x[:1]).dtype)
    indices = torch.empty(tokens, k, dtype=torch.int64)
    chunk = max(64, _CHUNK_VALUES // n)
    for start in range(0, tokens, chunk):
        part = slice(start, start + chunk)
        z = widened(onednn_linear(x[part], values, bias))
        _call("topk", z, len(z), n, k, z, codes[part], indices[part])
    return codes.to(x.dtype), indices


def weighted_atoms(
    weights: Tensor, indices: Tensor, values: Tensor, support: Tensor | None, d_in: int, start: Tensor | None = None
) -> Tensor:
    """Compute what `autograd.Kernels.weighted_atoms` defines."""
    (tokens, k), degree, dtype = weights.shape, values.shape[1], weights.dtype
    weights, values = widened(weights), widened(values)
    begin = None if start is None else widened(start)
    out, n = torch.empty(tokens, d_in, dtype=weights.dtype), len(values)
    wrong = _call("weighted_atoms", out, tokens, d_in, n, degree, k, weights, indices, values, support, begin, out)
    if wrong:
        raise IndexError(f"{wrong} picks are not in 0..{n - 1} (n_latents), or use rows outside 0..{d_in - 1} (d_in)")
    return out.to(dtype)


def atom_products(y: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
    """Compute what `autograd.Kernels.atom_products` defines."""
    (tokens, d_in), k, degree, dtype = y.shape, indices.shape[1], values.shape[1], y.dtype
    y, values = widened(y), widened(values)
    out = torch.empty(tokens, k, dtype=y.dtype)
    _call("atom_products", out, tokens, d_in, degree, k, y, indices, values, support, out)
    return out.to(dtype)


def atom_gradient(weights: Tensor, indices: Tensor, y: Tensor, support: Tensor | None, n_latents: int) -> Tensor:
    """Compute what `autograd.Kernels.atom_gradient` defines."""
    (tokens, d_in), k, dtype = y.shape, indices.shape[1], y.dtype
    weights, y = widened(weights), widened(y)
    if support is None:
        out = torch.empty(n_latents, d_in, dtype=y.dtype)
        _call("dense_atom_gradient", out, tokens, d_in, n_latents, k, weights, indices, y, out)
    else:
        out = torch.empty(support.shape, dtype=y.dtype)
        _call("atom_gradient", out, tokens, d_in, *support.shape, k, weights, indices, y, support, out)
    return out.to(dtype)


def loss_sums(
    u: Tensor,
    codes: Tensor,
    indices: Tensor,
    unit: Tensor,
    inverse: Tensor,
    support: Tensor | None,
    encoder: Tensor | None,
    always_on: int,
    frozen: bool,
) -> LossSums:
    """Compute what `autograd.Losses.loss_sums` defines, in float32 or float64."""
    (tokens, d_in), (n, degree) = u.shape, unit.shape
    left, errors, into_bias = torch.empty_like(u), u.new_empty(tokens), u.new_empty(d_in)
    into_encoder = None if encoder is None else u.new_empty(n)
    into_rows = None if encoder is None or encoder is unit else torch.empty_like(encoder)
    into_atoms = None if frozen else torch.empty_like(unit)
    sizes, given = (tokens, d_in, n, degree, codes.shape[1], always_on), (u, codes, indices, unit, inverse, support)
    out = LossSums(left, errors, into_bias, into_encoder, into_rows, into_atoms)
    wrong = _call("loss_sums", u, *sizes, *given, encoder, *out)
    if wrong:
        raise IndexError(f"{wrong} picks are not in 0..{n - 1} (n_latents)")
    return out


def gomp(x: Tensor, values: Tensor, support: Tensor | None, k: int, block: int, signed: bool) -> tuple[Tensor, Tensor]:
    """Compute what `autograd.Pursuits.gomp` defines."""
    codes, indices, wide, sizes = _pursuit_args(x, values, k)
    wrong = _call("gomp", wide[0], *sizes, block, int(not signed), *wide, support, indices, codes)
    return _checked_picks(wrong, codes, indices, x)


def matching_pursuit(
    x: Tensor, values: Tensor, support: Tensor | None, k: int, signed: bool, refit: bool
) -> tuple[Tensor, Tensor]:
    """Compute what `autograd.Pursuits.matching_pursuit` defines.

    Dense atoms use their Gram matrix (n_latents, n_latents) where that is not too large.
    """
    codes, indices, wide, sizes = _pursuit_args(x, values, k)
    atoms, gram = wide[1], None
    if _gram_pays(len(x), k, values, support):
        gram = onednn_linear(atoms, atoms, atoms.new_zeros(len(atoms)))
    flags = int(not signed), int(refit)
    wrong = _call("matching_pursuit", wide[0], *sizes, *flags, *wide, support, gram, indices, codes)
    return _checked_picks(wrong, codes, indices, x)


def refit(x: Tensor, indices: Tensor, values: Tensor, support: Tensor | None) -> Tensor:
    """Compute what `autograd.Pursuits.refit` defines."""
    codes, _, wide, sizes = _pursuit_args(x, values, indices.shape[1])
    wrong = _call("refit", wide[0], *sizes, *wide, support, indices, codes)
    return _checked_picks(wrong, codes, indices, x)[0]


def _gram_pays(tokens: int, k: int, values: Tensor, support: Tensor | None) -> bool:
    """Return whether a Gram matrix of the atoms saves more than it costs.

    Making it takes n_latents * n_latents * d_in multiply-adds; without it each token and pick costs one product.
    """
    return support is None and len(values) ** 2 <= _GRAM_VALUES and len(values) <= tokens * k


def _pursuit_args(x: Tensor, values: Tensor, k: int) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[int, ...]]:
    """Return (codes to fill, indices to fill, (x, values) as they are computed, the sizes that every pursuit takes)."""
    (tokens, d_in), (n, degree) = x.shape, values.shape
    wide = widened(x), widened(values)
    codes = torch.empty(tokens, k, dtype=wide[0].dtype)
    return codes, torch.empty(tokens, k, dtype=torch.int64), wide, (tokens, d_in, n, degree, k)


def _checked_picks(wrong: int, codes: Tensor, indices: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    if wrong:
        raise IndexError(f"{wrong} picks are no latents, or use rows outside 0..{x.shape[1] - 1} (d_in)")
    return codes.to(x.dtype), indices


def unit_norm(values: Tensor) -> tuple[Tensor, Tensor]:
    """Compute what `autograd.Kernels.unit_norm` defines."""
    (n, degree), wide = values.shape, widened(values)
    unit, inverse = torch.empty_like(wide), torch.empty(n, dtype=wide.dtype)
    _call("unit_norm", wide, n, degree, wide, unit, inverse)
    return unit.to(values.dtype), inverse


def unit_norm_gradient(grad: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """Compute what `autograd.Kernels.unit_norm_gradient` defines."""
    (n, degree), wide = grad.shape, widened(grad)
    out = torch.empty_like(wide)
    _call("unit_norm_gradient", wide, n, degree, wide, widened(unit), inverse, out)
    return out.to(grad.dtype)


def clipped_adam(
    parameters: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    max_norm: float,
) -> None:
    """Do in one call what `clip_grad_norm_` with `max_norm` and then step number `step` (from 1) of Adam do.

    Gradients are left as they are.

    Args:
        parameters: of each its values, gradient, and Adam's running means of gradients and of their squares; contiguous
            and float32, on the CPU.
    """
    table = [number for one in parameters for number in (one[0].numel(), *(_pointer(t, torch.float32) for t in one))]
    step_size, correction = lr / (1 - betas[0] ** step), math.sqrt(1 - betas[1] ** step)
    numbers = (ctypes.c_int64 * len(table))(*table)
    _plain("clipped_adam")(
        len(parameters), numbers, step_size, correction, *betas, eps, max_norm, torch.get_num_threads()
    )


@lru_cache
def _plain(name: str) -> Any:
    """Return a function of the library that is there for float32 alone, and returns nothing."""
    function = getattr(_library(), name)
    function.argtypes, function.restype = _PLAIN[name], None
    return function


def best_states(
    targets: Tensor, weights: Tensor, values: Tensor, bits: int, start: Tensor | None, end: Tensor | None
) -> Tensor:
    """Return the states of the nearest paths through a trellis: int64 (n, steps).

    Args:
        targets, weights, start, end: as `sae_core.trellis` has them, on the CPU, floats in float32.
        values: float32 (4096,), the value of each state.
        bits: of a step: 4, 2 or 1.
    """
    path = torch.empty(targets.shape, dtype=torch.int64)
    given = (targets, weights, values, start, end)
    tensors = [*(None if tensor is None else tensor.contiguous() for tensor in given), path]
    addresses = [None if tensor is None else _pointer(tensor, torch.float32) for tensor in tensors]
    _plain("best_states")(*targets.shape, bits, *addresses, torch.get_num_threads())
    return path


def limit_instructions(level: int) -> int:
    """Use no vector instructions beyond `level` (0 baseline, 1 AVX2, 2 AVX-512); return the level used. For tests."""
    return _library().limit_level(level)


@contextmanager
def updating_by(way: str) -> Iterator[None]:
    """Let matching pursuit of sparse atoms keep correlations up to date in one way. For tests and benchmarks.

    Args:
        way: of `WAYS`: the cheapest; changing those that share a row of x with a pick; rows of the Gram matrix; making
            all anew.
    """
    before = _library().set_way_to_update(WAYS.index(way))
    try:
        yield
    finally:
        _library().set_way_to_update(before)


def _call(name: str, like: Tensor, *arguments: int | Tensor | None) -> int:
    """Call the function `name` for the dtype of `like`, with the thread count last.

    Tensors of floats must be of that dtype, those of indices int64.
    """
    values: list[int | None] = []
    for argument in arguments:
        values.append(_pointer(argument, like.dtype) if isinstance(argument, Tensor) else argument)
    return _functions()[name, like.dtype](*values, torch.get_num_threads())


def _pointer(tensor: Tensor, dtype: torch.dtype) -> int:
    """Return the address of a tensor's data. Raises TypeError for a tensor that the library would misread."""
    address = tensor.data_ptr() if tensor.device.type == "cpu" and tensor.is_contiguous() else 0
    if tensor.dtype not in (dtype, torch.int64) or (address == 0 and tensor.numel() > 0):
        raise TypeError(f"a {tensor.dtype} tensor on {tensor.device} cannot be handed to the compiled {dtype} kernels")
    return address
