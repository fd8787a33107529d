"""The texts at which a latent fires, in Markdown to read, made of a run's `contexts.jsonl.gz`."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from analysis.read.sources import NoRunsError
from sweep.store.records import CONTEXTS

LEFT, RIGHT = "⟦", "⟧"  # around a token that the latent fires at
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+\-.!|~&$])")

Latent = dict[str, Any]


def write_latents(runs: Path, run_id: str, wanted: Sequence[int], top: int, out: Path) -> tuple[Path, list[Latent]]:
    """Write the latents of a run, each with its `top` strongest contexts, to `latents-<run_id>.md` in `out`.

    Args:
        wanted: the latents to write; none for all that the run kept.

    Returns:
        the path, and the latents written.

    Raises:
        NoRunsError: the run kept no contexts, they cannot be read, or one of `wanted` is not among them.
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
    """Yield the latents of a run: {"latent", "firing_rate", "contexts": [{"tokens", "codes"}, ...]}.

    The strongest context comes first.

    Raises:
        NoRunsError: there is no such file, or it cannot be read.
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
    """Return one latent in Markdown: how often it fires, and its strongest contexts with the firing tokens marked."""
    lines = [f"## Latent {latent['latent']}\n", f"fires at {latent['firing_rate']:.3%} of tokens\n"]
    for number, context in enumerate(latent["contexts"][:top], start=1):
        peak = max(code for code in context["codes"] if code)
        lines.append(f"{number}. ({peak:.3g}) {marked(context['tokens'], context['codes'])}\n")
    return "\n".join(lines)


def marked(tokens: Sequence[str], codes: Sequence[float]) -> str:
    """Return the text on one line; a token that the latent fires at (code not 0) is ⟦**token**⟧, spaces outside."""
    return "".join(_mark(token) if code else escape(token) for token, code in zip(tokens, codes, strict=True)).strip()


def plain_text(tokens: Sequence[str], codes: Sequence[float]) -> str:
    """Return the text on one line for a terminal: a token that the latent fires at is ⟦token⟧, nothing is escaped."""
    pairs = zip(tokens, codes, strict=True)
    return _one_line("".join(f"{LEFT}{token}{RIGHT}" if code else token for token, code in pairs))


def escape(text: str) -> str:
    """Return `text` on one line, escaped so that Markdown shows it literally."""
    return _MARKDOWN.sub(r"\\\1", _one_line(text))


def _mark(token: str) -> str:
    """Return a token in bold and brackets.

    Bold opens inside a word only where punctuation goes before it, hence the brackets are outside; it neither opens
    before a space nor closes after one, hence spaces are outside too. A token of spaces alone is shown as ␣.
    """
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
