"""The page's run table, with a link to each run's own folder or web page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from analysis.frames import part

HEADS = {  # column of the records: its title in the table
    "run_id": "run",
    "arm": "arm",
    "model": "LM",
    "layer": "layer",
    "d": "d",
    "k": "k",
    "n": "n",
    "n_latents": "n'",
    "seed": "seed",
    "decoder_compression": "compression",
    "learned_decoder_values": "values",
    "artifact_bytes": "stored bytes",
    "ce_recovered": "CE recovered",
    "ce_recovered_mean": "against mean",
    "delta_ce": "added CE",
    "fvu": "FVU",
    "l0": "L0",
    "dead_fraction": "dead",
    "train_tokens": "trained on",
    "seconds": "seconds",
    "finished": "finished",
}


def run_rows(everything: pd.DataFrame, compared: set[str], folder: Path | None, out: Path) -> pd.DataFrame:
    """Return the rows of the run table: the columns of HEADS, `compared` and `link`.

    Args:
        compared: ids of the runs that figures draw; the column says whether a run is one of them.
        folder: the folder of runs, and `out` that of the page, for `link`, which is None where a run has none.
    """
    table = part(everything, [name for name in HEADS if name in everything])
    links = [link(run, folder, out) for run in everything.to_dict("records")]
    return table.assign(compared=[run in compared for run in everything["run_id"]], link=pd.Series(links, dtype=object))


def link(run: dict[str, Any], runs: Path | None, out: Path) -> str | None:
    """Return where more of the run is: its `url`, else its folder, else None.

    The folder is given as seen from `out`, so that both can move together.
    """
    url = run.get("url")
    if isinstance(url, str) and url.startswith(("https://", "http://")):
        return url
    folder = None if runs is None else runs / run["run_id"]
    return quote(Path(os.path.relpath(folder, out)).as_posix()) + "/" if folder and folder.is_dir() else None
