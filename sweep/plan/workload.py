"""Predict the work of a training step, an evaluation or a recovery experiment, in nanoseconds of one CPU core.

Estimates of time are scaled by these predictions: once a finished run or a probe is there, only the ratio of two
predictions matters.
"""

from __future__ import annotations

from collections.abc import Iterable

from sae_core.arms.base import ONE_SHOT, TOPK
from sae_core.bases import basis_name
from sae_core.encoders import BatchTopK
from sae_core.inference import ENCODER, REFIT
from sae_core.pursuit.solvers import block_of, prefixes_of, steps_of
from sae_core.regrow import SupportSchedule
from sae_core.storage import NO_SUPPORT, Layout
from sae_core.theory import MANY, SOME
from sweep.store.metric_names import PROBING

# Factors of a training step, and of finding codes. They are fitted to 180 steps of 256 tokens (m=64..1024, n=512..8192,
# d=3..60 and dense; one-shot, mp_refit, omp, gomp4, mp_cg2) and to 32 readings of 1,024 tokens, on one core: half of
# them within 1.25, nine of ten within 1.7. Such steps are timed beside their predictions by
#     python -m tests.benchmarks.workload
_STEP = 8.2e5  # ns a step, whatever its sizes
_SPARSE_PRODUCT = 0.035  # ns a product with a sparse atom's value
_DENSE_PRODUCT = 0.0255  # ns a product with a dense atom's value
_SCANNED = 0.133  # ns a latent, each time that all are searched for the largest
_CHANGED = 0.8  # ns a correlation that a pick of a sparse atom changes
_SCREENED = 0.0147  # ns a product with a sparse atom's value where they are made anew for each pick
_CHANGED_BY_ROW = 0.32  # ns a correlation that a pick of a dense atom changes
_SOLVED = 0.245  # ns for each of the k*k*d products of a least-squares solution on sparse atoms
_DENSE_SOLVED = 0.042  # the same on dense atoms
_SOLVED_BY_ROWS = 2.0  # ns for each of the k*k products of dense picks that are known
_TURNED = {"reflections": 0.02, "monarch": 0.05, "butterfly": 0.4}  # ns a product with a basis' value; m=2048
_DECODED = 0.35  # ns for each of the k*d products that decode a token
_UPDATED = 1.4  # ns a parameter

# Factors of all else. No command repeats their measurement; `sweep.plan.estimate` corrects them by the ratio of the
# times of finished runs to their predictions.
_READ_TOGETHER = 1024  # tokens whose codes an evaluation finds together
_REGROWN = 2.5  # steps on as many tokens that a change of a learned support takes
_NIHT_ROUNDS = 50  # iterations a token
_COSAMP_ROUNDS = 25  # iterations a token, as they come out
_LOGIT = 3.5  # ns a logit compared, its KL included
_CO_FIRED = 200.0  # ns a pair of latents that fire on one token
_CONTEXT = 5e5  # ns a latent whose contexts are collected
_DRAWN = 15.0  # ns a random number
_ATOM_SETS = 0.5e9  # ns an SAE: the sets of atoms that `sae_core.theory` looks at
_SPARSE_PAIR = 25.0  # ns a pair of sparse atoms compared
_DENSE_PAIR = 12.0  # ns a pair of dense atoms compared

_PROBED = 5e9  # ns a reading whose probes are fitted to one family of sets
_PROBED_TOKENS = {"code": 30_000, "texts": 600_000, "texts_last": 10_000}  # tokens that a family's probes read

# What an evaluation measures beside ways to read codes.
EXAMINED = "examined"
NOVELTY = "novelty"
CONTEXTS = "contexts"


def measurements(
    inference: Iterable[str], novelty: bool | int, contexts: bool | int, probing: Iterable[str]
) -> frozenset[str]:
    """Return the names of all that an evaluation with these settings of `eval` measures.

    The names are those of ways to read codes (`sae_core.inference`), and `EXAMINED`, `NOVELTY`, `CONTEXTS`, and
    "probing/code" for the family of labelled sets `code`, for example.
    """
    found = {*inference, EXAMINED}
    if novelty:
        found.add(NOVELTY)
    if contexts:
        found.add(CONTEXTS)
    return frozenset(found | {PROBING + family for family in probing})


def readings_in(measured: Iterable[str]) -> list[str]:
    """Return the ways of reading codes among names that `measurements` gives."""
    return [name for name in measured if name not in (EXAMINED, NOVELTY, CONTEXTS) and not name.startswith(PROBING)]


def step_work(layout: Layout, k: int, batch: int) -> float:
    """Return the work of one training step on `batch` tokens, in ns."""
    values = layout.n_latents * layout.degree + layout.encoder_values + layout.basis_values
    # The way into a basis takes two products with each of its values; training it, with the way back, as long as eight.
    basis = basis_name(layout.basis)
    turned = (8 if basis.trained else 2) * _TURNED.get(basis.kind, 0) * layout.basis_values
    decoded = min(BatchTopK.WIDTH * k, layout.n_latents) if layout.batch_topk else k
    coded = codes_work(layout, k, ENCODER, batch)
    if layout.prefixes:  # each is decoded by itself, and a pursuit looks for the codes of each anew
        decoded *= len(layout.prefixes)
        parts = layout.prefixes[:-1] if layout.pursuit else ()
        coded += sum(codes_work(layout._replace(n_latents=size), min(k, size), ENCODER, batch) for size in parts)
    a_token = coded + _DECODED * decoded * layout.degree + turned
    return _STEP + batch * a_token + _UPDATED * values


