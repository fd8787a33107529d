"""The frontier in four sentences: who preserves the most at which size and cost, how far above the floor, what to try.

Each number is read from the frontier's table; nothing here is known beforehand.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from analysis.arms import COMPRESSED, CONTROLS, IMPORTED, PCA, SPARSE, TOPK, display, parse
from analysis.frames import column, dicts, groups, only, where
from analysis.read.records import Records
from analysis.tables.frontier import frontier_table
from analysis.tables.pairs import CELL

_NEITHER = (*CONTROLS, PCA, IMPORTED, COMPRESSED)  # arms that are no sparse or dense dictionaries trained here
_LEVELS = 3  # how many sizes the first sentence names
_FULL = 0.8  # share of the rows of the cell with most from which on a cell is one of the full ones
_NEARLY = 1.02  # sizes that differ by less are the same: a dense dictionary has a whole number of atoms


def summary(records: Records) -> list[str]:
    """Return a title and four lines about one (model, layer, n, k): of those with about the most rows, the largest k.

    Rounded arms are left out: sizes are numbers of decoder values, whatever bits these have. So are SAEs of other
    files, which may be sparse or dense, and prefixes of an SAE's latents, which have no floor of their own.

    Raises:
        NoRunsError: no run has a cross-entropy.
    """
    cells = groups(frontier_table(records.runs), CELL)
    most = max(len(rows) for _, rows in cells)
    cell, table = max((found for found in cells if len(found[1]) >= _FULL * most), key=lambda found: found[0][-1])
    arms = map(parse, table["arm"])
    sparse_or_dense = where(table, [arm.base not in _NEITHER and not (arm.bits or arm.prefix) for arm in arms])
    return [
        _title(cell, table) + _elsewhere(cell, [other for other, _ in cells]),
        "size   " + _size(sparse_or_dense),
        "cost   " + _cost(sparse_or_dense),
        "floor  " + _floor(sparse_or_dense),
        "next   " + _next(sparse_or_dense, cell),
    ]


def _title(cell: tuple[Any, ...], table: pd.DataFrame) -> str:
    model, layer, n, k = cell
    seeds = int(column(table, "seeds").max())
    intervals = "one seed, so no intervals" if seeds == 1 else f"up to {seeds} seeds, 95 % intervals"
    return f"CE recovered of {model} after block {layer}, n={n}, k={k} ({intervals}; 1: as the LM itself, 0: as zeros)"


def _elsewhere(cell: tuple[Any, ...], cells: list[tuple[Any, ...]]) -> str:
    """Return a note on the LMs and layers that the summary leaves out, and how to ask for them."""
    others = sorted({(str(model), int(layer)) for model, layer, *_ in cells} - {(str(cell[0]), int(cell[1]))})
    if not others:
        return ""
    layers = {model: ", ".join(str(layer) for one, layer in others if one == model) for model, _ in others}
    named = "; ".join(f"{model} after block {found}" for model, found in layers.items())
    return f"\n       (there are runs of {named} too: --model NAME --layer L)"


def _size(table: pd.DataFrame) -> str:
    """Return who preserves the most of all, and at some of the sizes that sparse dictionaries have."""
    if table.empty:
        return "no trained dictionary was measured."
    sizes = sorted(set(_of_kind(table, sparse=True)["x"]))
    named = dict.fromkeys((sizes[0], sizes[len(sizes) // 2], sizes[-1])) if len(sizes) > _LEVELS else sizes
    winners = {size: _best(where(table, table["x"] * _NEARLY >= size)) for size in named}
    sizes_of: dict[str, list[str]] = {}  # one SAE may be the best at several sizes
    for size, best in winners.items():
        sizes_of.setdefault(f"{_named(best)}, {_mean(best)}", []).append(f"1/{size:.{2 if size < 10 else 3}g}")
    shares = "; ".join(f"{' and '.join(these)}: {best}" for best, these in sizes_of.items())
    whole = f"of all, {_named(_best(table))} preserves the most, {_mean(_best(table))}"
    return whole + (f"; in at most a share of the full dense dictionary's values, {shares}." if shares else ".")


def _cost(table: pd.DataFrame) -> str:
    """Return who wins at equal sizes one-shot, which costs the least, and who wins read in any way."""
    one_shot = only(table, reading=TOPK)
    sentences = [_duel("Read one-shot, the cheapest way", one_shot)]
    if len(one_shot) < len(table):
        sentences.append(_duel("Trained and read in any way measured", table))
    return " ".join(sentences)


def _duel(how: str, table: pd.DataFrame) -> str:
    """Return at how many sizes of dense dictionaries a sparse one of that size preserves more, and by how much."""
    sparse, dense = _of_kind(table, sparse=True), _of_kind(table, sparse=False)
    gains: list[float] = []
    for size in sorted(set(dense["x"])):
        fits = where(sparse, (sparse["x"] * _NEARLY >= size))
        same = where(fits, fits["x"] <= size * _NEARLY)
        if len(same):
            gains.append(_best(same)["mean"] - _best(where(dense, dense["x"] * _NEARLY >= size))["mean"])
    if not gains:
        return f"{how}, no sparse dictionary has the size of a dense one."
    won = sum(gain > 0 for gain in gains)
    return (
        f"{how}, sparse beats dense of equal size {won} of {len(gains)} times ({min(gains):+.3f} to {max(gains):+.3f})."
    )


def _floor(table: pd.DataFrame) -> str:
    """Return what a random dictionary preserves, per way of reading, and what training adds to it."""
    sparse = _of_kind(table, sparse=True)
    known = where(sparse, sparse["floor"].notna())
    if known.empty:
        return "no random dictionary was measured, so nobody can say what training added: add sae=frozen_random."
    parts: list[str] = []
    for (reading,), rows in groups(known, ["reading"]):
        gains = column(rows, "mean") - column(rows, "floor")
        how = "one-shot" if reading == TOPK else f"by {reading}"
        scores, added = _span(column(rows, "floor")), _span(gains)
        parts.append(f"read {how} {scores}, training adds {added}")
    unclear = sum(row["mean"] - row["floor"] <= row["resolvable"] for row in dicts(known))
    doubt = f" {unclear} of {len(known)} are not above it with these seeds." if unclear else ""
    return f"a random dictionary, which stores one bias vector, preserves: {'; '.join(parts)}.{doubt}"


def _next(table: pd.DataFrame, cell: tuple[Any, ...]) -> str:
    """Return the command for what these records lack first: pursuit, a learned support in a better basis, seeds."""
    layer, k = cell[1], cell[3]
    of = f"python -m sweep -m layer={layer} k={k}"
    labels = [parse(arm) for arm in table["arm"]]
    if not any(arm.pursuit for arm in labels):
        return (
            f"train by pursuit, which reads sparse atoms better: {of} sae=expander,frozen_random sae.encoder=mp_refit"
        )
    if not any(arm.base == "dynamic" and arm.basis for arm in labels):
        arms = "sae=dynamic,frozen_random sae.basis=reflections64 sae.encoder=mp_refit"
        return f"learn the support, in a basis of principal directions: {of} {arms}"
    if int(column(table, "seeds").max()) < 3:
        return "more seeds, for intervals: the same command with seed=0,1,2"
    return "what latents stand for, which fidelity does not tell: python -m sweep experiment=meaning/synthetic"


def _best(table: pd.DataFrame) -> dict[str, Any]:
    return max(dicts(table), key=lambda row: row["mean"])


def _is_sparse(arm: str) -> bool:
    return parse(arm).base in SPARSE


def _of_kind(table: pd.DataFrame, sparse: bool) -> pd.DataFrame:
    return where(table, [_is_sparse(arm) == sparse for arm in table["arm"]])


def _named(row: dict[str, Any]) -> str:
    arm, d = row["arm"], row["d"]
    return display(arm) + (f" (d={d:.0f})" if _is_sparse(arm) and not math.isnan(d) else "")


def _mean(row: dict[str, Any]) -> str:
    interval = row["half_interval"]
    return f"{row['mean']:.3f}" + (f" ± {interval:.3f}" if interval > 0 else "")


def _span(values: pd.Series) -> str:
    low, high = float(values.min()), float(values.max())
    return f"{low:.3f} to {high:.3f}" if high - low >= 0.0005 else f"{low:.3f}"
