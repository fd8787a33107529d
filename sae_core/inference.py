"""The ways to read codes from a trained SAE, by name, and the cost of each.

encoder     by the SAE's own encoder, the one it was trained with
topk        one-shot, exactly k latents: by its own TopK, or by W^T x without bias where it was trained by a pursuit
refit       its own encoder's picks, with codes by least squares
omp, gomp4, mp_refit, ...   by any pursuit of `sae_core.pursuit.solvers`
"""

from __future__ import annotations

from sae_core.encoders import (
    ByPursuit,
    Encoder,
    NormedPursuit,
    OneShot,
    Picking,
    Refitted,
    TiedTopK,
    inner_encoder,
    looks_at_energy,
)
from sae_core.kronecker import KroneckerTopK
from sae_core.pursuit.reference import STEPS
from sae_core.pursuit.solvers import NAMES, block_of, canonical, prefixes_of, steps_of, stops_by_gain
from sae_core.sae import SAE

ENCODER, ONE_SHOT, REFIT = "encoder", "topk", "refit"


def inference_name(name: str) -> str:
    """Return the canonical name of a way to read codes. Raises ValueError where no way has this name."""
    if name in (ENCODER, ONE_SHOT, REFIT):
        return name
    try:
        return canonical(name)
    except ValueError:
        raise ValueError(f"{name} is no inference: choose from {ENCODER}, {ONE_SHOT}, {REFIT}, {NAMES}") from None


def infer_by(sae: SAE, name: str) -> SAE:
    """Return `sae` with its codes found in the way called `name`; parameters are shared, not copied.

    Raises ValueError where no way to read codes has this name.
    """
    name = inference_name(name)
    if name == ENCODER:
        return sae
    encoder: Encoder
    if name == ONE_SHOT:
        encoder = _one_shot(sae)
    else:
        encoder = Refitted(_without_refit(sae.encoder)) if name == REFIT else ByPursuit(name)
    return sae.with_encoder(encoder)


def read_alike(sae: SAE, one: str, other: str) -> bool:
    """Tell whether two ways to read codes are the same for this SAE, such as its own pursuit by its name."""
    a, b = infer_by(sae, one).encoder, infer_by(sae, other).encoder
    return a is b or (type(a) is ByPursuit and type(b) is ByPursuit and a.name == b.name)


def _one_shot(sae: SAE) -> OneShot:
    """Return the encoder of the inference `topk`."""
    encoder = inner_encoder(sae.encoder)
    if isinstance(encoder, ByPursuit):
        return TiedTopK(sae.dictionary).to(sae.b_dec.device, sae.b_dec.dtype)
    return encoder


def _without_refit(encoder: Encoder) -> Picking:
    """Return the encoder that picks the latents: the one inside a `Refitted`, any other itself."""
    return encoder.encoder if isinstance(encoder, Refitted) else encoder


def multiply_adds(sae: SAE) -> int:
    """Return how many multiply-adds finding one token's codes takes; comparisons are not counted.

    With e = n*d (dense: n*m) for the correlations of all atoms, and g = the sum over rows of row_degree^2 / n (about
    d*d*n/m) for those that one pick changes:

        one-shot      e, BatchTopK and JumpReLU as well; r*m + n for the r pre-latents of a `kron`
        mp, mp_refit  e + k*g (dense: k*e, as without a stored Gram matrix); mp_refit adds a refit
        omp, gomp{L}  ceil(k/L)*e, and the refit's work as it grows
        mp_cg{T}      mp, k*d for what it leaves, and 2*k*d + 2*m + 3*k a step
        refit         k(k+1)/2*d products among the picks, k^3/6 to factorise, 2 * (k^2 + 2*k*d) to solve and correct
        mp_floor{P}, nested_floor{P}
                      counted for k picks in each of their groups of atoms, and a refit after each group
        niht, cosamp  counted for the most steps that they may take (STEPS)

    The way into the dictionary's basis is taken once (`sae_core.bases`), and comes on top. It is R*m for a dictionary
    of rank R, whose d is R, unless a pursuit stops by its gain, for which it needs each token's energy.
    """
    dictionary = sae.dictionary
    whole = looks_at_energy(sae.encoder)
    turned = dictionary.basis.multiply_adds(dictionary.d_in) if whole else dictionary.coordinates_multiply_adds()
    return turned + _codes_cost(sae)


def _codes_cost(sae: SAE) -> int:
    encoder = sae.encoder
    if isinstance(encoder, NormedPursuit):
        return encoder.most * _correlation_cost(sae)
    if isinstance(encoder, ByPursuit):
        return _pursuit_cost(sae, encoder.name.removesuffix("_magnitude"))
    if isinstance(encoder, Refitted):
        return _codes_cost(sae.with_encoder(encoder.encoder)) + _refit_cost(sae, sae.k)
    return _correlation_cost(sae)


def _pursuit_cost(sae: SAE, name: str) -> int:
    k, degree, all_atoms = sae.k, sae.dictionary.degree, _correlation_cost(sae)
    if name in ("mp", "mp_refit"):
        return _matching_cost(sae) + (_refit_cost(sae, k) if name == "mp_refit" else 0)
    if stops_by_gain(name):
        return _matching_cost(sae) + len(prefixes_of(name, sae.dictionary.n_latents)) * _refit_cost(sae, k)
    if name == "niht":
        return STEPS * (all_atoms + 4 * k * degree)
    if name == "cosamp":
        return STEPS * (all_atoms + _refit_cost(sae, min(3 * k, sae.dictionary.n_latents)) + _refit_cost(sae, k))
    if steps := steps_of(name):
        return _matching_cost(sae) + k * degree + steps * (2 * k * degree + 2 * sae.dictionary.d_in + 3 * k)
    block = block_of(name)
    sizes = [min(k, done + block) for done in range(0, k, block)]
    each = 1 if block == 1 else 2  # a step subtracts all picks; in blocks it also correlates them with the residual
    return len(sizes) * all_atoms + _refit_cost(sae, k) + sum(size * size + each * size * degree for size in sizes)


def _correlation_cost(sae: SAE) -> int:
    """Return the multiply-adds of the correlations of all atoms with a token."""
    dictionary, encoder = sae.dictionary, inner_encoder(sae.encoder)
    if isinstance(encoder, KroneckerTopK):
        return encoder.weight.numel() + dictionary.n_latents
    return dictionary.n_latents * (dictionary.degree if sae.tied else dictionary.d_in)


def _matching_cost(sae: SAE) -> int:
    """Return the multiply-adds of k steps of matching pursuit without a refit."""
    support, all_atoms = sae.dictionary.support, _correlation_cost(sae)
    if support is None:  # every pick changes the correlation of every atom
        return sae.k * all_atoms
    changed = round(float(support.flatten().bincount().double().square().sum()) / len(support))
    return all_atoms + sae.k * changed


def _refit_cost(sae: SAE, k: int) -> int:
    """Return the multiply-adds of least squares on k picks."""
    degree = sae.dictionary.degree
    return k * (k + 1) // 2 * degree + k**3 // 6 + 2 * (k * k + 2 * k * degree)
