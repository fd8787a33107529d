"""Tables as JSON, small and safe inside a script element."""

from __future__ import annotations

import json
import math
from typing import Any

import pandas as pd

# {"rows": how many, "columns": {name: list, or {"of": distinct values, "at": the place of each row's value in "of"}}}
Encoded = dict[str, Any]


def encoded(table: pd.DataFrame, digits: int = 7) -> Encoded:
    """Return the table column by column.

    Numbers have `digits` significant digits (7 as in the CSVs); NaN and infinity are null. Every other value is given
    by its place among the distinct values of its column, since texts and lists repeat.
    """
    columns = {str(name): _column(table[name].tolist(), digits) for name in table.columns}
    return {"rows": len(table), "columns": columns}


def _column(values: list[Any], digits: int) -> Any:
    plain = [plain_value(value, digits) for value in values]
    if all(value is None or isinstance(value, (int, float)) for value in plain):
        return plain
    keys = [json.dumps(value) for value in plain]
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return {"of": [json.loads(key) for key in places], "at": [places[key] for key in keys]}


def plain_value(value: Any, digits: int = 7) -> Any:
    """Return a value that JSON can hold: rounded numbers, lists, texts, truth values or None.

    The numbers of pandas and numpy are expected as Python's own, which `tolist` makes of them.
    """
    if isinstance(value, (list, tuple)):
        return [plain_value(one, digits) for one in value]
    if isinstance(value, float):
        rounded = float(f"{value:.{digits}g}") if math.isfinite(value) else None
        return int(rounded) if rounded is not None and rounded.is_integer() and abs(rounded) < 2**53 else rounded
    return value if isinstance(value, (int, str, bool)) or value is None else None


def script_json(data: Any) -> str:
    """Return JSON that a script element may hold: no text in it can end the element or open a comment."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
