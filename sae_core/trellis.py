"""Dense atoms by trellis-coded quantisation: a step of 1, 2 or 4 bits for each value, on a path through 4,096 states.

The state is the last 12 bits of the path, and each state stands for a fixed value, so that a file holds the path alone.
A step of 2 bits leads to one of four values, and which four these are follows from the steps before; of all paths,
Viterbi's algorithm finds the one nearest to an atom. On Gaussian atoms 2 bits so lose .073 of their square, where the
256 best pieces of four values lose .095 (`python -m tests.benchmarks.trellis`). The state before an atom's first step
is the one after its last, so that a start takes no bits.

(Marcellin and Fischer 1990, Trellis coded quantization of memoryless and Gauss-Markov sources; with states that are the
last bits, and values drawn at random: QTIP, arXiv 2406.11235.)

Which path an atom takes can follow the activations, as for pieces out of a codebook (`sae_core.error_feedback`).
"""

from __future__ import annotations

import functools
from statistics import NormalDist

import numpy as np
import torch

from sae_core.bases import Basis, Neurons
from sae_core.dictionary import Dictionary
from sae_core.error_feedback import feedback_factor
from sae_core.kernels import cpu

STATE_BITS = 12
STEP_BITS = (4, 2, 1)
_STATES = 1 << STATE_BITS
_SPREAD = {4: 0.95, 2: 0.97, 1: 1.1}  # root mean square of Gaussian values whose paths keep their directions best
_ROWS = 64  # atoms whose paths are searched at once
_BLOCK = 16  # values that are decided between two feedbacks of errors
_AHEAD = 16  # values behind them that a path is searched through before they are decided
_AROUND = 24  # values on either side of an atom's ends that are looked at for the state there


@functools.cache
def state_values() -> torch.Tensor:
    """Return the value of each state, float32 (4096,): the quantiles of the normal distribution in a random order."""
    order = np.argsort(np.random.PCG64(0).random_raw(_STATES), kind="stable")
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / _STATES) for i in range(_STATES)], dtype=np.float32)
    return torch.from_numpy(quantiles[order])


class TrellisDictionary(Dictionary):
    """Dense atoms that are paths through the trellis. They are not trained.

    Args:
        steps: uint8 (n_latents, d_in), the steps of each atom's path, of `bits` bits.
        bits: 4, 2 or 1.
        basis: the basis that values are coordinates in; the neurons' unless given.

    Raises:
        ValueError: see `check_steps`.
    """

    rows_of_atoms = ("values", "steps")

    steps: torch.Tensor

    def __init__(self, steps: torch.Tensor, bits: int, basis: Basis | None = None):
        super().__init__()
        check_steps(steps.shape[1], bits)
        self.d_in, self.support, self.drawn, self.basis = steps.shape[1], None, None, basis or Neurons()
        self.value_bits = bits
        self.register_buffer("steps", steps)
        self.register_buffer("values", values_on(steps, bits))

    def set_atoms(self, latents: torch.Tensor, directions: torch.Tensor) -> None:
        """Do nothing: an atom that is aimed anew does harm as long as training cannot turn it."""


def check_steps(d_in: int, bits: int) -> None:
    """Raise ValueError unless paths of d_in steps can be of `bits` bits a step: no fewer bits than a state has."""
    if bits not in STEP_BITS or d_in * bits < STATE_BITS:
        raise ValueError(
            f"d_in={d_in} values of bits={bits} make no path: bits must be 4, 2 or 1, and all values together "
            f"take {STATE_BITS} bits at least"
        )


