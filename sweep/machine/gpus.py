"""The devices that runs compute on, and how GPUs are shared out: each run holds one GPU alone.

Whoever holds a GPU's file lock has that GPU; the kernel drops the lock when its holder ends, however it ends.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    import torch

POLL_SECONDS = 0.25


class DeviceError(ValueError):
    """The device that the settings name is not on this machine."""


def device_from(name: str) -> torch.device:
    """The torch device that `name` means: `auto` is CUDA where there is one, else the CPU; other names are torch's own.

    Raises:
        DeviceError: this machine has no such device.
    """
    import torch  # imported here because it takes 2 s, and a process that only asks for locks does not need it

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise DeviceError(f"device={name} is not there: choose auto, cpu or, on a machine with a GPU, cuda") from None
    return device


@contextmanager
def allotted(device: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[str]:
    """The device that a run with `device` in its config gets, for as long as the context lasts.

    `auto` and `cuda` get the first GPU that no other run of this user on this machine has, `cuda:1` that one; while
    none is free they wait. Without a GPU, and for `cpu`, it is `device` itself. Not to be nested in one process: the
    inner one would wait for the outer.

    Args:
        on_wait: called once, before waiting.
    """
    keys = _keys(device)
    if not keys:
        yield device
        return
    with one_of(keys, _folder(), on_wait) as name:
        yield name


@contextmanager
def one_of(
    keys: Mapping[str, str], folder: Path, on_wait: Callable[[], None] = lambda: None, poll: float = POLL_SECONDS
) -> Iterator[str]:
    """Hold the first of several devices that no other holder has, waiting while all are taken.

    Args:
        keys: {device name: what identifies it on this machine}, in the order of preference.
        folder: where the locks lie; made if it is not there.
        poll: seconds between two looks while all are taken.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    locks = {name: FileLock(folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', key)}.lock") for name, key in keys.items()}
    told = False
    while True:
        for name, lock in locks.items():
            try:
                lock.acquire(blocking=False)
            except Timeout:
                continue
            try:
                yield name
            finally:
                lock.release()
            return
        if not told:
            on_wait()
            told = True
        time.sleep(poll)


def _keys(device: str) -> dict[str, str]:
    """{`cuda:<index>`: the GPU's UUID} of the GPUs that `device` may mean; CUDA_VISIBLE_DEVICES has numbered them."""
    import torch  # imported here: see device_from

    kind, _, index = device.partition(":")
    if kind not in ("auto", "cuda") or not torch.cuda.is_available():
        return {}
    visible = range(torch.cuda.device_count())
    if index:  # a number that is not there is for device_from to refuse
        visible = [number for number in visible if str(number) == index]
    return {f"cuda:{number}": str(torch.cuda.get_device_properties(number).uuid) for number in visible}


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / f"expander-sae-sweep-gpus-{os.getuid()}"
