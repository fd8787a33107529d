"""A browser for the tests of the page, and latents' contexts to show in it."""

from __future__ import annotations

import gzip
import json
import shutil

import pytest

from sweep.store.records import CONTEXTS

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium():
    """Start a headless Chromium, one for all tests of a session."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(chromium):
    """Return a function that opens a page file; at the end, no page may have logged or fetched anything."""
    pages, logged, fetched = [], [], []

    def note_request(request):
        if not request.url.startswith(("file:", "blob:")):
            fetched.append(request.url)

    def open_page(file, **options):
        page = chromium.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        page.on("console", lambda message: logged.append(message.text))
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", note_request)
        pages.append(page)
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-drawn]")
        return page

    yield open_page
    for page in pages:
        page.close()
    assert (logged, fetched) == ([], [])


def write_contexts(runs, run_id, latents):
    """Write latents with their contexts into the run's folder, as `sweep.measures.contexts` does."""
    with gzip.open(runs / run_id / CONTEXTS, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(latent) + "\n" for latent in latents)


def latent(number, rate=0.01, tokens=("def", " main", "\n"), codes=(0.0, 3.25, 1.0)):
    return {"latent": number, "firing_rate": rate, "contexts": [{"tokens": list(tokens), "codes": list(codes)}]}
