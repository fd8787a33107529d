"""Corpora, their split into training and held-out documents, and the windows of tokens cut from them."""

from __future__ import annotations

from dataclasses import fields, make_dataclass, replace

import numpy as np
import pytest

from sae_core.hashed import later
from sweep.corpus import HubCorpus, StdlibCorpus, TextCorpus
from sweep.corpus.documents import CorpusError, Document, without_copies
from sweep.corpus.windows import WindowConfig, held_out_windows, train_windows
from tests.conftest import some_text


def corpus_of(tmp_path, texts, **settings):
    file = tmp_path / "t.txt"
    file.write_text("<|endoftext|>".join(texts))
    return TextCorpus(str(file), **settings)


def test_text_is_split_by_document_and_copies_stay_on_one_side(tmp_path):
    texts = some_text(50)
    documents = list(corpus_of(tmp_path, texts + texts[:10], held_out_fraction=0.2).documents())
    held_out = {d.text for d in documents if d.held_out}
    train = {d.text for d in documents if not d.held_out}
    assert held_out | train == set(texts) and not held_out & train and len(held_out) == 10


def test_newlines_in_the_separator_may_be_spelled_out(tmp_path):
    (tmp_path / "t.txt").write_text("one\n\ntwo\n\nthree")
    assert len(list(TextCorpus(str(tmp_path / "t.txt"), separator="\\n\\n").documents())) == 3


def test_two_documents_are_enough_for_both_sides(tmp_path):
    assert sorted(d.held_out for d in corpus_of(tmp_path, ["aa", "bb"]).documents()) == [False, True]


def test_a_glob_reads_every_file_and_the_fingerprint_follows_the_content(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"text number {i}")
    corpus = TextCorpus(str(tmp_path / "*.txt"))
    assert len(list(corpus.documents())) == 3
    before = corpus.fingerprint(tmp_path / "cache")
    assert TextCorpus(str(tmp_path / "*.txt")).fingerprint(tmp_path / "cache") == before
    (tmp_path / "1.txt").write_text("another text!!")
    assert TextCorpus(str(tmp_path / "*.txt")).fingerprint(tmp_path / "cache") != before


def test_a_held_out_copy_of_a_training_text_is_dropped():
    kept = without_copies([Document("a", "x", True), Document("b", "x", False), Document("c", "y", True)])
    assert [d.name for d in kept] == ["b", "c"]


def test_the_standard_library_is_split_by_path_alone(tmp_path):
    for i in range(60):
        (tmp_path / f"m{i}.py").write_text(f"x = {i}")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "no.py").write_text("no")
    first = {d.name: d.held_out for d in StdlibCorpus(0.3, str(tmp_path)).documents()}
    (tmp_path / "m0.py").write_text("y = 'changed'")
    again = {d.name: d.held_out for d in StdlibCorpus(0.3, str(tmp_path)).documents()}
    assert first == again and len(first) == 60 and 5 < sum(first.values()) < 35


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"path": ""}, "corpus.path is not set"),
        ({"path": "/nowhere/x.txt"}, "matches no file"),
        ({"path": "x", "held_out_fraction": 1.0}, "held_out_fraction=1.0"),
        ({"path": "x", "separator": ""}, "corpus.separator"),
    ],
)
def test_bad_settings_of_a_text_corpus_are_named(settings, message):
    with pytest.raises(CorpusError, match=message):
        list(TextCorpus(**settings).documents())


def test_empty_and_binary_files_are_errors(tmp_path):
    with pytest.raises(CorpusError, match="0 distinct document"):
        list(corpus_of(tmp_path, [""]).documents())
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match="not UTF-8"):
        list(TextCorpus(str(tmp_path / "b.txt")).documents())


