"""The rule by which a search of two objectives drops a run while it trains: who lies behind the front at its own size.

Optuna prunes only what has one objective, by comparing a run with all others: here that would drop every small SAE. An
SAE is bad for its size if SAEs of at most that size do better. The front has those that no other betters in both
stored bytes and the measure of what is preserved. So a run is compared with the front's SAEs of at most its size, by
the FVU at the same point of training: after equally many tokens of an equally long training, since the learning rate
falls towards the end. With f the run's FVU and f_i those of the m SAEs of the front, it is dropped where

    #{i : f > (1 + margin) f_i} >= share * m,   m >= 1,   after at least the share `after` of its training.

The margin leaves room for the seed. Of the embedded LM's records that ship, 108 settings have curves of three or more
seeds: at a quarter of training the standard deviation of FVU over seeds is .7 % of its mean in the median and 2.2 % in
the 95th percentile, and a difference of two runs spreads sqrt(2) times as much. So .1 is three such spreads where seeds
matter most. FVU does not tell all of what is preserved either, least of all between arms; `python -m
tests.benchmarks.pruning` replays the rule on all records that ship, with other shares and margins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class FrontRule(NamedTuple):
    """The rule's settings, `hydra.sweeper.prune_*`."""

    share: float = 0.25  # of the front's SAEs of at most the run's size that do better; 0: a single one is enough
    margin: float = 0.1  # FVU counts as worse if it is larger by more than this share
    after: float = 0.25  # share of its training that a run does in any case


class OnFront(NamedTuple):
    """An SAE of the front that trained as long as the run in question, on the same activations."""

    stored_bytes: int
    fvu: Mapping[int, float]  # by percent of its training


def why_dropped(stored_bytes: int, percent: int, fvu: float, front: Sequence[OnFront], rule: FrontRule) -> str | None:
    """Return why a run is to be dropped, in one line, or None if it is to go on.

    Args:
        stored_bytes: the size of its file.
        percent: how much of its training is done.
        fvu: its FVU at that point.
        front: the SAEs of the front that it can be compared with, of any size; those whose FVU at that point is not
            known are passed over.
    """
    if percent < 100 * rule.after or percent >= 100:
        return None
    known = [other.fvu[percent] for other in front if other.stored_bytes <= stored_bytes and percent in other.fvu]
    better = sum(fvu > (1 + rule.margin) * other for other in known)
    if not better or better < rule.share * len(known):
        return None
    return (
        f"FVU {fvu:.3f} at {percent} % of training is over {100 * rule.margin:g} % more than {better} of the front's "
        f"{len(known)} SAEs of at most its {stored_bytes:,} bytes had there, the best of them {min(known):.3f}"
    )
