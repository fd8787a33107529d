"""The page of `python -m analysis report`: its size, and how long it takes to make and to open, of the embedded records
and of 1,000 made-up runs.

    python -m tests.benchmarks.page     under a minute; needs Chromium

Time to open is by the browser's own clock, from navigation to the first figure drawn, of a file: the median of REPEATS
pages opened one after the other by one Chromium, and by one whose processor it slows down SLOWER times, for a phone.
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
    """From navigation to the first figure, of each page opened."""
    found: list[float] = []
    for _ in range(REPEATS):
        page = browser.new_page(viewport={"width": width, "height": 844})
        if slower > 1:
            page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slower})
        page.goto(page_file.as_uri())
        page.wait_for_selector("html[data-drawn]")
        found.append(page.evaluate("performance.getEntriesByName('first-figure')[0].startTime"))
        page.close()
    return found


def made(source: str, out: Path) -> tuple[Path, float]:
    """The page of `source` and the seconds that the command took."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "analysis", "report", "--runs", source, "--out", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    return out / "report.html", time.perf_counter() - started


def thousand(folder: Path) -> str:
    """A folder of RUNS complete runs."""
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
        for name, source in (("embedded, 315", "embedded"), ("1,000 made up", thousand(Path(scratch) / "runs"))):
            page, seconds = made(source, Path(scratch) / name)
            desk, phone = milliseconds(browser, page, 1280), milliseconds(browser, page, 390, SLOWER)
            size = page.stat().st_size / 1e6
            opens = f"**{median(desk) / 1000:.2f} s** | {max(desk) / 1000:.2f} s | {median(phone) / 1000:.1f} s"
            lines.append(f"| {name} | {seconds:.1f} s | {size:.1f} MB | {opens} |")
        with_what = f"{os.cpu_count()} CPU cores, Chromium {browser.version}, headless"
        head = f"# The page\n\n`python -m tests.benchmarks.page`, {with_what}.\n"
        browser.close()
    print("\n".join(lines))
    RESULTS.write_text("\n".join([head, *lines]) + "\n")


if __name__ == "__main__":
    main()
