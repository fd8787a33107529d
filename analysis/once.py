"""A stream of text that writes each line once."""

from __future__ import annotations

import io
from typing import TextIO


class Once(io.TextIOBase):
    """Writes to another stream the lines that it has not written before; a line counts once it has its end."""

    def __init__(self, to: TextIO):
        self._to, self._line = to, ""
        self._seen: set[str] = set()

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line not in self._seen:
                self._seen.add(line)
                self._to.write(f"{line}\n")
        return len(text)
