"""The base class of bases, and what their names say."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import nn

NEURONS = "neurons"  # the basis of the LM's own coordinates
FOURIER = "fourier"  # random signs and a fast transform: directions that are spread over all neurons
BASIS_BITS = 8  # of each value of a basis whose values were rounded
_TRAINED = "_trained"


class BasisName(NamedTuple):
    """The parts of a basis' name, such as `reflections64_trained`."""

    kind: str
    number: int = 0  # of the kind that has one, such as R reflections
    trained: bool = False

    def __str__(self) -> str:
        return self.kind + (str(self.number) if self.number else "") + (_TRAINED if self.trained else "")


class Basis(nn.Module):
    """An orthogonal map Q of R^d_in: the coordinates that atoms are sparse in. Abstract.

    What it stores is one parameter, in `value_bits` bits a value, which asks for no gradient unless the basis is
    trained with the rest. Below 32 bits the parameter holds whole numbers, and nothing is stored beside them.
    """

    follows_data: ClassVar[bool] = False  # whether `make` looks at activations
    solves: ClassVar[bool] = False  # whether `into` solves equations, for which the host waits for a GPU
    needs_seed: ClassVar[bool] = False  # whether a saved one must have its seed to be the same again

    name: BasisName
    seed: int | None = None  # the seed that it is drawn from, None where none is
    value_bits: int = 32

    @property
    def stored(self) -> torch.Tensor | None:
        """The parameter that holds all that the basis stores; None where a seed regenerates it or it has nothing."""
        return next(self.parameters(), None)

    @staticmethod
    def shape(name: BasisName, d_in: int) -> tuple[int, ...]:
        """Return the shape of `stored`, () where nothing is stored. Raises ValueError where the name asks too much."""
        return ()

    @classmethod
    @abstractmethod
    def make(cls, name: BasisName, d_in: int, seed: int, sample: torch.Tensor | None) -> Basis:
        """Make the basis called `name`.

        Args:
            seed: draws whatever is random.
            sample: (tokens, d_in) activations that a basis which follows the data is made of; None for random ones.
        """

    @abstractmethod
    def into(self, x: torch.Tensor) -> torch.Tensor:
        """Return the coordinates Qx in this basis of each row x of (rows, d_in); gradients reach x and `stored`."""

    @abstractmethod
    def out_of(self, u: torch.Tensor) -> torch.Tensor:
        """Return Q^T u of each row u of (rows, d_in), the inverse of `into`; gradients reach u and `stored`."""

    @abstractmethod
    def multiply_adds(self, d_in: int) -> int:
        """Return the multiply-adds that `into` takes for one row."""

    def leading(self, x: torch.Tensor, count: int) -> torch.Tensor:
        """Return the first `count` of the coordinates that `into` gives: (rows, count)."""
        return self.into(x)[:, :count]

    def leading_multiply_adds(self, d_in: int, count: int) -> int:
        """Return the multiply-adds that `leading` takes for one row, once for all rows aside."""
        return self.multiply_adds(d_in)

    def whole_numbers(self) -> torch.Tensor:
        """Return `stored` as whole numbers of BASIS_BITS bits that make nearly the same Q, in its shape and dtype.

        A basis that stores values has a way of its own to do so.
        """
        raise NotImplementedError(f"{self.name} stores nothing that could be rounded")

    @torch.no_grad()
    def round_values(self) -> None:
        """Keep what is stored as whole numbers of BASIS_BITS bits from now on, if it is not kept so already."""
        if self.stored is not None and self.value_bits > BASIS_BITS:
            self.stored.copy_(self.whole_numbers())
            self.value_bits = BASIS_BITS
