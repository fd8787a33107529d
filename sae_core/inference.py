"""Ways to read codes from a trained SAE, by name, and what each costs.

encoder     the SAE's own, the one it was trained with
topk        one-shot: its own TopK, or where it was trained by pursuit W^T x without bias
refit       its own encoder's picks, their codes by least squares
omp, gomp4, mp_refit, ...   any pursuit of `sae_core.pursuit.solvers`
"""

from __future__ import annotations

from sae_core.encoders import ByPursuit, Encoder, OwnTopK, Refitted, TiedTopK
from sae_core.pursuit.reference import STEPS
from sae_core.pursuit.solvers import NAMES, block_of, canonical
from sae_core.sae import SAE

ENCODER, ONE_SHOT, REFIT = "encoder", "topk", "refit"


def inference_name(name: str) -> str:
    """The one name of a way to read codes. Raises ValueError where there is none."""
    if name in (ENCODER, ONE_SHOT, REFIT):
        return name
    try:
        return canonical(name)
    except ValueError:
        raise ValueError(f"{name} is no inference: choose from {ENCODER}, {ONE_SHOT}, {REFIT}, {NAMES}") from None


def infer_by(sae: SAE, name: str) -> SAE:
    """`sae` with its codes found the way called `name`; parameters are shared."""
    name = inference_name(name)
    if name == ENCODER:
        return sae
    encoder: Encoder
    if name == ONE_SHOT:
        encoder = _one_shot(sae)
    else:
        encoder = Refitted(_not_refitted(sae.encoder)) if name == REFIT else ByPursuit(name)
    return sae.with_encoder(encoder)


def _one_shot(sae: SAE) -> TiedTopK | OwnTopK:
    encoder = _not_refitted(sae.encoder)
    if isinstance(encoder, ByPursuit):
        return TiedTopK(sae.dictionary).to(sae.b_dec.device, sae.b_dec.dtype)
    return encoder


def _not_refitted(encoder: Encoder) -> TiedTopK | OwnTopK | ByPursuit:
    return encoder.encoder if isinstance(encoder, Refitted) else encoder


def multiply_adds(sae: SAE) -> int:
    """Multiply-adds that finding one token's codes takes, comparisons not counted.

    With e = n*d (dense: n*m) for the correlations of all atoms, and g = the sum over rows of row_degree^2 / n (about
    d*d*n/m) for those that one pick changes:

        one-shot      e
        mp, mp_refit  e + k*g (dense: k*e, as without a stored Gram matrix), then a refit
        omp, gomp{L}  ceil(k/L)*e, and the refit's work as it grows
        refit         k(k+1)/2*d products among the picks, k^3/6 to factorise, 2 * (k^2 + 2*k*d) to solve and correct
        niht, cosamp  STEPS steps, the most they take
    """
    encoder = sae.encoder
    if isinstance(encoder, (TiedTopK, OwnTopK)):
        return _correlations(sae)
    if isinstance(encoder, Refitted):
        return multiply_adds(sae.with_encoder(encoder.encoder)) + _refit(sae, sae.k)
    name, k, all_atoms = encoder.name.removesuffix("_magnitude"), sae.k, _correlations(sae)
    if name in ("mp", "mp_refit"):
        search = all_atoms + k * _changed_by_a_pick(sae) if sae.dictionary.support is not None else k * all_atoms
        return search + (_refit(sae, k) if name == "mp_refit" else 0)
    if name == "niht":
        return STEPS * (all_atoms + 4 * k * sae.dictionary.degree)
    if name == "cosamp":
        return STEPS * (all_atoms + _refit(sae, min(3 * k, sae.dictionary.n_latents)) + _refit(sae, k))
    block, degree = block_of(name), sae.dictionary.degree
    sizes = [min(k, done + block) for done in range(0, k, block)]
    each = 1 if block == 1 else 2  # a step subtracts all picks, and in blocks also correlates them with what is left
    return len(sizes) * all_atoms + _refit(sae, k) + sum(size * size + each * size * degree for size in sizes)


def _correlations(sae: SAE) -> int:
    dictionary = sae.dictionary
    own = isinstance(sae.encoder, OwnTopK)
    return dictionary.n_latents * (dictionary.d_in if own else dictionary.degree)


def _changed_by_a_pick(sae: SAE) -> int:
    support = sae.dictionary.support
    assert support is not None
    return round(float(support.flatten().bincount().double().square().sum()) / len(support))


def _refit(sae: SAE, k: int) -> int:
    degree = sae.dictionary.degree
    return k * (k + 1) // 2 * degree + k**3 // 6 + 2 * (k * k + 2 * k * degree)
