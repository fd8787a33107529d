"""Assembly of the page: everything is inline, and nothing is fetched when it is opened."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from analysis.arms import FROZEN, base, parse, unrounded
from analysis.output import Options, chosen
from analysis.page.charts import styles
from analysis.page.contexts import contexts_section
from analysis.page.controls import CONTROLS, MAIN
from analysis.page.encode import encoded, script_json
from analysis.page.frontier import frontier_section
from analysis.page.meaning import FLOOR_ARM, FLOOR_STYLE
from analysis.page.runs import HEADS, run_rows
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.dominance import dominance_table
from analysis.tables.frontier import readable_arms
from analysis.tables.measures import MEASURES
from sweep.store.records import RECORD, RECOVERY, SYNTHETIC

NAME = "report.html"
# From the npm package plotly.js-basic-dist-min: lines and bars, a fifth of the whole library.
_PLOTLY = "plotly-basic.min.js"
_SCRIPTS = (  # each uses those before it
    "base.js",
    "choices.js",
    "table.js",
    "layout.js",
    "legend.js",
    "traces.js",
    "chart.js",
    "dominance.js",
    "contexts.js",
    "runs.js",
    "page.js",
)
_DOMINANCE = """At so many stored bytes (rows) and multiply-adds a token (budget), the dictionary with the most of the
measure of all that fit, and what the best of another arm and of the other kind (dense for sparse, sparse for dense)
lose, paired by seed with 95 % intervals. The floor is the best random dictionary that fits; a winner is above it if its
lead is larger than these seeds can resolve. PCA is not sparse and never wins."""


def write_report(records: Records, options: Options, out: Path, left_out: int = 0) -> Path:
    """Write `report.html` into `out`; return its path.

    Args:
        left_out: the number of failed and unreadable runs, which the page's head names.

    Raises:
        NoRunsError: no run of an SAE, or none of an arm asked for.
        OSError: `out` cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    page = html_page(page_data(records, options, out, left_out))
    (out / NAME).write_text(page, encoding="utf-8")
    return out / NAME


def not_complete(records: Records) -> int:
    """Return how many runs in the records' folder are not among the records: they failed or cannot be read."""
    in_folder = 0 if records.folder is None else sum(1 for _ in records.folder.glob(f"*/{RECORD}"))
    return max(0, in_folder - len(records.records))


def page_data(records: Records, options: Options, out: Path, left_out: int = 0) -> dict[str, Any]:
    """Return all that the page shows, as JSON can hold it. Raises NoRunsError as `write_report` does."""
    everything, compared, synthetic = _runs(records, options)
    place = {run: row for row, run in enumerate(everything["run_id"])}
    rows = run_rows(everything, set(compared["run_id"]), records.folder, out)
    return {
        "about": _about(records, len(rows), len(compared), left_out),
        "arms": {**styles(sorted(_labels([*everything["arm"], *synthetic]))), FLOOR_ARM: FLOOR_STYLE},
        "runs": encoded(rows),
        "sections": [
            *_sections(records, options, everything, compared, place),
            {"id": "runs", "title": "Runs", "kind": "runs", "heads": HEADS, "control": False},
        ],
    }


