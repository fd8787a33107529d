"""Labelled tokens of code, and labelled texts."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from sweep.probing.sets import (
    CODE_SETS,
    EACH_TOKEN,
    LAST,
    LAST_TOKEN,
    MEAN_OF_TOKENS,
    TEXT_SETS,
    TEXTS,
    WINDOWS_A_FILE,
    code_family,
    code_marks,
    text_family,
)

SOURCE = '''import os, \\
    sys
from a import (b,
    c)  # why
@dec(1)
async def f(x: int = 3) -> str:
    """doc
    two"""
    for i in [1, 2]:
        y = {'a': "b"}
    return lambda: 0
class A: pass
'''


def shown(text, name):
    marks = code_marks(text)[CODE_SETS.index(name)]
    return "".join(
        character if mark or character == "\n" else " " for character, mark in zip(text, marks, strict=True)
    ).split("\n")


def test_what_pythons_tokenizer_says_of_each_character():
    strings = shown(SOURCE, "in a string")
    assert strings[6].strip() + strings[7] == '"""doc    two"""' and strings[9].split() == ["'a'", '"b"']
    assert [line.strip() for line in shown(SOURCE, "in a comment") if line.strip()] == ["# why"]
    header = [line.split() for line in shown(SOURCE, "in a def line") if line.strip()]
    assert header == [["def", "f(x:", "int", "=", "3)", "->", "str:"], ["class", "A:"]]
    imports = [line.split() for line in shown(SOURCE, "in an import") if line.strip()]
    assert imports == [["import", "os,"], ["sys"], ["from", "a", "import", "(b,"], ["c)"]]
    brackets = [line.strip() for line in shown(SOURCE, "in brackets") if line.strip()]
    assert brackets == ["b,", "c", "1", "x: int = 3", "1, 2", "'a': \"b\""]
    assert [line.strip() for line in shown(SOURCE, "indented twice") if line.strip()] == ["y = {'a': \"b\"}"]


def test_lines_are_told_apart_as_python_does():
    text = "x = 1\x0c\ny = '\u2028'  # c\n"
    assert "".join(shown(text, "in a comment")).strip() == "# c"
    assert code_marks("def f(:\n  'open") is None and code_marks("") is not None


def test_tokens_of_code_stand_for_what_they_are_in(tokenizer):
    family = code_family(tokenizer, 24, 60)
    assert family.windows.tokens.shape == (60, 24) and family.pooling == EACH_TOKEN
    assert [one.name for one in family.sets] == list(CODE_SETS)
    strings = family.sets[0]
    texts = [tokenizer.decode([t]) for t in family.windows.tokens.ravel()[strings.items]]
    quoted = [label for text, label in zip(texts, strings.labels, strict=True) if text.strip() in ("'", '"', '"""')]
    assert quoted and np.mean(quoted) > 0.9
    for one in family.sets:
        sides = one.test.reshape(60, 24)
        assert (sides == sides[:, :1]).all() and 0 < sides.mean() < 1
    runs = np.diff(np.flatnonzero(np.diff(np.r_[-1, family.sets[0].test.reshape(60, 24)[:, 0], -1])))
    assert runs.max() >= 1 and WINDOWS_A_FILE == 3
    assert family.digest() == code_family(tokenizer, 24, 60).digest() != code_family(tokenizer, 24, 61).digest()


@pytest.mark.skipif(
    find_spec("sae_probes") is None or find_spec("zstandard") is None,
    reason="sae-probes and zstandard are not installed",
)
def test_texts_are_balanced_different_and_none_of_the_corpus(tokenizer):
    from sweep.corpus.prose import ProseCorpus

    names = ["sentiment of films", "Python"]
    family, last = text_family(tokenizer, 24, TEXTS, names), text_family(tokenizer, 24, LAST, names)
    assert last.pooling == LAST_TOKEN and last.windows.digest() == family.windows.digest()
    assert last.digest() != family.digest()
    assert [len(one.items) for one in family.sets] == [600, 600] and family.pooling == MEAN_OF_TOKENS
    assert all(one.labels.mean() == 0.5 and 0.4 < one.test.mean() < 0.6 for one in family.sets)
    assert np.concatenate([one.items for one in family.sets]).tolist() == list(range(1200))
    assert len(family.windows.tokens) == 1200 and family.windows.lengths.min() > 1
    files = {file for file, _ in TEXT_SETS.values()}
    assert len(files) == len(TEXT_SETS) and not files & {"100_news_fake", "111_yelp_data"}
    prose = {document.text for document in ProseCorpus().documents()}
    shown_texts = {
        tokenizer.decode(row[:length])
        for row, length in zip(family.windows.tokens, family.windows.lengths, strict=True)
    }
    assert len(prose) > 6000 and not prose & shown_texts
