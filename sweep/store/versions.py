"""The code that made a result: versions of the packages that can change it, and a hash of this project's own code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

CODE = "code"  # the key of this project's own code among the versions
_PACKAGES = ("torch", "transformers", "numpy", "expander-sae-sweep")
_CODE = {"sae_core": (".py", ".cpp", ".h"), "sweep": (".py",)}  # the packages and file endings that can change a result


def versions() -> dict[str, str]:
    """Return {name: version} of everything that can change a result: Python, the packages, this project's code."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # the project runs from a checkout that is not installed
            found[package] = "unknown"
    return {**found, CODE: code_hash()}


@lru_cache
def code_hash() -> str:
    """Return 12 hex digits of the sha256 of the code files of `sae_core` and `sweep`.

    The files are read once per process, so the hash is that of the code as this process found it on disk.
    """
    digest = hashlib.sha256()
    for package, endings in _CODE.items():
        root = Path(str(files(package)))
        for file in sorted(f for f in root.rglob("*") if f.suffix in endings):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def other_versions(made: Iterable[dict[str, Any]], now: dict[str, str]) -> dict[str, int]:
    """Count the records in `made` whose versions differ from `now`.

    Returns:
        {"code 1a2b (now 3c4d)": number of records}. A record that lacks an entry, because it is older than that entry,
        is not counted for it.
    """
    found: dict[str, int] = {}
    for record in made:
        then = record.get("versions", {})
        for name, value in now.items():
            if name in then and then[name] != value:
                difference = f"{name} {then[name]} (now {value})"
                found[difference] = found.get(difference, 0) + 1
    return found
