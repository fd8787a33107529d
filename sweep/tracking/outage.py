"""Failures of Weights & Biases: every run checks whether it can be reached, and a launch reports a failure once."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from sweep.store.records import LAUNCH

_RETRY_AFTER = 600.0  # seconds since the last failure after which a launch's next run tries once more


class Outage:
    """The failures of tracking in one launch, which its workers share through a file in the launch's folder.

    The file appears with the first failure; its modification time is that of the last one.
    """

    def __init__(self, folder: Path):
        self._folder, self._file = folder, folder / "tracking-failed"

    def lately(self) -> bool:
        """Return whether the last failure is so recent that trying again is not worth the wait."""
        try:
            return time.time() - self._file.stat().st_mtime < _RETRY_AFTER
        except OSError:
            return False

    def note(self, reason: str) -> None:
        """Note a failure; print a warning with its reason if it is the launch's first."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(self._file, "x") as stream:
                stream.write(reason + "\n")
        except FileExistsError:
            with suppress(OSError):
                self._file.touch()
            return
        except OSError:  # a full disk: better to warn more than once than never
            pass
        # A run outside a sweep has no launch.json, so its folder's name would mean nothing to sweep.sync.
        which = self._folder.name if (self._folder / LAUNCH).exists() else "all"
        print(f"warning: {reason}. Nothing is lost: python -m sweep.sync {which} sends the runs later", file=sys.stderr)


def unreachable() -> str | None:
    """Return why no session with Weights & Biases can begin now, or None if one can.

    The answer takes ten seconds at most, W&B's own limit.
    """
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    started = time.monotonic()
    try:
        return None if wandb.login(prompt=False) else "nobody is logged in: run `wandb login`"
    except wandb.Error as error:
        waited = time.monotonic() - started
        # If the server does not answer, wandb's message is about a process of its own and not about the server.
        return f"no answer within {waited:.0f} s" if waited > 5 else " ".join(str(error).split())
