"""`python -m sweep.retry [LAUNCH]`: try the failed runs of a launch again, with the command that it had."""

from __future__ import annotations

import argparse
import shlex
import sys

from sweep.store.launches import ALL, FAILED, TO_DO, Launch, LaunchNotFoundError, add_launch, find_launch, states

_OWN = "launch.failed_of="


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.retry",
        description="Try the failed runs of a launch again, and no others. Start it where the launch was started.",
    )
    add_launch(parser, "is not possible here")
    parser.add_argument("--plan", action="store_true", help="say what would be done, and do nothing")
    args = parser.parse_args(arguments)
    try:
        if args.launch == ALL:
            raise LaunchNotFoundError(
                f"LAUNCH {ALL}: give the name of one launch; python -m sweep.status {ALL} lists them"
            )
        launch = find_launch(args.runs, args.launch)
    except LaunchNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if launch.about.get("study"):
        print(f"error: {launch.folder.name} is a search: its own command goes on with it", file=sys.stderr)
        return 1
    now, words, name = states(launch, args.runs), _arguments(launch), launch.folder.name
    failed = [state for state in now if state.state == FAILED]
    if not failed:
        print(f"no run of {name} has failed")
        if to_do := sum(state.state == TO_DO for state in now):
            print(f"{to_do} of {len(now)} are to do, which the same command does: python -m sweep {shlex.join(words)}")
        return 0
    print(f"{len(failed)} of {len(launch.runs)} runs of {name} failed: python -m sweep {shlex.join(words)}")
    sys.argv = ["sweep", *words, f"{_OWN}{name}", *(["plan=true"] if args.plan else [])]
    from sweep.launch import main as sweep  # imported here: it brings torch

    sweep()
    return 0


def _arguments(launch: Launch) -> list[str]:
    """Return the command line of the launch; older launches have it as one text, without the shell's quotes."""
    words = launch.about.get("arguments") or shlex.split(launch.about["command"])
    return [word for word in words if not word.startswith(_OWN)]


if __name__ == "__main__":
    sys.exit(main())
