"""Say something on the terminal once per launch, whichever of its workers comes to it first."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path


def say_once(launch: Path, text: str) -> None:
    """Print `text` to standard error unless a worker of the same launch has said it before.

    Args:
        launch: the launch's folder; an empty file in it, named by the hash of `text`, tells that it was said.
    """
    try:
        launch.mkdir(parents=True, exist_ok=True)
        (launch / f"said-{hashlib.sha256(text.encode()).hexdigest()[:16]}").touch(exist_ok=False)
    except FileExistsError:
        return
    except OSError:  # a full disk: better to say it more than once than never
        pass
    print(text, file=sys.stderr)