def equivalent_steps(steps: int, batch: int, degree: int, schedule: SupportSchedule | None) -> float:
    """Return how many plain steps take as long as a training of `steps` with the changes of a learned support.

    Args:
        schedule: when the support changes; None where it is fixed.
    """
    if schedule is None:
        return steps
    changes = sum(1 for step in range(0, steps, schedule.every) if schedule.count(step, steps, degree))
    return steps + changes * _REGROWN * schedule.tokens / batch


def codes_work(layout: Layout, k: int, inference: str, tokens: int = _READ_TOGETHER) -> float:
    """Return the work of finding one token's codes by `inference` (`sae_core.inference`), in ns.

    Args:
        tokens: how many tokens' codes are found together, which share the products of dense atoms.
    """
    sparse = layout.support != NO_SUPPORT
    products = layout.encoder_rows * (layout.d_in if layout.own_encoder else layout.degree)
    scan = _SCANNED * layout.n_latents
    look = products * (_SPARSE_PRODUCT if sparse else _DENSE_PRODUCT) + scan
    solve = (_SOLVED if sparse else _DENSE_SOLVED) * k * k * layout.degree
    name = (layout.pursuit or TOPK) if inference in (ENCODER, REFIT) else inference
    name = name.removesuffix("_magnitude")
    if inference == REFIT:
        return codes_work(layout, k, ENCODER, tokens) + solve
    if name in ONE_SHOT:
        return look
    if name == "niht":
        return _NIHT_ROUNDS * look
    if name == "cosamp":
        return _COSAMP_ROUNDS * (look + solve)
    if name.startswith(("mp", "nested")):
        search = _search_work(layout, k, look, tokens)
        if name == "mp":
            return search
        if steps := steps_of(name):
            return search + steps * _DECODED * (2 * k * layout.degree + layout.d_in)
        return search + len(prefixes_of(name, layout.n_latents)) * (solve if sparse else _SOLVED_BY_ROWS * k * k)
    return -(-k // block_of(name)) * look + solve * (k / 8 if sparse else 1)


def _search_work(layout: Layout, k: int, look: float, tokens: int) -> float:
    """Return the work of k picks of matching pursuit for one token, in ns; `look` is that of all correlations once."""
    n, degree, scan = layout.n_latents, layout.degree, _SCANNED * layout.n_latents
    if layout.support != NO_SUPPORT:
        changed = degree**2 * n / layout.d_in
        return look + k * (min(_CHANGED * changed, _SCREENED * n * degree) + scan)
    products_of_atoms = n * n * degree / 2 * _DENSE_PRODUCT / tokens
    return min(k * look, look + products_of_atoms + k * n * _CHANGED_BY_ROW)


def examination_work(layout: Layout, k: int, tokens: int) -> float:
    """Return the work of finding codes once more and of comparing the atoms (`sae_core.theory`), in ns."""
    n = layout.n_latents
    pairs = n * (n if n <= MANY else SOME)
    atoms = _DENSE_PAIR * pairs if layout.support == NO_SUPPORT else _ATOM_SETS + _SPARSE_PAIR * pairs
    return tokens * codes_work(layout, k, ENCODER) + atoms


def evaluation_work(layout: Layout, k: int, measured: Iterable[str], tokens: int, vocabulary: int) -> float:
    """Return the work of an evaluation on `tokens` held-out tokens, less the LM's own, in ns.

    Args:
        measured: names as `measurements` gives them.
    """
    measured = set(measured)
    a_token = {name: codes_work(layout, k, name) for name in readings_in(measured) or [ENCODER]}
    others = {
        EXAMINED: examination_work(layout, k, tokens),
        NOVELTY: _CO_FIRED * tokens * k * k,
        CONTEXTS: _CONTEXT * layout.n_latents,
        **{
            PROBING + family: items * sum(a_token.values()) + _PROBED * len(a_token)
            for family, items in _PROBED_TOKENS.items()
        },
    }
    return sum(others[name] if name in others else tokens * (a_token[name] + _LOGIT * vocabulary) for name in measured)


def recovery_work(layout: Layout, k: int, algorithms: Iterable[str], trials: int) -> float:
    """Return the work of a synthetic recovery experiment, in ns.

    A dictionary and codes are drawn, and then the codes are found by each of `algorithms`.
    """
    drawn = _DRAWN * layout.n_latents * (layout.degree + trials)
    solved = _SOLVED * k * k * layout.degree
    return drawn + trials * sum(codes_work(layout, k, name) + solved for name in algorithms)
