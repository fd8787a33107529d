"""Text as people have it: the same texts are the same documents in every format, and anything else is one line."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import pytest

from sweep.corpus import TextCorpus
from sweep.corpus.documents import CorpusError
from sweep.corpus.formats import SUFFIXES
from tests.conftest import some_text

TEXTS = [*some_text(20), "two\nlines and a caf\u00e9", "\u2028 is no end of a line, and \U0001f642 is one character"]


def packed(file, data: bytes):
    """Write the data to the file, compressed as its name says, and return it as `corpus.path`."""
    if file.suffix == ".zst":
        zstandard = pytest.importorskip("zstandard", reason="extra text is not installed")
        half = len(data) // 2  # in two frames, as parallel compressors write it
        data = b"".join(zstandard.ZstdCompressor().compress(part) for part in (data[:half], data[half:]))
    file.write_bytes(gzip.compress(data, mtime=0) if file.suffix == ".gz" else data)
    return str(file)


def written(file, texts, field="text"):
    """Write the texts in the format that the file's name says, and return it as `corpus.path`."""
    kind = file.name.removesuffix(".gz").removesuffix(".zst").rsplit(".", 1)[-1]
    if kind == "parquet":
        pytest.importorskip("pyarrow", reason="extra text is not installed")
        import io

        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        pq.write_table(pa.table({"id": range(len(texts)), field: texts}), sink)
        return packed(file, sink.getvalue())
    if kind in ("jsonl", "ndjson"):
        return packed(file, "".join(json.dumps({"id": 1, field: text}) + "\n" for text in texts).encode())
    return packed(file, "<|endoftext|>".join(texts).encode())


def texts_of(path, **settings):
    return [(d.text, d.held_out) for d in TextCorpus(str(path), **settings).documents()]


def refusal(path, **settings):
    """Return the one line with which the path is refused."""
    with pytest.raises(CorpusError) as raised:
        texts_of(path, **settings)
    assert "\n" not in str(raised.value) and str(path).rsplit("/", 1)[-1] in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_texts_are_the_same_documents_in_every_format(suffix, tmp_path):
    plain = texts_of(written(tmp_path / "plain.md", TEXTS))
    assert len(plain) == len(TEXTS)
    noisy = [*TEXTS, "", "  \n", f" {TEXTS[0]}\r\n", *([] if ".txt" in suffix else [None])]
    file = Path(written(tmp_path / f"t{suffix}", noisy))
    assert texts_of(file) == plain
    assert texts_of(file.rename(tmp_path / f"T{suffix.upper()}")) == plain


