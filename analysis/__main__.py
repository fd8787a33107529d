"""`python -m analysis NAME [--runs DIR] [--out DIR]`: regenerate figures from run records alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis.frontier import X_AXES, Y_AXES, frontier_table
from analysis.load import NoRunsError, comparable, load_published, load_runs


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


def every_figure(args: argparse.Namespace) -> list[Path]:
    """The frontier over each storage axis."""
    paths: list[Path] = []
    for x in X_AXES:
        paths += frontier(argparse.Namespace(**{**vars(args), "x": x, "y": "ce_recovered", "published": False}))
    return paths


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Regenerate figures from run records.")
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, make in (("frontier", frontier), ("all", every_figure)):
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
