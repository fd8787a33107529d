from __future__ import annotations

import numpy as np
import pytest

from sweep.corpus.documents import CorpusError, Document, HubCorpus, StdlibCorpus, TextCorpus, without_copies
from sweep.corpus.windows import WindowConfig, held_out_windows, train_windows
from tests.conftest import some_text


def corpus_of(tmp_path, texts, **settings):
    file = tmp_path / "t.txt"
    file.write_text("<|endoftext|>".join(texts))
    return TextCorpus(str(file), **settings)


def test_text_is_split_by_document_and_copies_never_cross(tmp_path):
    texts = some_text(50)
    documents = list(corpus_of(tmp_path, texts + texts[:10], held_out_fraction=0.2).documents())
    held_out = {d.text for d in documents if d.held_out}
    train = {d.text for d in documents if not d.held_out}
    assert held_out | train == set(texts) and not held_out & train and len(held_out) == 10


def test_a_separator_may_be_spelled_out(tmp_path):
    (tmp_path / "t.txt").write_text("one\n\ntwo\n\nthree")
    assert len(list(TextCorpus(str(tmp_path / "t.txt"), separator="\\n\\n").documents())) == 3


def test_two_documents_give_both_sides(tmp_path):
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


def test_stdlib_is_split_by_path_alone(tmp_path):
    for i in range(60):
        (tmp_path / f"m{i}.py").write_text(f"x = {i}")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "no.py").write_text("no")
    first = {d.name: d.held_out for d in StdlibCorpus(0.3, str(tmp_path)).documents()}
    (tmp_path / "m0.py").write_text("y = 'changed'")
    again = {d.name: d.held_out for d in StdlibCorpus(0.3, str(tmp_path)).documents()}
    assert first == again and len(first) == 60 and 5 < sum(first.values()) < 35


@pytest.mark.parametrize("settings, message", [
    ({"path": ""}, "corpus.path is not set"),
    ({"path": "/nowhere/x.txt"}, "matches no file"),
    ({"path": "x", "held_out_fraction": 1.0}, "held_out_fraction=1.0"),
    ({"path": "x", "separator": ""}, "corpus.separator"),
])  # fmt: skip
def test_bad_text_settings(settings, message):
    with pytest.raises(CorpusError, match=message):
        list(TextCorpus(**settings).documents())


def test_empty_and_binary_files(tmp_path):
    with pytest.raises(CorpusError, match="0 distinct document"):
        list(corpus_of(tmp_path, [""]).documents())
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CorpusError, match="not UTF-8"):
        list(TextCorpus(str(tmp_path / "b.txt")).documents())


def test_hub_documents_stream_through_datasets(tmp_path):
    datasets = pytest.importorskip("datasets", reason="extra hub is not installed")
    datasets.Dataset.from_dict({"text": some_text(40)}).to_json(tmp_path / "d.jsonl")
    corpus = HubCorpus(str(tmp_path), held_out_fraction=0.3)
    documents = list(corpus.documents())
    assert len(documents) == 40 and 0 < sum(d.held_out for d in documents) < 40


def test_windows_stay_in_their_document_and_hold_its_tokens(tmp_path, tokenizer):
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


def test_bos_policies(tmp_path, tokenizer):
    corpus = corpus_of(tmp_path, some_text(30))
    bos = tokenizer.bos_token_id
    assert (train_windows(corpus, tokenizer, WindowConfig(16, "none"), 200).tokens[:, 0] != bos).all()
    per_document = train_windows(corpus, tokenizer, WindowConfig(16, "document"), 600).tokens
    assert 1 < (per_document[:, 0] == bos).sum() < len(per_document)
    with pytest.raises(CorpusError, match="corpus.bos=often"):
        WindowConfig(16, "often")


def test_exact_token_count_full_windows_first_and_too_little_text(tmp_path, tokenizer):
    corpus = corpus_of(tmp_path, some_text(30), held_out_fraction=0.3)
    config = WindowConfig(16)
    assert train_windows(corpus, tokenizer, config, 333).n_tokens == 333
    lengths = held_out_windows(corpus, tokenizer, config, 12).lengths
    assert (np.diff(lengths) <= 0).all() and lengths[0] == 16
    with pytest.raises(CorpusError, match="corpus.train_tokens=1000000 is more than the corpus holds"):
        train_windows(corpus, tokenizer, config, 1_000_000)
    with pytest.raises(CorpusError, match="eval.windows=5000 is more than the corpus holds"):
        held_out_windows(corpus, tokenizer, config, 5000)
