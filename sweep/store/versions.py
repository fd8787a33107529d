"""Of what a result was made: versions of the packages that can change it, and a hash of this project's own code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

CODE = "code"
_PACKAGES = ("torch", "transformers", "numpy", "expander-sae-sweep")
_CODE = {"sae_core": (".py", ".cpp", ".h"), "sweep": (".py",)}  # whose code a result comes from


def versions() -> dict[str, str]:
    """Of what can change a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
            found[package] = "unknown"
    return {**found, CODE: code_hash()}


@lru_cache
def code_hash() -> str:
    """12 hex digits of the sha256 of the sources of `sae_core` and `sweep`, as this process found them on disk."""
    digest = hashlib.sha256()
    for package, endings in _CODE.items():
        root = Path(str(files(package)))
        for file in sorted(f for f in root.rglob("*") if f.suffix in endings):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def other_versions(made: Iterable[dict[str, Any]], now: dict[str, str]) -> dict[str, int]:
    """{"code 1a2b (now 3c4d)": how many records} for what the records `made` say otherwise than `now`.

    Records of before there was an entry say nothing about it.
    """
    found: dict[str, int] = {}
    for record in made:
        then = record.get("versions", {})
        for name, value in now.items():
            if name in then and then[name] != value:
                said = f"{name} {then[name]} (now {value})"
                found[said] = found.get(said, 0) + 1
    return found
