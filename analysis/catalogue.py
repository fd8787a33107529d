"""The catalogue of figures and tables by name.

It names modules and does not import them, so that --help and mistakes need not wait for pandas.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from analysis.output import Options, Output
    from analysis.read.records import Records

    Make = Callable[[Records, Options], list[Output]]


class Entry(NamedTuple):
    """A figure or table, and the function that makes it of records."""

    module: str  # under `analysis`
    function: str
    help: str  # one line for the command line

    def load(self) -> Make:
        """Import the module and return the function."""
        return getattr(import_module(f"analysis.{self.module}"), self.function)


CATALOGUE = {
    "frontier": Entry("commands", "frontier", "what each arm preserves against what it stores"),
    "pareto": Entry(
        "commands", "pareto", "the runs of any k, n, d and arm that no other run beats, as a search finds them"
    ),
    "dominance": Entry(
        "commands", "dominance", "the arm that preserves the most at given stored bytes and multiply-adds"
    ),
    "iso_bytes": Entry("commands", "iso_bytes", "the best sparse and the best dense dictionary at equal stored bytes"),
    "iso_storage": Entry("commands", "iso_storage", "more atoms or fuller ones, at equal decoder values"),
    "scale": Entry("commands", "scale", "time, memory and bytes of very many atoms, beside those of dense ones"),
    "wins": Entry("commands", "wins", "arm against arm: paired difference, cells won of cells"),
    "matched": Entry("commands", "matched", "expander against dense at equal values, parameters and bytes"),
    "supports": Entry("commands", "supports", "every kind of support, and its difference to the expander's"),
    "masks": Entry("commands", "masks", "expander, clustered and pruned supports: CE recovered and dead latents"),
    "bits": Entry("commands", "bits", "arms at 32 and fewer bits a value against stored bytes"),
    "amortisation": Entry("commands", "amortisation", "what reading codes by pursuit adds, and what it costs"),
    "throughput": Entry(
        "commands", "throughput", "tokens a second against relative error, for each way of reading codes"
    ),
    "compressed": Entry("commands", "compressed", "SAEs that were made smaller, beside what they were made of"),
    "certificates": Entry("commands", "certificates", "identifiability and OMP ratios of each dictionary against k"),
    "recovery": Entry("commands", "recovery", "phase transitions of synthetic recovery"),
    "meaning": Entry("commands", "meaning", "which known features latents stand for, beside the random floor"),
    "probing": Entry("commands", "probing", "how well a few latents tell labelled concepts, beside the random floor"),
    "stability": Entry("commands", "stability", "how far latents and atoms depend on the seed, beside chance"),
    "three_axes": Entry("commands", "three_axes", "bytes, fidelity and meaning side by side, beside the random floor"),
    "learning_curves": Entry("commands", "learning_curves", "FVU and dead latents against training tokens"),
    "data_efficiency": Entry("commands", "data_efficiency", "CE recovered against the tokens in the training pool"),
    "layers": Entry("commands", "layers", "CE recovered layer by layer"),
    "seeds": Entry("commands", "seeds", "how far seeds spread, per arm (cells with five seeds or more)"),
    "latents_summary": Entry("commands", "latents_summary", "dead, novel, reliable and diverse latents per arm"),
    "table1": Entry("latex.paper", "table1", "relative error and CE recovered at small, middle, large d and dense"),
    "table2": Entry("latex.deployment", "table2", "what each arm stores: values, indices, biases, the file"),
    "table3": Entry("latex.deployment", "table3", "own encoder and OMP, with the paired gain"),
    "table7": Entry("latex.paper", "table7", "CE recovered layer by layer, as a table"),
    "table10": Entry("latex.paper", "table10", "the grid of d and k: CE recovered, relative error, dead latents"),
}

# Entries that `all` makes in place of the ones above: the frontier over each storage axis, dominance by each measure.
FOR_ALL = {"frontier": Entry("commands", "frontiers", ""), "dominance": Entry("commands", "dominances", "")}
