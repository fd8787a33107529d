"""How much work a cell is, in nanoseconds of one CPU core: what estimates of time are scaled by.

The factors are fitted to 72 training steps of 256 tokens on one core (m=64..1024, n=512..8192, d=3..60 and dense;
one-shot, mp_refit, omp, gomp4), most of them within 1.4. Only ratios matter once a record or a probe of some cell is
there.
"""

from __future__ import annotations

from collections.abc import Iterable

from sae_core.arms.base import TOPK
from sae_core.inference import ENCODER, REFIT
from sae_core.pursuit.solvers import block_of
from sae_core.regrow import SupportSchedule
from sae_core.storage import NO_SUPPORT, Layout

_STEP, _GATHERED, _MULTIPLIED, _SCANNED = 1.4e6, 0.041, 0.0055, 0.11  # a step; a product sparse, dense; a latent
_CHANGED, _SOLVED, _DECODED = 0.19, 0.26, 0.42  # a correlation that a pick changes; k*k*d to solve; k*d
_UPDATED = 5.2  # a parameter, a step
_REGROWN = 2.5  # steps on as many tokens
_ROUNDS, _FIT_ROUNDS = 50, 25  # of niht; of cosamp, as they come out
_LOGIT = 12.0  # compared, its KL included
_CO_FIRED, _CONTEXT, _DRAWN = 200.0, 5e5, 15.0  # two latents on a token; a latent's contexts; a number
_SETS, _PAIR, _DENSE_PAIR = 0.5e9, 25.0, 12.0  # theory's sets of atoms; two atoms compared

EXAMINED, NOVELTY, CONTEXTS = "examined", "novelty", "contexts"  # what is measured beside ways to read codes


def step_work(layout: Layout, k: int, batch: int) -> float:
    """One training step on `batch` tokens."""
    values = layout.n_latents * layout.degree + layout.encoder_values
    a_token = codes_work(layout, k, ENCODER) + _DECODED * k * layout.degree
    return _STEP + batch * a_token + _UPDATED * values


def steps_of(steps: int, batch: int, degree: int, schedule: SupportSchedule | None) -> float:
    """Training in steps of it, what the changes of a learned support take included."""
    if schedule is None:
        return steps
    changes = sum(1 for step in range(0, steps, schedule.every) if schedule.count(step, steps, degree))
    return steps + changes * _REGROWN * schedule.tokens / batch


def codes_work(layout: Layout, k: int, inference: str) -> float:
    """Finding one token's codes by `inference` (`sae_core.inference`)."""
    sparse = layout.support != NO_SUPPORT
    products = layout.n_latents * (layout.d_in if layout.own_encoder else layout.degree)
    scan = _SCANNED * layout.n_latents
    look = products * (_GATHERED if sparse else _MULTIPLIED) + scan
    solve = _SOLVED * k * k * layout.degree
    name = (layout.pursuit or TOPK) if inference in (ENCODER, REFIT) else inference
    name = name.removesuffix("_magnitude")
    if inference == REFIT:
        return codes_work(layout, k, ENCODER) + solve
    if name == TOPK:
        return look
    if name in ("mp", "mp_refit"):
        changed = layout.degree**2 * layout.n_latents / layout.d_in
        search = look + k * (_CHANGED * changed + scan) if sparse else k * look
        return search + (solve if name == "mp_refit" else 0)
    if name == "niht":
        return _ROUNDS * look
    if name == "cosamp":
        return _FIT_ROUNDS * (look + solve)
    return -(-k // block_of(name)) * look + solve * k / 8


def examination_work(layout: Layout, k: int, tokens: int) -> float:
    """Codes once more, and what is known of the dictionary (`sae_core.theory`)."""
    sparse, pairs = layout.support != NO_SUPPORT, layout.n_latents**2
    return tokens * codes_work(layout, k, ENCODER) + (_SETS + _PAIR * pairs if sparse else _DENSE_PAIR * pairs)


def evaluation_work(layout: Layout, k: int, asked: Iterable[str], tokens: int, vocabulary: int) -> float:
    """All that is `asked` on `tokens` held-out tokens, the LM's own work apart: ways to read codes, `EXAMINED`,
    `novelty`, `contexts`."""
    others = {EXAMINED: examination_work(layout, k, tokens), NOVELTY: _CO_FIRED * tokens * k * k,
              CONTEXTS: _CONTEXT * layout.n_latents}  # fmt: skip
    return sum(
        others[name] if name in others else tokens * (codes_work(layout, k, name) + _LOGIT * vocabulary)
        for name in asked
    )


def recovery_work(layout: Layout, k: int, algorithms: Iterable[str], trials: int) -> float:
    """A synthetic recovery experiment: dictionary and codes drawn, then found by each of `algorithms`."""
    drawn = _DRAWN * layout.n_latents * (layout.degree + trials)
    solved = _SOLVED * k * k * layout.degree
    return drawn + trials * sum(codes_work(layout, k, name) + solved for name in algorithms)
