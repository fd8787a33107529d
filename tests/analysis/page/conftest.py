from __future__ import annotations

import gzip
import json
import shutil

import pytest

from sweep.store.records import CONTEXTS

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, one for all tests of a session."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(chromium):
    """Opens a page file; at the end it must have said and fetched nothing."""
    pages, said = [], []

    def read(file, **options):
        page = chromium.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: request.url.startswith(("file:", "blob:")) or said.append(request.url))
        pages.append(page)
        page.goto(file.as_uri())
        page.wait_for_selector("html[data-drawn]")
        return page

    yield read
    for page in pages:
        page.close()
    assert said == []


def keep_contexts(runs, run_id, latents):
    """Write contexts as `sweep.measures.contexts` does, into the run's folder."""
    with gzip.open(runs / run_id / CONTEXTS, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(latent) + "\n" for latent in latents)


def latent(number, rate=0.01, tokens=("def", " main", "\n"), codes=(0.0, 3.25, 1.0)):
    return {"latent": number, "firing_rate": rate, "contexts": [{"tokens": list(tokens), "codes": list(codes)}]}
