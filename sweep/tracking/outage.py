"""Whether Weights & Biases can be had: asked by each run, said once for all the runs of a launch."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from sweep.store.records import LAUNCH

_AGAIN = 600.0  # seconds after which a launch's next run tries once more


class Outage:
    """Of one launch, shared by its workers through a file in `folder` that is there once something has gone wrong."""

    def __init__(self, folder: Path):
        self._folder, self._file = folder, folder / "tracking-failed"

    def lately(self) -> bool:
        """Whether something has gone wrong so lately that trying again is not worth the wait."""
        try:
            return time.time() - self._file.stat().st_mtime < _AGAIN
        except OSError:
            return False

    def note(self, reason: str) -> None:
        """Something has gone wrong; the first time the user hears of it."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with open(self._file, "x") as stream:
                stream.write(reason + "\n")
        except FileExistsError:
            with suppress(OSError):
                self._file.touch()
            return
        except OSError:  # a full disk: said more than once rather than never
            pass
        which = self._folder.name if (self._folder / LAUNCH).exists() else "all"  # a run of no sweep has no launch
        print(f"warning: {reason}. Nothing is lost: python -m sweep.sync {which} sends it later", file=sys.stderr)


def unreachable() -> str | None:
    """Why no W&B session can be had now, None where one can. Takes ten seconds at most, W&B's own limit."""
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    started = time.monotonic()
    try:
        return None if wandb.login(prompt=False) else "nobody is logged in (wandb login)"
    except wandb.Error as error:
        waited = time.monotonic() - started
        # What it says of a server that does not answer is about a process of its own.
        return f"no answer within {waited:.0f} s" if waited > 5 else " ".join(str(error).split())
