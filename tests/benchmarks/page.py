"""Measurement of the page of `python -m analysis report`: its size, and how long it takes to make and to open.

    python -m tests.benchmarks.page     under a minute; needs Chromium

It measures a page of the embedded records and one of 1,000 made-up runs. The time to open a file is taken by the
browser's own clock, from navigation to the first figure drawn: the median of REPEATS pages that one Chromium opens one
after the other. For a phone, Chromium slows its processor down SLOWER times.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser, sync_playwright

from tests.analysis.synthetic import write_sweep

RESULTS = Path(__file__).parent / "results" / "page.md"
REPEATS = 9
SLOWER = 4
RUNS = 1000


def milliseconds(browser: Browser, page_file: Path, width: int, slower: int = 1) -> list[float]:
    """Open the page REPEATS times; return the milliseconds of each from navigation to the first figure.

    Args:
        width: of the window, in pixels.
        slower: how many times the browser slows its processor down.
    """
    times: list[float] = []
    for _ in range(REPEATS):
        page = browser.new_page(viewport={"width": width, "height": 844})
        if slower > 1:
            page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slower})
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-drawn]")
        times.append(page.evaluate("performance.getEntriesByName('first-figure')[0].startTime"))
        page.close()
    return times


def make_page(source: str, out: Path) -> tuple[Path, float]:
    """Make the page of the records at `source`; return its path and the seconds that the command took."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "analysis", "report", "--runs", source, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out / "report.html", time.perf_counter() - started


def write_runs(folder: Path) -> str:
    """Write RUNS complete runs into `folder`; return its path."""
    write_sweep(folder, seeds=(0, 1, 2, 5))
    spare = sorted(path for path in folder.iterdir() if path.name.startswith("banded"))
    for path in spare[: len(list(folder.iterdir())) - RUNS]:
        shutil.rmtree(path)
    assert len(list(folder.iterdir())) == RUNS
    return str(folder)


def main() -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    lines = [
        "| records | made in | size | opens | slowest of nine | phone's width, 4 times slower |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        made_up = write_runs(Path(scratch) / "runs")
        for name, source in (("embedded, 315", "embedded"), ("1,000 made up", made_up)):
            page, seconds = make_page(source, Path(scratch) / name)
            desk, phone = milliseconds(browser, page, 1280), milliseconds(browser, page, 390, SLOWER)
            size = page.stat().st_size / 1e6
            opens = f"**{median(desk) / 1000:.2f} s** | {max(desk) / 1000:.2f} s | {median(phone) / 1000:.1f} s"
            lines.append(f"| {name} | {seconds:.1f} s | {size:.1f} MB | {opens} |")
        machine = f"{os.cpu_count()} CPU cores, Chromium {browser.version}, headless"
        head = f"# The page\n\n`python -m tests.benchmarks.page`, {machine}.\n"
        browser.close()
    print("\n".join(lines))
    RESULTS.write_text("\n".join([head, *lines]) + "\n")


if __name__ == "__main__":
    main()
