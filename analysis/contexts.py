"""What a latent fires at, as text to read: Markdown from a run's `contexts.jsonl.gz`."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analysis.read.sources import NoRunsError
from sweep.store.records import CONTEXTS

LEFT, RIGHT = "⟦", "⟧"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&$])")

Latent = dict[str, Any]


def write_latents(runs: Path, run_id: str, wanted: Sequence[int], top: int, out: Path) -> tuple[Path, list[Latent]]:
    """Write `latents-<run_id>.md` into `out`: every latent asked for, or all, with its `top` strongest contexts.

    Returns:
        the path, and the latents written.

    Raises:
        NoRunsError: the run kept no contexts, they cannot be read, or none of `wanted` is among them.
        OSError: `out` cannot be written.
    """
    found = [latent for latent in read_contexts(runs, run_id) if not wanted or latent["latent"] in wanted]
    missing = sorted(set(wanted) - {latent["latent"] for latent in found})
    if missing or not found:
        names = ", ".join(map(str, missing)) or "any latent"
        raise NoRunsError(f"--latent: run {run_id} kept no contexts of {names} (it never fired, or was not sampled)")
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"latents-{run_id}.md"
    pages = [f"# Latents of run {escape(run_id)}\n", _explanation(), *(latent_text(latent, top) for latent in found)]
    path.write_text("\n".join(pages), encoding="utf-8")
    return path, found


def read_contexts(runs: Path, run_id: str) -> Iterator[Latent]:
    """The latents of a run: {"latent", "firing_rate", "contexts": [{"tokens", "codes"}, ...]}, strongest context first.

    Raises:
        NoRunsError: no such file, or one that cannot be read.
    """
    path = runs / run_id / CONTEXTS
    if not path.is_file():
        raise NoRunsError(f"run={run_id}: no {path}; python -m sweep.evaluate run={run_id} eval.contexts=5 makes it")
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                yield json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        raise NoRunsError(f"run={run_id}: {path} cannot be read ({error})") from None


def latent_text(latent: Latent, top: int) -> str:
    """One latent in Markdown: how often it fires, and its strongest contexts with the firing tokens marked."""
    lines = [f"## Latent {latent['latent']}\n", f"fires at {latent['firing_rate']:.3%} of tokens\n"]
    for number, context in enumerate(latent["contexts"][:top], start=1):
        peak = max(code for code in context["codes"] if code)
        lines.append(f"{number}. ({peak:.3g}) {marked(context['tokens'], context['codes'])}\n")
    return "\n".join(lines)


def marked(tokens: Sequence[str], codes: Sequence[float]) -> str:
    """The text on one line, tokens that the latent fires at (code not 0) as ⟦**token**⟧, spaces outside."""
    return "".join(_mark(token) if code else escape(token) for token, code in zip(tokens, codes, strict=True)).strip()


def plain_text(tokens: Sequence[str], codes: Sequence[float]) -> str:
    """As `marked`, for a terminal: ⟦token⟧ and nothing escaped."""
    pairs = zip(tokens, codes, strict=True)
    return _one_line("".join(f"{LEFT}{token}{RIGHT}" if code else token for token, code in pairs))


def escape(text: str) -> str:
    """`text` as Markdown shows it literally, on one line."""
    return _MARKDOWN.sub(r"\\\1", _one_line(text))


def _mark(token: str) -> str:
    """Bold opens inside a word only where punctuation goes before it, hence the brackets outside; it neither opens
    before a space nor closes after one, so these stay outside too. What is only space is shown."""
    line = _one_line(token)
    word = line.strip(" ")
    if not word:
        return f"{LEFT}**{line.replace(' ', '␣') or '∅'}**{RIGHT}"
    before, after = line[: len(line) - len(line.lstrip(" "))], line[len(line.rstrip(" ")) :]
    return f"{before}{LEFT}**{escape(word)}**{RIGHT}{after}"


def _one_line(text: str) -> str:
    return text.replace("\r", "␍").replace("\n", "↵").replace("\t", "⇥")


def _explanation() -> str:
    return (
        f"Each line is a piece of held-out text around the token where the latent is strongest, that code in brackets; "
        f"tokens where it fires are {LEFT}**marked**{RIGHT}, ↵ is a line break.\n"
    )
