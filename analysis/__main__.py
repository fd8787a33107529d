"""`python -m analysis NAME [--runs DIR] [--out DIR]`: regenerate figures from run records alone."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.frontier import X_AXES, Y_AXES, frontier_table
from analysis.load import NoRunsError, comparable, load_inferences, load_published, load_recovery, load_runs
from analysis.pursuits import amortisation_table, certificates_table, recovery_table, throughput_table

if TYPE_CHECKING:  # drawing is imported where it is used: --help and mistakes need not wait for it
    import pandas as pd
    from matplotlib.figure import Figure


def frontier(args: argparse.Namespace) -> list[Path]:
    """frontier.png, .svg and .csv (other axes than the default ones are part of the name)."""
    if args.published and (args.x, args.y) != ("compression", "ce_recovered"):
        raise NoRunsError("--published has points for --x compression --y ce_recovered only")
    table = frontier_table(comparable(load_runs(args.runs)), args.x, args.y)
    from analysis.plots import frontier_figure, save_figure

    name = "frontier"
    name += "" if args.x == "compression" else f"-{args.x}"
    name += "" if args.y == "ce_recovered" else f"-{args.y}"
    name += "-published" if args.published else ""
    figure = frontier_figure(table, args.x, args.y, load_published() if args.published else None)
    paths = save_figure(figure, args.out, name)
    csv = args.out / f"{name}.csv"
    table.rename(columns={"x": args.x, "mean": args.y}).to_csv(csv, index=False)
    return [*paths, csv]


def amortisation(args: argparse.Namespace) -> list[Path]:
    """What reading codes by pursuit adds to each arm, and CE recovered against inference cost."""
    from analysis.pursuit_plots import amortisation_figure

    table = amortisation_table(comparable(load_inferences(args.runs)))
    return _written(amortisation_figure(table), table, args.out, "amortisation")


def certificates(args: argparse.Namespace) -> list[Path]:
    """The identifiability and OMP ratios of each dictionary against k."""
    from analysis.pursuit_plots import certificates_figure

    table = certificates_table(comparable(load_inferences(args.runs)))
    return _written(certificates_figure(table), table, args.out, "certificates")


def throughput(args: argparse.Namespace) -> list[Path]:
    """Tokens a second against relative error, for every way of reading codes."""
    from analysis.pursuit_plots import throughput_figure

    table = throughput_table(comparable(load_inferences(args.runs)))
    return _written(throughput_figure(table), table, args.out, "throughput")


def recovery(args: argparse.Namespace) -> list[Path]:
    """Phase transitions of synthetic recovery."""
    from analysis.pursuit_plots import recovery_figure

    table = recovery_table(load_recovery(args.runs))
    return _written(recovery_figure(table), table, args.out, "recovery")


def _written(figure: Figure, table: pd.DataFrame, out: Path, name: str) -> list[Path]:
    from analysis.plots import save_figure

    paths = save_figure(figure, out, name)
    table.to_csv(out / f"{name}.csv", index=False)
    return [*paths, out / f"{name}.csv"]


def every_figure(args: argparse.Namespace) -> list[Path]:
    """Every figure that the records have something for; the frontier over each storage axis."""
    paths: list[Path] = []
    made = [partial(_frontier_over, args, x) for x in X_AXES]
    made += [partial(make, args) for make in (amortisation, certificates, throughput, recovery)]
    missing: list[str] = []
    for make in made:
        try:
            paths += make()
        except NoRunsError as reason:
            missing.append(str(reason))
    if not paths:
        raise NoRunsError(missing[0])
    return paths


def _frontier_over(args: argparse.Namespace, x: str) -> list[Path]:
    return frontier(argparse.Namespace(**{**vars(args), "x": x, "y": "ce_recovered", "published": False}))


FIGURES = {
    "frontier": frontier,
    "amortisation": amortisation,
    "certificates": certificates,
    "throughput": throughput,
    "recovery": recovery,
    "all": every_figure,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Regenerate figures from run records.")
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, make in FIGURES.items():
        command = commands.add_parser(name, help=(make.__doc__ or "").splitlines()[0])
        command.set_defaults(make=make)
        command.add_argument("--runs", type=Path, default=Path("runs"), help="folder of run records (default: runs)")
        command.add_argument("--out", type=Path, default=Path("figures"), help="where to write (default: figures)")
        if make is frontier:
            command.add_argument("--x", choices=X_AXES, default="compression")
            command.add_argument("--y", choices=Y_AXES, default="ce_recovered")
            command.add_argument("--published", action="store_true", help="overlay the paper's own points")
    args = parser.parse_args(argv)
    try:
        paths = args.make(args)
    except NoRunsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: --out {args.out} cannot be written ({error.strerror})", file=sys.stderr)
        return 1
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
