"""The command line `python -m analysis NAME [--runs SOURCE] [--out DIR]`: figures and tables from run records alone."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.catalogue import CATALOGUE, FOR_ALL, Entry
from analysis.read.sources import SHIPPED, NoRunsError, Remote, Source

if TYPE_CHECKING:
    from analysis.read.records import Records

_X = ("compression", "decoder_values", "stored_bytes")
_Y = ("ce_recovered", "ce_recovered_mean", "delta_ce", "fvu")
_MEASURES = ("ce_recovered", "ce_recovered_mean", "coverage", "feature_f1", "probing")
_STORAGE_AXES = {"frontier": "compression", "pareto": "stored_bytes"}  # command with --x and --y: its default x
_EPILOG = f"""--runs takes a folder of runs (default: runs), a file that `pack` wrote, or a word for records that ship
with the project: {SHIPPED[0]} (the LM that ships too), {SHIPPED[1]} (SmolLM2-135M), {SHIPPED[2]} (known features),
{SHIPPED[3]} (the first two LMs at other numbers of latents) or {SHIPPED[4]} (up to a million latents).
`python -m analysis NAME --help` shows a command's options."""

_ARMS_HELP = """arms to show, * allowed (default: those that can be read together; for the frontier these are expander,
dense_matched, dense_tied, dense_warmtied, pca and the best other support)"""


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return args.act(args)
    except NoRunsError as error:
        print(f"error: {error}", file=sys.stderr)
    except BrokenPipeError:  # the program that reads the paths, such as `head`, has closed the pipe
        sys.stdout = None
    except OSError as error:
        print(f"error: --out {args.out} cannot be written ({error.strerror})", file=sys.stderr)
    return 1


def draw(args: argparse.Namespace) -> int:
    """Write one figure or table and print the paths of its files."""
    _make(args, {args.name: CATALOGUE[args.name]})
    return 0


def draw_all(args: argparse.Namespace) -> int:
    """Write every figure and table that the records have something for; print a note about each of the others."""
    from analysis.output import Once

    with redirect_stderr(Once(sys.stderr)):  # several figures leave out the same runs
        reasons = _make(args, {**CATALOGUE, **FOR_ALL}, go_on=True)
    if len(reasons) == len(CATALOGUE):
        raise NoRunsError(next(iter(reasons.values())))
    names_of: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        names_of.setdefault(reason, []).append(name)
    for reason, names in names_of.items():
        print(f"note: no {', '.join(names)}: {reason}", file=sys.stderr)
    return 0


def _make(args: argparse.Namespace, entries: dict[str, Entry], go_on: bool = False) -> dict[str, str]:
    """Make and write each entry from one reading of the records.

    Args:
        go_on: go on where the records have nothing for an entry.

    Returns:
        {name of an entry that was not made: the reason}.

    Raises:
        NoRunsError: the records have nothing for an entry, and `go_on` is False.
    """
    from analysis.output import Options, no_floor_note, write
    from analysis.read.records import Records

    records = _chosen_records(Records.read(_source(args)), args)
    options = Options(_names(args.arms), args.x, args.y, args.published, args.pareto, args.measure)
    reasons: dict[str, str] = {}
    for name, entry in entries.items():
        try:
            outputs = entry.load()(records, options)
            for path in write(outputs, args.out):
                print(path)
            if note := no_floor_note(name, outputs):
                print(note, file=sys.stderr)
        except NoRunsError as reason:
            if not go_on:
                raise
            reasons[name] = str(reason)
    return reasons


def _chosen_records(records: Records, args: argparse.Namespace) -> Records:
    """Return the records that --model, --layer, --k and --study leave."""
    records = records.at(args.layer, args.k, args.model)
    return records.of(args.study) if args.study else records


def report(args: argparse.Namespace) -> int:
    """Write everything into one HTML file and print its path."""
    from analysis.output import Options
    from analysis.page.write import not_complete, write_report
    from analysis.read.records import Records

    records = Records.read(_source(args))
    left_out = not_complete(records)
    print(write_report(_chosen_records(records, args), Options(_names(args.arms)), args.out, left_out))
    return 0


def summary(args: argparse.Namespace) -> int:
    """Print the frontier in four sentences."""
    from analysis.read.records import Records
    from analysis.summary import summary as sentences

    print("\n".join(sentences(_chosen_records(Records.read(_source(args)), args))))
    return 0


def pack(args: argparse.Namespace) -> int:
    """Write the records as one file and print how many they are."""
    from analysis.read.packing import pack as pack_records

    count = pack_records(_source(args), args.out)
    print(f"{args.out}: {count} records, {args.out.stat().st_size / 1024:.0f} KiB")
    return 0


