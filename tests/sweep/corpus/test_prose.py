"""Prose out of a package: found without importing it, split by the hash of each text, named by its content."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import pandas as pd
import pytest

from sweep.corpus import ProseCorpus, prose
from sweep.corpus.documents import CorpusError
from tests.conftest import some_text


@pytest.fixture
def folder(tmp_path):
    """The package's files, small: each repeats some texts of its own and some of the other file's."""
    pytest.importorskip("zstandard", reason="extra smollm2 is not installed")
    texts = some_text(300)
    for name, part in zip(prose._FILES, (texts[:200], texts[100:]), strict=True):
        rows = [*part, part[0], "", "NA", 'spelled\\n\\"out\\" caf\\u00e9', "x" * prose._LONGEST]
        pd.DataFrame({"prompt": rows, "target": 0}).to_csv(tmp_path / name, index=False)
    return tmp_path


def test_every_text_is_one_document_on_the_side_that_its_hash_says(folder):
    documents = list(ProseCorpus(0.2, str(folder)).documents())
    texts = [d.text for d in documents]
    assert sorted(texts) == sorted([*some_text(300), "NA", 'spelled\n"out" caf\u00e9'])
    held_out = {d.text for d in documents if d.held_out}
    assert 30 < len(held_out) < 90
    assert held_out < {d.text for d in ProseCorpus(0.4, str(folder)).documents() if d.held_out}
    places = [texts.index(text) for text in some_text(300)]
    assert places != sorted(places) and min(places[200:]) < 20 and min(places[:100]) < 20  # the files are mixed


def test_the_fingerprint_follows_content_and_split(folder):
    prints = [ProseCorpus(f, str(folder)).fingerprint(folder / "cache") for f in (0.1, 0.1, 0.2)]
    assert prints[0] == prints[1] != prints[2]
    pd.DataFrame({"prompt": ["one", "two"]}).to_csv(folder / prose._FILES[0])
    assert ProseCorpus(0.1, str(folder)).fingerprint(folder / "cache") != prints[0]


@pytest.mark.parametrize("absent", ["sae_probes", "zstandard"])
def test_without_its_packages_it_says_how_to_get_them(absent, monkeypatch, tmp_path):
    monkeypatch.setattr(prose, "find_spec", lambda name: None if name == absent else find_spec("json"))
    for use in (lambda c: c.fingerprint(tmp_path), lambda c: list(c.documents())):
        with pytest.raises(CorpusError, match="needs the packages sae-probes and zstandard; `make smollm2` installs"):
            use(ProseCorpus())


def test_files_of_another_version_or_damaged_ones_are_one_line(folder):
    (folder / prose._FILES[0]).write_bytes(b"\x28\xb5\x2f\xfd no")
    with pytest.raises(CorpusError, match="100_news_fake.csv.zst cannot be read .*`make smollm2`$"):
        list(ProseCorpus(0.1, str(folder)).documents())
    (folder / prose._FILES[0]).unlink()
    with pytest.raises(CorpusError, match="100_news_fake.csv.zst is missing"):
        ProseCorpus(0.1, str(folder)).fingerprint(folder)


@pytest.mark.skipif(find_spec("sae_probes") is None, reason="sae-probes is not installed; make smollm2")
def test_the_package_is_not_imported_and_its_texts_are_those_described(tmp_path):
    code = (
        "import sys; from pathlib import Path; from sweep.corpus import ProseCorpus; c = ProseCorpus();"
        f"d = list(c.documents()); print(c.fingerprint(Path({str(tmp_path)!r})), len(d), sum(x.held_out for x in d),"
        "'sae_probes' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "ac43b7f35ceeef0d 6869 678 False\n"