@pytest.mark.parametrize("newline", ["\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_newlines_of_every_kind_and_a_mark_leave_no_trace(newline, mark, tmp_path):
    text = "one\ntwo<|endoftext|>three\n\nfour"
    (tmp_path / "t.txt").write_bytes(mark + text.replace("\n", newline).encode())
    (tmp_path / "t.jsonl").write_bytes(mark + newline.join(json.dumps({"text": t}) for t in "ab").encode())
    assert {t for t, _ in texts_of(tmp_path / "t.txt")} == {"one\ntwo", "three\n\nfour"}
    assert {t for t, _ in texts_of(tmp_path / "t.jsonl")} == {"a", "b"}


@pytest.mark.parametrize("encoding", ["utf-16", "UTF-16-le", "cp1252", "gb18030", "utf_32", "latin1"])
def test_an_encoding_is_read_as_given(encoding, tmp_path):
    (tmp_path / "t.txt").write_bytes("eins, z\u00fcrich<|endoftext|>zwei".encode(encoding))
    assert {t for t, _ in texts_of(tmp_path / "t.txt", encoding=encoding)} == {"eins, z\u00fcrich", "zwei"}


def test_a_folder_gives_its_files_of_every_format_without_hidden_ones(tmp_path):
    for name in ("b.txt", "sub/a.jsonl", "sub/deep/c.ndjson.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        written(tmp_path / name, [f"text of {name}"])
    for name in (".hidden.txt", ".git/x.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x89PNG\xff")
    assert {t for t, _ in texts_of(tmp_path)} == {
        f"text of {n}" for n in ("b.txt", "sub/a.jsonl", "sub/deep/c.ndjson.gz")
    }
    assert len(texts_of(tmp_path / "sub/**/*")) == 2


def test_a_long_line_and_a_separator_across_blocks_are_whole(tmp_path):
    long = "word " * 10_000_000
    (tmp_path / "t.txt").write_text(long + "<|endoftext|>" + "x" * ((1 << 20) - 8) + "<|endoftext|>end")
    assert sorted(len(t) for t, _ in texts_of(tmp_path / "t.txt")) == [3, (1 << 20) - 8, len(long) - 1]


def test_what_was_read_otherwise_before_has_another_fingerprint_and_plain_text_has_not(tmp_path):
    texts = ["one", "two"]
    prints = set()
    for name in ("a.txt", "a.jsonl", "b.ndjson"):
        content = "".join(json.dumps({"text": t}) + "\n" for t in texts)  # the same bytes under three names
        (tmp_path / name).write_text(content)
        prints.add(TextCorpus(str(tmp_path / name)).fingerprint(tmp_path / "cache"))
    assert len(prints) == 2  # JSON lines have one name, whatever their suffix
    (tmp_path / "m.txt").write_bytes(b"\xef\xbb\xbfone<|endoftext|>two")
    file = TextCorpus(str(tmp_path / "m.txt"))
    assert file.fingerprint(tmp_path / "cache") != OLD_WITH_MARK
    other = TextCorpus(str(tmp_path / "a.jsonl"), text_field="body").fingerprint(tmp_path / "cache")
    assert other not in prints


OLD_WITH_MARK = "fe9418961d217888"  # when the mark of UTF-8 was part of the text


LINE = json.dumps({"text": "fine"}) + "\n"


@pytest.mark.parametrize(
    "name, data, said",
    [
        ("t.jsonl", LINE + "{broken\n", "line 2 is not JSON"),
        ("t.jsonl", "\n\n[1, 2]\n", "line 3 is not a JSON object with keys but a list"),
        ("t.jsonl", LINE + '{"body": "x", "id": 1}', "line 2 has no key corpus.text_field=text; its keys are body, id"),
        ("t.jsonl", LINE + '{"text": 5}', "line 2: corpus.text_field=text must hold text, but holds 5 (int)"),
        ("t.jsonl", "[" * 200_000, "line 1 is not JSON that can be read"),
        ("t.jsonl", LINE + '{"text": ' + "1" * 9000 + "}", "line 2 is not JSON that can be read"),
        ("t.jsonl", '{"text": null}\n' + LINE, "holds 1 distinct document"),
        ("t.txt", b"\xff\xfeh\x00i\x00", "try corpus.encoding=utf-16"),
        ("t.txt", "some text without a mark".encode("utf-16-le"), "NUL at byte 1): try corpus.encoding=utf-16-le"),
        ("t.txt", "some text without a mark".encode("utf-16-be"), "NUL at byte 0): try corpus.encoding=utf-16-be"),
        ("t.txt", b"fine\r\n" * 400_000 + b"\0", "NUL at byte 2400000): it is binary data"),
        ("t.txt", b"fine\r\n" * 400_000 + b"caf\xe9!", "continuation byte at byte 2400003): give its encoding"),
        ("t.txt", b"caf\xc3", "unexpected end of data at byte 3)"),
        ("t.txt", b"%PDF-1.7 all of it ASCII", "it is a PDF document"),
        ("t.txt", b"PK\x03\x04\x00\x00", "it is a zip archive"),
        ("t.txt", gzip.compress(b"x", mtime=0), "let its name end in .gz"),
        ("t.pkl", pickle.dumps({"a": "b" * 50}), "it is a Python pickle"),
        ("t.txt.gz", b"no gzip", "not a whole .gz file"),
        ("t.txt.gz", gzip.compress(b"some text" * 99, mtime=0)[:-9], "not a whole .gz file"),
        ("t.txt.gz", b"", "not a whole .gz file (it is empty)"),
        ("t.jsonl.gz", gzip.compress(b"{", mtime=0), "line 1 is not JSON"),
    ],
)
def test_what_is_no_text_is_one_line_that_names_the_place(name, data, said, tmp_path):
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    assert said in refusal(tmp_path / name)


@pytest.mark.parametrize("cut", [0, 1, 10, -5])
def test_zstandard_that_ends_early_or_is_none_is_one_line(cut, tmp_path):
    zstandard = pytest.importorskip("zstandard", reason="extra text is not installed")
    whole = zstandard.ZstdCompressor().compress(json.dumps({"text": "a b c" * 99}).encode())
    (tmp_path / "t.jsonl.zst").write_bytes(whole[:cut])
    assert "not a whole .zst file (it ends early)" in refusal(tmp_path / "t.jsonl.zst")
    (tmp_path / "n.zst").write_bytes(b"this is not zstandard data")
    assert "not a whole .zst file" in refusal(tmp_path / "n.zst")


def test_parquet_without_the_column_or_of_another_kind_is_one_line(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="extra text is not installed")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": [1, 2], "body": ["a", "b"]}), tmp_path / "t.parquet")
    assert "must hold text, not int64" in refusal(tmp_path / "t.parquet")
    assert "its columns are text, body" in refusal(tmp_path / "t.parquet", text_field="no")
    assert len(texts_of(tmp_path / "t.parquet", text_field="body")) == 2
    (tmp_path / "n.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-7])
    assert "cannot be read as parquet" in refusal(tmp_path / "n.parquet")


@pytest.mark.parametrize("name, package", [("t.parquet", "pyarrow"), ("t.txt.zst", "zstandard")])
def test_a_missing_package_is_named_with_its_extra(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / name).write_bytes(b"x")
    assert f"needs the package {package}: pip install -e '.[text]'" in refusal(tmp_path / name)


def test_a_folder_without_text_says_what_it_looks_for(tmp_path):
    (tmp_path / "notes.md").write_text("one<|endoftext|>two")
    assert ".txt, .jsonl" in refusal(tmp_path) and "'**/*.md'" in refusal(tmp_path).replace(f"{tmp_path}/", "")
    assert len(texts_of(tmp_path / "**/*.md")) == 2


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"encoding": "klingon"}, "corpus.encoding=klingon is no encoding"),
        ({"encoding": "rot13"}, "corpus.encoding=rot13 is no encoding"),
        ({"encoding": "a\0b"}, "is no encoding"),
        ({"text_field": ""}, "corpus.text_field=''"),
        ({"encoding": "utf-16"}, "no byte order mark at byte 0"),
        ({"encoding": "ascii"}, "is not ASCII text"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, said, tmp_path):
    (tmp_path / "t.txt").write_text("caf\u00e9 and more<|endoftext|>two")
    with pytest.raises(CorpusError, match=said):
        texts_of(tmp_path / "t.txt", **settings)


def test_half_a_character_of_json_becomes_the_replacement_character(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a\\ud83d b"}\n{"text": "c\\ud83d\\ude42"}\n')
    assert {t for t, _ in texts_of(tmp_path / "t.jsonl")} == {"a\ufffd b", "c\U0001f642"}


def test_a_file_that_changes_after_it_was_hashed_is_refused(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"text number {i}")
    corpus = TextCorpus(str(tmp_path))
    corpus.fingerprint(tmp_path / "cache")
    (tmp_path / "1.txt").write_text("text number 1 and more")
    with pytest.raises(CorpusError, match="1.txt has changed since"):
        list(corpus.documents())
    (tmp_path / "1.txt").unlink()
    with pytest.raises(CorpusError, match="1.txt cannot be read"):
        corpus.fingerprint(tmp_path / "cache")


@pytest.mark.parametrize(
    "path, label",
    [
        ("{place}", "text:{place.name}"),
        ("{place}/", "text:{place.name}"),
        ("{place}/book.txt", "text:book.txt"),
        ("{place}/*.txt", "text:{place.name}/*.txt"),
        ("{place}/**/*.jsonl", "text:{place.name}/**/*.jsonl"),
        (".", "text:{place.name}"),
        ("*.txt", "text:{place.name}/*.txt"),
        ("/", "text:/"),
        ("{place}/a\nb.txt", "text:a?b.txt"),
        ("{place}/" + "long" * 50 + ".txt", "text:..." + ("long" * 50 + ".txt")[-56:]),
    ],
)
def test_the_label_is_short_and_never_empty(path, label, tmp_path, monkeypatch):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.chdir(place)
    found = TextCorpus(path.format(place=place)).label
    assert found == label.format(place=place) and len(found) <= 64
