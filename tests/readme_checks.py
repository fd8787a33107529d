"""Checks of the READMEs' links, settings and Python examples; `tests.readme_commands` checks the commands.

Each check raises RottenError with what is wrong. Nothing that a README shows is run.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

import sae_core
from sweep.embedded import WEIGHTS

ROOT = Path(__file__).parents[1]
MADE = {"runs", "figures", "dashboards", "build", "__pycache__"}  # folders that commands write
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)")
SETTING = re.compile(r"\+?([a-z_]+(?:[./][a-z_]+)*)=(\S*)")
# `key=value` and such, which explain the form of a setting, and the words of `python -m sweep.compress`.
STAND_FOR_OTHERS = {"key", "group", "group.key", "ratio", "survived", "trials"}


class RottenError(AssertionError):
    """A README says something that is not so."""


def readmes() -> list[str]:
    """Return every README.md by its path from the root, except those in hidden folders and the embedded LM's card."""
    found: list[str] = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in MADE)
        if "README.md" in files and Path(folder) != WEIGHTS:
            found.append((Path(folder) / "README.md").relative_to(ROOT).as_posix())
    return found


READMES = readmes()


def without_code(text: str) -> str:
    return SPAN.sub("", FENCED.sub("", text))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a Markdown text."""
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", text), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        earlier = sum(other == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", other) is not None for other in found)
        found.append(f"{slug}-{earlier}" if earlier else slug)
    return set(found)


def check_links(readme: Path, text: str) -> None:
    """Raise RottenError where a relative link or image of `text` leads to no file, folder or heading."""
    for target in LINK.findall(without_code(text)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = readme.parent / path if path else readme
        if not file.exists():
            raise RottenError(f"the link to {target} leads to no file")
        if anchor and anchor not in anchors(text if not path else file.read_text()):
            raise RottenError(f"the link to {target} leads to no heading")


def known_settings() -> set[str]:
    """Return every key of the configuration with its dots, and every group, such as train.lr and hydra/sweeper."""
    found: set[str] = set()
    for file in (ROOT / "conf").rglob("*.yaml"):
        folder = file.relative_to(ROOT / "conf").parent.as_posix()
        group = folder.split("/")[0] if folder.startswith("experiment") else folder
        prefix = "" if group in (".", "experiment") else f"{group.replace('/', '.')}."  # experiments stand at the root
        found |= {group, *_dotted(OmegaConf.load(file), prefix)}
    return found


def _dotted(config, prefix: str) -> Iterator[str]:
    for key, value in config.items_ex(resolve=False) if isinstance(config, DictConfig) else ():
        yield f"{prefix}{key}"
        yield from _dotted(value, f"{prefix}{key}.")


def check_settings(text: str, known: set[str]) -> None:
    """Raise RottenError where inline code of the form key=value names no key of the configuration."""
    for span in SPAN.findall(FENCED.sub("", text)):
        for word in span.split() if all(SETTING.fullmatch(word) for word in span.split()) else ():
            key = word.lstrip("+").split("=")[0]
            if key not in known | STAND_FOR_OTHERS and '"' not in word:
                raise RottenError(f"{word} names no key of the configuration")


def check_python_example(code: str) -> None:
    """Raise RottenError unless the code compiles, and what it imports or calls of `sae_core` is there and takes it."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "sae_core":
            for alias in node.names:
                if alias.name not in _defined(node.module):
                    _member(import_module(node.module), alias.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sae_core":
            _member(sae_core, node.attr)
        called = ast.unparse(node.func).split(".") if isinstance(node, ast.Call) else []
        if isinstance(node, ast.Call) and called[0] == "sae_core" and len(called) == 2:
            function = _member(sae_core, called[1])
            try:
                inspect.signature(function).bind(
                    *node.args, **{word.arg: word.value for word in node.keywords if word.arg}
                )
            except TypeError as error:
                raise RottenError(f"{ast.unparse(node)}: {error}") from error


def _defined(module: str) -> set[str]:
    """Return the functions and classes that a module's file defines, also where a library that it needs is missing."""
    file = ROOT / f"{module.replace('.', '/')}.py"
    tree = ast.parse(file.read_text()) if file.exists() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def _member(module, name: str):
    if not hasattr(module, name):
        raise RottenError(f"{module.__name__} has no {name}")
    return getattr(module, name)
