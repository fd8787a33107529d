"""Completion of `python -m sweep` in the shell: eval "$(python -m sweep.completion)".

Hydra knows which keys a command may have, but its own completion is for scripts (`python FILE`), and knows neither
lists of values nor the words that this project adds. This one asks Hydra for keys, completes the last value of a list,
within `zip(...)` and after a `+` too, and leaves every other use of python to the shell.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import NamedTuple

from sweep.jobs.choices import choices

SCRIPT = r"""
_sweep_completion() {
    COMPREPLY=()
    local line=${COMP_LINE:0:COMP_POINT} given=() choice
    read -ra given <<< "$line"
    [[ "${given[1]:-} ${given[2]:-}" == "-m sweep" ]] || return 0
    type compopt > /dev/null 2>&1 && compopt -o nospace 2> /dev/null
    while IFS= read -r choice; do
        [[ -n $choice ]] && COMPREPLY+=("$choice")
    done < <("${given[0]}" -m sweep.completion "${line#*-m sweep}" "$COMP_WORDBREAKS" 2> /dev/null)
}
if [ -n "${ZSH_VERSION:-}" ]; then autoload -Uz bashcompinit && bashcompinit; fi
complete -o default -F _sweep_completion python python3
"""

# Values of keys whose values are no files of a group. They are written out here, as the modules that check them load
# torch, which takes a second. tests/sweep/test_completion.py builds a run with each of them.
_TRAINS = ("mp_refit", "omp", "gomp4", "cosamp")  # pursuits that training can use
VALUES = {
    "sae.encoder": ("topk", "batch_topk", *_TRAINS),
    "sae.basis": ("neurons", "reflections16", "reflections64", "monarch", "butterfly", "fourier"),
    "eval.inference": ("encoder", "topk", "refit", "mp", "niht", *_TRAINS),
    "eval.tokens": ("ordinary", "all"),
    "eval.probing": ("code", "texts", "texts_last"),
    "tracker.mode": ("offline", "online", "disabled"),
    "device": ("auto", "cpu", "cuda"),
    "backend": ("auto", "cpu", "gpu", "torch_gather", "reference"),
    "cache.mode": ("pool", "stream"),
    "plan": ("true", "false"),
}
_WORD = re.compile(r"(?P<opened>(?:(?:zip|grid)\()*)(?P<key>[^=,()\[\]]*=)?(?P<kept>(?:.*[,\[(+])?)(?P<last>.*)")
_PLAIN = re.compile(r"([\w./@+~]+=[^()\[\]{}'\"+,]*)(,.*)?")  # an override that Hydra reads, or a list of values
_FILE = (".", "/", "~")  # how a value starts that names a file


class _Typed(NamedTuple):
    """The word that is being typed, in parts."""

    before: str  # what stands before the part that is completed
    key: str  # with its =, empty where a key is being typed
    last: str  # what is completed

    def with_each(self, found: list[str]) -> list[str]:
        """Return the whole word for each text that begins with what was typed."""
        return [self.before + text for text in found if text.startswith(self.last)]


def main() -> None:
    """Print the shell's commands; of a line that is being typed, what may stand in place of its last word."""
    if len(sys.argv) < 2:
        print(SCRIPT.strip())
        return
    line, breaks = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    for found in completions(line):
        print(as_shell_word(line, found, breaks))


def completions(line: str) -> list[str]:
    """Return what may stand in place of the last word of a line, which `python -m sweep` begins and which is left out.

    Within `zip(...)` and `grid(...)` a word ends at a blank too.
    """
    *others, word = _words(line)
    inner = word.split(" ") if word.startswith(("zip(", "grid(")) else [word]
    others, typed = [*others, *inner[:-1]], _parts(inner[-1])
    if not typed.key:
        return sorted(typed.with_each(_of_hydra(others, typed.last)))
    key = typed.key.removesuffix("=").lstrip("+~")
    known = choices(key) or VALUES.get(key)
    if known:
        below = [name for name in known if name.rpartition("/")[2].startswith(typed.last)]  # without its folder
        found = typed.with_each(list(known))
        return found or ([typed.before + below[0]] if len(below) == 1 else [])
    asked = [text.removeprefix(typed.key) for text in _of_hydra(others, typed.key + typed.last)]
    return sorted(typed.with_each(asked))


def _words(line: str) -> list[str]:
    """Return the words of a shell's line, without their quotes; the last one may be unfinished."""
    words, quote, escaped = [""], "", False
    for sign in line:
        if escaped:
            words[-1], escaped = words[-1] + sign, False
        elif sign == "\\" and quote != "'":
            escaped = True
        elif sign == quote or (not quote and sign in "'\""):
            quote = "" if quote else sign
        elif sign.isspace() and not quote:
            words.append("")
        else:
            words[-1] += sign
    return words


def _parts(word: str) -> _Typed:
    """Return the parts of a word. What separates a list's values also opens it; a `+` joins experiments."""
    found = _WORD.fullmatch(word)
    assert found is not None  # it takes any text
    opened, key, kept, last = (found[name] or "" for name in ("opened", "key", "kept", "last"))
    if (kept + last).startswith(_FILE):  # a path may have any of these signs
        kept, last = "", kept + last
    return _Typed(opened + key + kept, key, last)


def _of_hydra(others: list[str], word: str) -> list[str]:
    """Return the keys that Hydra completes a word to, with the overrides before it as far as Hydra reads them.

    Of a list its first value counts. Where Hydra cannot compose the overrides, it is asked without them.
    """
    given = [found[1] for found in map(_PLAIN.fullmatch, others) if found]
    return _asked([*given, word]) or (_asked([word]) if given else [])


def _asked(words: list[str]) -> list[str]:
    if any(" " in word for word in words):
        return []  # Hydra parts words at blanks
    asked = [sys.executable, "-m", "sweep", "-sc", "query=bash"]
    line = " ".join(["sweep", *words])
    done = subprocess.run(asked, env={**os.environ, "COMP_LINE": line}, capture_output=True, text=True)
    return done.stdout.split()


def as_shell_word(line: str, found: str, breaks: str) -> str:
    """Return what the shell puts in place of the word as it sees it.

    Within quotes that is all from the quote on. Elsewhere a word begins behind the last of the signs `breaks`.
    """
    start = max(line.rfind(" "), line.rfind("'"), line.rfind('"')) + 1
    for quote in "'\"":
        if line.count(quote) % 2:
            return line[line.rfind(quote) + 1 : start] + found
    typed = line[start:]
    end = max((typed.rfind(sign) for sign in breaks if not sign.isspace()), default=-1) + 1
    return found[end:]


if __name__ == "__main__":
    main()
