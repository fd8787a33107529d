"""What a command makes, and how it is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from analysis.arms import in_order
from analysis.frames import among
from analysis.read.sources import NoRunsError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Options:
    """What the command line asked for.

    Args:
        arms: labels to draw, `*` allowed; none for the command's own choice.
        x: storage axis of the frontier and the Pareto set, none for the command's own; y: their fidelity; see
            `analysis.tables.frontier`.
        published: overlay the paper's points on the frontier.
        pareto: draw the Pareto set into the frontier's panels.
    """

    arms: tuple[str, ...] = ()
    x: str | None = None
    y: str = "ce_recovered"
    published: bool = False
    pareto: bool = False


class Output(NamedTuple):
    """One figure or table: `name`.csv of `table`, and .png and .svg, or .tex, where there is one."""

    name: str
    table: pd.DataFrame
    figure: Figure | None = None
    latex: str | None = None


def chosen(rows: pd.DataFrame, options: Options, default: Iterable[str] | None = None) -> pd.DataFrame:
    """The rows of the arms asked for; where none were asked for those of `default`, or all.

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


def drawn(table: pd.DataFrame, options: Options, default: Iterable[str]) -> pd.DataFrame:
    """As `chosen`, for a figure: all rows where none is of the arms in `default`."""
    found = chosen(table, options, default)
    return table if found.empty else found


def write(outputs: Iterable[Output], out: Path) -> list[Path]:
    """Write each into `out`; the paths, in order. Raises OSError where that cannot be done."""
    paths: list[Path] = []
    out.mkdir(parents=True, exist_ok=True)
    for output in outputs:
        if output.figure is not None:
            from analysis.draw.shared import save_figure

            paths += save_figure(output.figure, out, output.name)
        if output.latex is not None:
            paths.append(out / f"{output.name}.tex")
            paths[-1].write_text(output.latex)
        paths.append(out / f"{output.name}.csv")
        output.table.to_csv(paths[-1], index=False, float_format="%.7g")
    return paths
