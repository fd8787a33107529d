"""Numbers of bytes as people read them. Standard library only."""

from __future__ import annotations


def human_size(n_bytes: float) -> str:
    """Return a number of bytes in the unit that leaves at most three digits before the point.

    `122 KiB`, `2.4 MiB`, `512 bytes`: units are powers of 1024, and below ten of a unit one decimal is kept unless the
    number is whole (`64 KiB`, `1 MiB`).
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if n_bytes < 1000:
            return f"{_digits(n_bytes)} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"


def _digits(count: float) -> str:
    """Return `count` with one decimal if it is below ten and not whole, else rounded to a whole number."""
    return f"{count:.1f}" if count < 10 and count != int(count) else f"{count:.0f}"
