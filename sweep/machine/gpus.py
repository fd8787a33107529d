"""The devices that runs compute on, and the locks that give each GPU to one run at a time.

The process that holds a GPU's file lock has that GPU; the operating system releases the lock when its holder ends,
however it ends.
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
    """Return the torch device that `name` means.

    `auto` is CUDA where there is a GPU, else the CPU; other names are torch's own.

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
def hold_device(device: str, on_wait: Callable[[], None] = lambda: None) -> Iterator[str]:
    """Hold a device for a run whose config says `device`, and yield the held device's name.

    `auto` and `cuda` get the first GPU that no other run of this user on this machine has; `cuda:1` gets GPU 1. They
    wait while none is free. On a machine without a GPU, and for `cpu`, the name is `device` itself and nothing is held.
    One process must not nest this: the inner context would wait for the outer one.

    Args:
        on_wait: called once, before waiting.
    """
    candidates = _candidate_gpus(device)
    if not candidates:
        yield device
        return
    with hold_first_free(candidates, _lock_folder(), on_wait) as name:
        yield name


@contextmanager
def hold_first_free(
    keys: Mapping[str, str], folder: Path, on_wait: Callable[[], None] = lambda: None, poll: float = POLL_SECONDS
) -> Iterator[str]:
    """Hold the first of several devices that no other process holds, and yield its name; wait while all are held.

    Args:
        keys: {device name: its identity on this machine}, in the order of preference.
        folder: the folder of the lock files; it is made if it is not there.
        on_wait: called once, before waiting.
        poll: seconds between two attempts while all devices are held.
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


def _candidate_gpus(device: str) -> dict[str, str]:
    """Return {`cuda:<index>`: the GPU's UUID} for the GPUs that `device` may mean.

    The indices are torch's: they count the GPUs that CUDA_VISIBLE_DEVICES leaves visible.
    """
    import torch  # imported here: see device_from

    kind, _, index = device.partition(":")
    if kind not in ("auto", "cuda") or not torch.cuda.is_available():
        return {}
    visible = range(torch.cuda.device_count())
    if index:  # device_from reports an index that does not exist
        visible = [number for number in visible if str(number) == index]
    return {f"cuda:{number}": str(torch.cuda.get_device_properties(number).uuid) for number in visible}


def _lock_folder() -> Path:
    """Return the folder of this user's GPU locks on this machine."""
    return Path(tempfile.gettempdir()) / f"expander-sae-sweep-gpus-{os.getuid()}"