def values_on(steps: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the values on paths of steps (n, d_in): float32 (n, d_in)."""
    states, steps = torch.zeros_like(steps, dtype=torch.int32), steps.int()
    for back in range(STATE_BITS // bits):
        states |= steps.roll(back, dims=1) << (bits * back)
    return torch.nn.functional.embedding(states, state_values().to(steps.device)[:, None]).squeeze(2)


def path_table(bits: int) -> torch.Tensor:
    """Return the last values on a path by its last bits: float32 (numbers of these bits, values).

    There is one value where a step has 4 bits and two where it has fewer.

    Looking up two at once is faster, as long as the table stays small.
    """
    values = 1 if bits == 4 else 2
    last = torch.arange(_STATES << bits * (values - 1))
    states = [last >> bits * back & (_STATES - 1) for back in range(values - 1, -1, -1)]
    return state_values()[torch.stack(states, 1)]


def paths_in_bytes(steps: torch.Tensor, bits: int) -> torch.Tensor:
    """Return paths as they lie in memory, two bytes of the state before the steps, then the steps: uint8 (n, bytes)."""
    padded = torch.nn.functional.pad(steps, (0, -steps.shape[1] % (8 // bits)))
    in_a_byte = padded.view(len(steps), -1, 8 // bits).int() << torch.arange(8 - bits, -1, -bits, device=steps.device)
    last = steps[:, -STATE_BITS // bits :].int()
    start = (last << torch.arange(STATE_BITS - bits, -1, -bits, device=steps.device)).sum(1)
    return torch.cat([start[:, None] >> 8, start[:, None] & 255, in_a_byte.sum(2)], 1).to(torch.uint8)


@torch.no_grad()
def nearest_steps(atoms: torch.Tensor, bits: int) -> torch.Tensor:
    """Return the steps of paths that point nearly in the direction of atoms (n, d_in): uint8 (n, d_in)."""
    scaled, even = _scaled(atoms, bits).float(), torch.ones(atoms.shape[1])
    states = [_best_states(part, even, bits, ends := _ends(part, bits), ends) for part in scaled.split(_ROWS)]
    return _steps(torch.cat(states), bits)


@torch.no_grad()
def weighted_steps(atoms: torch.Tensor, bits: int, moments: torch.Tensor) -> torch.Tensor:
    """Return the steps of paths with small errors e^T H e of whole atoms (n, d_in): uint8 (n, d_in).

    Values are decided 16 at a time, by the best path through them and the 16 after them. Then the rest of the atom is
    moved to where e^T H e is smallest given the errors so far.

    Args:
        moments: (d_in, d_in), see `feedback_factor`.
    """
    factor, d_in = feedback_factor(moments), atoms.shape[1]
    weights = (1 / factor.diagonal()).float()
    blocks = [slice(first, min(first + _BLOCK, d_in)) for first in range(0, d_in, _BLOCK)]
    turns = [torch.linalg.inv(factor[block, block]) for block in blocks]
    found: list[torch.Tensor] = []
    for rest in _scaled(atoms, bits).double().split(_ROWS):
        rest = rest.clone()
        before = ends = _ends(rest.float(), bits)
        states = torch.empty(rest.shape, dtype=torch.int64)
        for block, turn in zip(blocks, turns, strict=True):
            first, last = block.start, block.stop
            ahead = min(last + _AHEAD, d_in)
            targets = rest[:, first:ahead].float()
            best = _best_states(targets, weights[first:ahead], bits, before, ends if ahead == d_in else None)
            states[:, block] = best[:, : last - first]
            before = states[:, last - 1]
            errors = rest[:, block] - state_values()[states[:, block]]
            rest[:, last:] -= errors @ turn @ factor[block, last:]
        found.append(states)
    return _steps(torch.cat(found), bits)


def _scaled(atoms: torch.Tensor, bits: int) -> torch.Tensor:
    """Return atoms with values of the size that paths keep best."""
    return torch.nn.functional.normalize(atoms, dim=1) * (_SPREAD[bits] * atoms.shape[1] ** 0.5)


def _steps(states: torch.Tensor, bits: int) -> torch.Tensor:
    return (states & ((1 << bits) - 1)).to(torch.uint8)


def _ends(atoms: torch.Tensor, bits: int) -> torch.Tensor:
    """Return a good state for each path to start and end in, between last and first values: int64 (n,)."""
    around = max(_AROUND, STATE_BITS // bits)
    columns = torch.arange(-around, around) % atoms.shape[1]
    return _best_states(atoms[:, columns], torch.ones(2 * around), bits)[:, around - 1]


def _best_states(
    targets: torch.Tensor,
    weights: torch.Tensor,
    bits: int,
    start: torch.Tensor | None = None,
    end: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the states of the paths with the least sum of (weight * error)^2: int64 (n, values).

    The compiled search gives the same states as the one in PyTorch, which stands in where there is none.

    Args:
        targets: (n, values), where each path's values are to be.
        weights: (values,).
        start: int64 (n,), the state before the first step; None for any.
        end: int64 (n,), the state after the last step; None for any.
    """
    if cpu.why_unavailable(targets.device) is None:
        return cpu.best_states(targets, weights, state_values(), bits, start, end)
    return best_states_in_torch(targets, weights, bits, start, end)


def best_states_in_torch(
    targets: torch.Tensor, weights: torch.Tensor, bits: int, start: torch.Tensor | None, end: torch.Tensor | None
) -> torch.Tensor:
    """Do the search of `_best_states` in PyTorch."""
    (n, steps), branches, rows = targets.shape, 1 << bits, torch.arange(len(targets))
    before, values = _STATES // branches, state_values()
    cost = torch.zeros(n, _STATES)
    if start is not None:
        cost.fill_(torch.inf)[rows, start] = 0
    came_from = torch.empty(steps, n, before, dtype=torch.uint8)  # which of the states that lead there is the best
    least, which = torch.empty(n, before), torch.empty(n, before, dtype=torch.int64)
    for t in range(steps):
        # The state 4 q + s, say, follows on those whose last bits are q: q, q + 1024, q + 2048 and q + 3072.
        torch.min(cost.view(n, branches, before), 1, out=(least, which))
        came_from[t].copy_(which)
        torch.sub(targets[:, t, None], values, out=cost).mul_(weights[t]).square_()
        cost.view(n, before, branches).add_(least[:, :, None])
    state = cost.argmin(1) if end is None else end
    states = torch.empty(n, steps, dtype=torch.int64)
    for t in range(steps - 1, -1, -1):
        states[:, t] = state
        shorter = state >> bits
        state = came_from[t][rows, shorter].long() * before + shorter
    return states
