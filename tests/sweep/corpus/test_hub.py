"""Datasets through `datasets`: what cannot change under its name is read, all else is refused in one line."""

from __future__ import annotations

import json
import os
import sys
from types import SimpleNamespace

import pytest

from sweep.corpus import HubCorpus
from sweep.corpus.documents import CorpusError
from tests.conftest import some_text

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def streamed(monkeypatch):
    """Stand in for `datasets`: the rows to stream, and what `load_dataset` was asked for."""
    world = SimpleNamespace(rows=[], asked=None)

    def load_dataset(name, config_name, **settings):
        world.asked = (name, config_name, settings["revision"])
        return iter(world.rows)

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return world


def folder_of(tmp_path, texts):
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    (folder / "d.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    return str(folder)


@pytest.mark.parametrize("revision", [None, "", "main", "v1.0", "0123abc", COMMIT[:-1], COMMIT + "0", COMMIT + "\n"])
def test_a_dataset_that_is_not_pinned_to_a_commit_is_refused_before_it_is_read(revision, tmp_path, streamed):
    corpus = HubCorpus("a/b", revision=revision)
    for use in (lambda: corpus.fingerprint(tmp_path), lambda: list(corpus.documents())):
        with pytest.raises(CorpusError, match=f"corpus.revision={revision or 'null'} pins nothing"):
            use()
    assert streamed.asked is None


@pytest.mark.parametrize("name", ["json", "text", "parquet", ""])
def test_a_reader_of_datasets_is_no_dataset(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CorpusError, match="names no dataset|is a folder without files"):
        HubCorpus(name, revision=COMMIT).fingerprint(tmp_path)


def test_a_file_is_sent_to_the_corpus_that_reads_it(tmp_path):
    (tmp_path / "t.jsonl").write_text("{}")
    with pytest.raises(CorpusError, match="is a file: read it with corpus=text corpus.path="):
        HubCorpus(str(tmp_path / "t.jsonl"), revision=COMMIT).fingerprint(tmp_path)


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_the_fingerprint_of_a_folder_follows_its_files_whatever_the_revision(revision, tmp_path):
    before = HubCorpus(folder_of(tmp_path, ["one", "two"]), revision=revision).fingerprint(tmp_path / "cache")
    assert HubCorpus(str(tmp_path / "data"), revision=revision).fingerprint(tmp_path / "cache") == before
    assert HubCorpus(str(tmp_path / "data"), revision="main").fingerprint(tmp_path / "cache") == before
    moved = (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert HubCorpus(str(moved), revision=revision).fingerprint(tmp_path / "cache") == before
    (moved / "d.jsonl").write_text('{"text": "another"}\n')
    assert HubCorpus(str(moved), revision=revision).fingerprint(tmp_path / "cache") != before


def test_a_folder_that_changes_after_it_was_hashed_is_refused(tmp_path, streamed):
    corpus = HubCorpus(folder_of(tmp_path, ["one", "two"]))
    corpus.fingerprint(tmp_path / "cache")
    streamed.rows = [{"text": "one"}, {"text": "two"}]
    assert len(list(corpus.documents())) == 2 and streamed.asked == (str(tmp_path / "data"), None, None)
    os.utime(tmp_path / "data/d.jsonl", (1, 1))
    with pytest.raises(CorpusError, match="d.jsonl has changed since"):
        next(corpus.documents())


def test_rows_without_text_are_left_out_and_others_than_text_are_named(streamed):
    streamed.rows = [{"text": t} for t in (None, "", " \n", "one", "one", "two")]
    corpus = HubCorpus("a/b", revision=COMMIT)
    assert [d.text for d in corpus.documents()] == ["one", "two"]
    for value, said in ((5, "5 (int)"), (["x"], "['x'] (list)")):
        streamed.rows = [{"text": "one"}, {"text": value}]
        with pytest.raises(CorpusError) as raised:
            list(corpus.documents())
        assert f"corpus.name=a/b, row 1: corpus.text_field=text must hold text, but holds {said}" == str(raised.value)
    streamed.rows = [{"body": "one", "id": 1}]
    with pytest.raises(CorpusError, match="corpus.text_field=text is not one of the fields of a/b: body, id"):
        list(corpus.documents())


def test_a_stream_that_breaks_is_one_line(streamed):
    def broken():
        yield {"text": "one"}
        raise RuntimeError("the line\nwent dead")

    streamed.rows = broken()
    with pytest.raises(CorpusError, match="RuntimeError: the line\\)"):
        list(HubCorpus("a/b", revision=COMMIT).documents())


def test_the_label_is_the_datasets_name(tmp_path, monkeypatch):
    assert HubCorpus("a/b").label == "hub:b"
    monkeypatch.chdir(tmp_path)
    assert HubCorpus(".").label == f"hub:{tmp_path.name}"[:64]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_folder_streams_through_datasets(kind, tmp_path):
    datasets = pytest.importorskip("datasets", reason="extra hub is not installed")
    made = datasets.Dataset.from_dict({"text": [*some_text(40), None, ""]})
    folder = tmp_path / "data"
    folder.mkdir()
    made.to_json(folder / "d.jsonl") if kind == "jsonl" else made.to_parquet(folder / "d.parquet")
    corpus = HubCorpus(str(folder), held_out_fraction=0.3)
    corpus.fingerprint(tmp_path / "cache")
    documents = list(corpus.documents())
    assert len(documents) == 40 and 0 < sum(d.held_out for d in documents) < 40
    datasets.Dataset.from_dict({"text": [1, 2]}).to_json(folder / "d.jsonl")
    (folder / "d.parquet").unlink(missing_ok=True)
    with pytest.raises(CorpusError, match="row 0: corpus.text_field=text must hold text, but holds 1 .int"):
        list(HubCorpus(str(folder)).documents())