def latents(args: argparse.Namespace) -> int:
    """Write a page of latents with their contexts, and print the first few latents and the page's path."""
    from analysis.contexts import plain_text, write_latents

    if not args.run.startswith("run=") or "/" in args.run:
        raise NoRunsError(f"{args.run}: give the run as run=ID, a folder under --runs")
    path, found = write_latents(Path(args.runs), args.run.removeprefix("run="), args.latent, args.top, args.out)
    for latent in found[:3]:
        print(f"latent {latent['latent']}, {latent['firing_rate']:.3%} of tokens")
        for context in latent["contexts"][:2]:
            print("   " + plain_text(context["tokens"], context["codes"]))
    print(path)
    return 0


def _source(args: argparse.Namespace) -> Source:
    return Remote(args.wandb, tuple(args.group)) if args.wandb else args.runs


def _names(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis", description="Regenerate figures and tables from run records.", epilog=_EPILOG
    )
    commands = parser.add_subparsers(required=True, metavar="NAME")
    for name, entry in CATALOGUE.items():
        command = commands.add_parser(name, help=entry.help, description=entry.help)
        command.set_defaults(act=draw, name=name)
        _drawing_options(command)
        if name in _STORAGE_AXES:
            _axis_options(command, _STORAGE_AXES[name])
        if name == "frontier":
            _frontier_options(command)
        if name in ("dominance", "iso_bytes"):
            command.add_argument("--measure", choices=_MEASURES, help=f"what is compared (default: {_MEASURES[0]})")
    command = commands.add_parser("all", help="every figure and table that the records have something for")
    command.set_defaults(act=draw_all)
    _drawing_options(command)
    command = commands.add_parser("report", help="one HTML file to look around in: figures, tables, latents, runs")
    command.set_defaults(act=report)
    _drawing_options(command)
    command = commands.add_parser("summary", help="the frontier in four sentences, made of the records")
    command.set_defaults(act=summary, out=None)
    _source_options(command)
    _choice_options(command)
    _latents_parser(commands.add_parser("latents", help="the texts at which latents fire, as a page to read"))
    command = commands.add_parser("pack", help="write the records as one file that --runs takes")
    command.set_defaults(act=pack)
    _source_options(command)
    command.add_argument("--out", type=Path, required=True, help="the file to write, NAME.jsonl.gz")
    return parser


def _drawing_options(command: argparse.ArgumentParser) -> None:
    _source_options(command)
    command.add_argument("--out", type=Path, default=Path("figures"), help="where to write (default: figures)")
    command.add_argument("--arms", default="", metavar="A,B,C", help=_ARMS_HELP)
    _choice_options(command)
    command.set_defaults(x=None, y=_Y[0], published=False, pareto=False, measure=_MEASURES[0])


def _choice_options(command: argparse.ArgumentParser) -> None:
    for key in ("layer", "k"):
        command.add_argument(
            f"--{key}", type=int, nargs="+", default=[], help=f"only runs of this {key}, or of several"
        )
    command.add_argument(
        "--model", nargs="+", default=[], metavar="NAME", help="only runs of the LM of this name, or of several"
    )
    command.add_argument(
        "--study",
        type=Path,
        metavar="FILE",
        help="only runs in this CSV's column run_id, such as a search's trials.csv",
    )


def _source_options(command: argparse.ArgumentParser) -> None:
    shipped = " or ".join(SHIPPED)
    command.add_argument("--runs", default="runs", help=f"folder of runs, packed file, {shipped} (default: runs)")
    command.add_argument("--wandb", metavar="ENTITY/PROJECT", help="read runs from Weights & Biases instead")
    command.add_argument(
        "--group", nargs="+", default=[], metavar="SWEEP", help="with --wandb: only runs of these sweeps"
    )


def _axis_options(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument("--x", choices=_X, help=f"storage axis (default: {default})")
    command.add_argument("--y", choices=_Y, help=f"fidelity axis (default: {_Y[0]})")


def _frontier_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--published", action="store_true", help="overlay the paper's own points")
    command.add_argument("--pareto", action="store_true", help="draw into each panel the best of any k, n, d and arm")


def _latents_parser(command: argparse.ArgumentParser) -> None:
    command.set_defaults(act=latents)
    command.add_argument("run", metavar="run=ID", help="the run; it needs contexts (sweep.evaluate eval.contexts=5)")
    command.add_argument("--runs", default="runs", help="folder of runs (default: runs)")
    command.add_argument("--out", type=Path, default=Path("figures"), help="where to write (default: figures)")
    command.add_argument("--latent", type=int, nargs="+", default=[], help="the latents to write (default: all kept)")
    command.add_argument("--top", type=int, default=5, help="contexts of each latent (default: 5)")


if __name__ == "__main__":
    sys.exit(main())
