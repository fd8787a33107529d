"""`python -m analysis.dashboard [LAUNCH]`: the Weights & Biases workspace and report of a sweep, as files or online."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from analysis.dashboard.private_names import PrivateNameError
from analysis.dashboard.shown import find_shown
from sweep.store.launches import LaunchNotFoundError, add_launch


def main(arguments: list[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    try:
        shown = find_shown(args.runs, args.launch)
        from analysis.dashboard.content import gather
        from analysis.dashboard.saving import SavingError, save, write
    except LaunchNotFoundError as error:
        return _failed(str(error))
    except ModuleNotFoundError as error:
        return _failed(f"{error.name} is missing: pip install -e '.[dashboards]'")
    content = gather(shown, args.runs, args.project)
    try:
        for path in write(content, args.entity or "", args.out):
            print(path)
        if not args.save:
            print("nothing was sent; --save puts both online", file=sys.stderr)
            return 0
        for url in save(content, args.entity, args.out):
            print(url)
    except (SavingError, PrivateNameError) as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"--out {args.out} cannot be written ({error.strerror})")
    return 0


def _failed(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.dashboard",
        description="The Weights & Biases workspace and report of a sweep, as files or, with --save, online.",
    )
    add_launch(parser, "for every run of the project")
    parser.add_argument(
        "--entity", metavar="NAME", help="the user or team that owns the project (default, with --save: the account's)"
    )
    parser.add_argument(
        "--project", default="expander-sae", metavar="NAME", help="where the runs are (default: expander-sae)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("dashboards"), metavar="DIR", help="where to write (default: dashboards)"
    )
    parser.add_argument("--save", action="store_true", help="save both online, in place of those saved before")
    return parser


if __name__ == "__main__":
    sys.exit(main())