def test_windows_stay_within_their_document_and_hold_all_of_its_tokens(tmp_path, tokenizer):
    corpus = corpus_of(tmp_path, some_text(30), held_out_fraction=0.2)
    texts = [d.text for d in corpus.documents() if not d.held_out]
    config = WindowConfig(16, "window")
    total = sum(-(-n // 15) + n for n in (len(tokenizer(t)["input_ids"]) for t in texts))
    windows = train_windows(corpus, tokenizer, config, total)
    assert windows.n_tokens == total and (windows.tokens[:, 0] == tokenizer.bos_token_id).all()
    joined = [tokenizer.decode(row[1:n]) for row, n in zip(windows.tokens, windows.lengths, strict=True)]
    rest = "".join(texts)
    for piece in joined:
        assert rest.startswith(piece)
        rest = rest[len(piece) :]
    assert rest == ""


def test_the_bos_setting_decides_which_windows_open_with_bos(tmp_path, tokenizer):
    corpus = corpus_of(tmp_path, some_text(30))
    bos = tokenizer.bos_token_id
    assert (train_windows(corpus, tokenizer, WindowConfig(16, "none"), 200).tokens[:, 0] != bos).all()
    per_document = train_windows(corpus, tokenizer, WindowConfig(16, "document"), 600).tokens
    assert 1 < (per_document[:, 0] == bos).sum() < len(per_document)
    with pytest.raises(CorpusError, match="corpus.bos=often"):
        WindowConfig(16, "often")


def test_training_windows_hold_the_asked_tokens_and_held_out_windows_come_full_ones_first(tmp_path, tokenizer):
    corpus = corpus_of(tmp_path, some_text(30), held_out_fraction=0.3)
    config = WindowConfig(16)
    assert train_windows(corpus, tokenizer, config, 333).n_tokens == 333
    lengths = held_out_windows(corpus, tokenizer, config, 12).lengths
    assert (np.diff(lengths) <= 0).all() and lengths[0] == 16


def test_too_little_text_is_an_error_that_names_the_key(tmp_path, tokenizer):
    corpus = corpus_of(tmp_path, some_text(30), held_out_fraction=0.3)
    config = WindowConfig(16)
    with pytest.raises(CorpusError, match="corpus.train_tokens=1000000 is more than the corpus holds"):
        train_windows(corpus, tokenizer, config, 1_000_000)
    with pytest.raises(CorpusError, match="eval.windows=5000 is more than the corpus holds"):
        held_out_windows(corpus, tokenizer, config, 5000)


def with_newcomer(corpus):
    """Return `corpus` with one setting more than its class has, `newcomer`, as a later version may add it."""
    kind = type(corpus)
    more = make_dataclass(kind.__name__, [("newcomer", int, later(0))], bases=(kind,), frozen=True, eq=False)
    return more(**{each.name: getattr(corpus, each.name) for each in fields(corpus)})


def test_a_setting_that_comes_later_changes_no_older_fingerprint(tmp_path):
    (tmp_path / "text.txt").write_text("one<|endoftext|>two")
    corpora = (StdlibCorpus(), TextCorpus(str(tmp_path / "text.txt")), HubCorpus("a/b", revision=COMMIT))
    for corpus in corpora:
        newer = with_newcomer(corpus)
        assert newer.fingerprint(tmp_path) == corpus.fingerprint(tmp_path)
        assert replace(newer, newcomer=1).fingerprint(tmp_path) != corpus.fingerprint(tmp_path)


def test_fingerprints_never_change(tmp_path):
    (tmp_path / "text.txt").write_text("one<|endoftext|>two")
    assert TextCorpus(str(tmp_path / "text.txt")).fingerprint(tmp_path) == TEXT
    assert TextCorpus(str(tmp_path / "text.txt"), encoding="UTF8", text_field="text").fingerprint(tmp_path) == TEXT
    assert HubCorpus("a/b", revision=COMMIT).fingerprint(tmp_path) == "af4ee4b9dc8d585f"


COMMIT = "0123456789abcdef0123456789abcdef01234567"
TEXT = "4b5e2a64d20be5d1"  # of the text above, on 2026-11-23
