"""A command's options, and its output: figures and tables, the files that they are written to, and notes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from analysis.arms import in_order
from analysis.frames import among, groups
from analysis.read.sources import NoRunsError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Options:
    """The choices of the command line that shape a figure or table.

    Args:
        arms: labels of the arms to draw, `*` allowed; none for the command's own choice.
        x: storage axis of the frontier and the Pareto set, None for the command's own axis.
        y: fidelity axis of the same; the names of both axes are in `analysis.tables.frontier`.
        published: overlay the paper's points on the frontier.
        pareto: draw the Pareto set into the frontier's panels.
        measure: what dominance compares; a name of `analysis.tables.measures.MEASURES`.
    """

    arms: tuple[str, ...] = ()
    x: str | None = None
    y: str = "ce_recovered"
    published: bool = False
    pareto: bool = False
    measure: str = "ce_recovered"


class Output(NamedTuple):
    """One figure or table: `table` becomes `name`.csv, `figure` .png and .svg, `latex` .tex, where there is one."""

    name: str
    table: pd.DataFrame
    figure: Figure | None = None
    latex: str | None = None


def one_figure_each(
    name: str,
    table: pd.DataFrame,
    shown: pd.DataFrame,
    by: Sequence[str],
    draw: Callable[[pd.DataFrame], Figure],
    latex: str | None = None,
) -> list[Output]:
    """Return a figure for each group of rows, so that none is larger than a page shows.

    A single figure stands under `name` beside the table. Of several, each has a name of its own, which says its group,
    and a table of the rows that it shows; the whole table stands under `name`.

    Args:
        table: every row.
        shown: the rows that are drawn; with none there is no figure.
        by: columns whose values make a group; none for one figure.
        draw: makes a figure of a group's rows.
        latex: the table in LaTeX.
    """
    apart = groups(shown, by) if len(by) else []
    if len(apart) < 2:
        return [Output(name, table, draw(shown) if len(shown) else None, latex)]
    each = [Output("-".join([name, *_words(by, key)]), rows, draw(rows)) for key, rows in apart]
    return [Output(name, table, latex=latex), *each]


def _words(by: Sequence[str], key: Sequence[Any]) -> list[str]:
    """Return a group as parts of a file's name: L12 for a layer, n512 and k32 for sizes; a model may have no layer."""
    names = {"layer": "L", "n": "n", "k": "k", "noise": "noise"}
    known = [(names.get(column, ""), value) for column, value in zip(by, key, strict=True) if value != ""]
    return [name + "-".join(str(value).replace(",", "").split()) for name, value in known]


def chosen(rows: pd.DataFrame, options: Options, default: Iterable[str] | None = None) -> pd.DataFrame:
    """Return the rows of the arms asked for; where none were asked for, those of the arms `default`, or all rows.

    Raises:
        NoRunsError: no run is of an arm asked for.
    """
    here = in_order(rows["arm"])
    if options.arms:
        for asked in options.arms:
            if not any(fnmatchcase(arm, asked) for arm in here):
                raise NoRunsError(f"--arms {asked}: no run of it here; there are {', '.join(here)}")
        return among(rows, "arm", [arm for arm in here if any(fnmatchcase(arm, asked) for asked in options.arms)])
    return rows if default is None else among(rows, "arm", list(default))


def rows_to_draw(table: pd.DataFrame, options: Options, default: Iterable[str]) -> pd.DataFrame:
    """Return the rows for a figure: those that `chosen` returns, or all rows where that leaves none."""
    found = chosen(table, options, default)
    return table if found.empty else found


def no_floor_note(name: str, outputs: Iterable[Output]) -> str:
    """Return a line that says how many rows of the table `name` have no floor, empty where all have one."""
    from analysis.tables.floor import missing_floors

    for output in outputs:
        if missing := missing_floors(output.table):
            of = f"{missing} of {len(output.table)} rows"
            return f"note: no floor for {of} of {name}: no frozen_random of their layer, n and k was read in their way"
    return ""


def write(outputs: Iterable[Output], out: Path) -> list[Path]:
    """Write every output into the folder `out` and return the paths of the files, in order.

    A figure that stands there under the name of a table that has none is removed: it is of other records or options.

    Raises:
        OSError: `out` cannot be written.
    """
    paths: list[Path] = []
    out.mkdir(parents=True, exist_ok=True)
    for output in outputs:
        if output.figure is not None:
            from analysis.draw.shared import save_figure

            paths += save_figure(output.figure, out, output.name)
        else:  # the figure of an earlier command would stand beside this table
            for ending in ("png", "svg"):
                (out / f"{output.name}.{ending}").unlink(missing_ok=True)
        if output.latex is not None:
            paths.append(out / f"{output.name}.tex")
            paths[-1].write_text(output.latex)
        paths.append(out / f"{output.name}.csv")
        output.table.to_csv(paths[-1], index=False, float_format="%.7g")
    return paths


class Once(io.TextIOBase):
    """A stream that writes to another one the lines that it has not written before, each once it has its end."""

    def __init__(self, to: TextIO):
        self._to, self._line = to, ""
        self._seen: set[str] = set()

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line not in self._seen:
                self._seen.add(line)
                self._to.write(f"{line}\n")
        return len(text)