def _runs(records: Records, options: Options) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Return the runs of an LM's SAEs, those of them that figures draw, and the arms of synthetic models' SAEs.

    Raises:
        NoRunsError: there is no run of either, or none of an arm asked for.
    """
    synthetic = [record["labels"]["arm"] for record in records.records if record.get("kind") == SYNTHETIC]
    try:
        everything, compared = records.everything, records.runs
    except NoRunsError:
        if not synthetic:
            raise
        nothing = pd.DataFrame(columns=[*HEADS, "base_arm", "settings"])
        return nothing, nothing, sorted(set(chosen(records.samples, options)["arm"]))
    return chosen(everything, options).reset_index(drop=True), compared, sorted(set(synthetic))


def _sections(
    records: Records, options: Options, everything: pd.DataFrame, compared: pd.DataFrame, place: dict[str, int]
) -> list[dict[str, Any]]:
    """Return every section but the run table; `place` is the row of each run id in that table."""
    arms = [] if options.arms or compared.empty else readable_arms(compared)
    floors = {parse(arm)._replace(base=FROZEN, basis=None).label for arm in arms if base(arm) == "expander"}
    shown = [*arms, *sorted(floors)]
    sections = [
        _section("frontier", "Frontier", lambda: frontier_section(records, options, place, shown)),
        _section("dominance", "Dominance", lambda: _dominance(records, options)),
    ]
    for name, made in {**MAIN, **CONTROLS}.items():
        sections.append(_section(name, made.title, lambda make=made.make: make(records, options, shown)))
    title = "Latents' top contexts"
    sections.append(_section("contexts", title, lambda: contexts_section(everything, records.folder, place)))
    return [{**section, "control": section["id"] in CONTROLS} for section in sections]


def _labels(found: Any) -> set[str]:
    """Return the labels of runs, and the base arms that tables of pursuits and rounding name."""
    return {name for label in found for name in (label, base(label), unrounded(label))}


def _section(name: str, title: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return a section; where the records have nothing for it, the reason as `missing` in place of its content."""
    try:
        return {"id": name, "title": title, **make()}
    except NoRunsError as reason:
        return {"id": name, "title": title, "missing": str(reason)}


def _dominance(records: Records, options: Options) -> dict[str, Any]:
    """Return the dominance table by each measure that the records have, one below the other."""
    tables: list[pd.DataFrame] = []
    reasons: list[NoRunsError] = []
    for measure in MEASURES.values():
        try:
            every = measure.rows(records)
            table = dominance_table(chosen(every, options), measure.column, every)
            tables.append(table.assign(measure=measure.label))
        except NoRunsError as reason:
            reasons.append(reason)
    if not tables:
        raise reasons[0]
    table = pd.concat(tables, ignore_index=True)
    return {"kind": "dominance", "how": " ".join(_DOMINANCE.split()), "table": encoded(table)}


def _about(records: Records, count: int, compared: int, left_out: int) -> dict[str, Any]:
    """Return what the page's head says."""
    labels = [record["labels"] for record in records.records if record.get("kind") != RECOVERY]
    return {
        "source": str(records.source),
        "runs": count,
        "compared": compared,
        "synthetic": sum(record.get("kind") == SYNTHETIC for record in records.records),
        "left_out": left_out,
        "models": sorted({label["model"] for label in labels}),
        "corpora": sorted({label["corpus"] for label in labels}),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def html_page(data: dict[str, Any]) -> str:
    """Return the page that shows `data`, made by `page_data`.

    The page's content security policy lets only its own scripts run, and nothing be fetched.
    """
    scripts = {"plotly": _static(_PLOTLY), "script": "\n".join(["'use strict';", *map(_static, _SCRIPTS)])}
    return Template(_static("page.html")).substitute(
        scripts,
        hashes=" ".join(f"'{_hash(text)}'" for text in scripts.values()),
        style=_static("page.css"),
        data=script_json(data),
        **_head(data["about"]),
    )


def _head(about: dict[str, Any]) -> dict[str, str]:
    facts = [
        f"{about['runs']:,} runs" + (f", {about['compared']:,} compared" if about["compared"] < about["runs"] else ""),
        *([f"{about['synthetic']:,} runs of known features"] if about["synthetic"] else []),
        "LM " + ", ".join(about["models"]),
        "text " + ", ".join(about["corpora"]),
    ]
    if about["left_out"]:
        facts.append(f"{about['left_out']} failed or unreadable left out")
    facts.append("written " + about["written"])
    return {"source": html.escape(about["source"]), "facts": html.escape(" · ".join(facts))}


def _static(name: str) -> str:
    return files("analysis.page").joinpath("static", name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
