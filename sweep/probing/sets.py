"""Sets to probe: items of two classes, an item being a token of program code or a whole text.

`code`: tokens of held-out files of the Python standard library, labelled by Python's own tokenizer, so that the labels
are exact and need no data set. `texts`: labelled texts that the package sae-probes 0.4.2 carries, the benchmark of "Are
Sparse Autoencoders Useful?" (Kantamneni et al., 2025); none of them is among the texts of corpus=prose.
"""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from sweep.corpus.documents import CorpusError, unit_hash
from sweep.corpus.prose import package_folder
from sweep.corpus.stdlib import StdlibCorpus
from sweep.corpus.windows import Windows
from sweep.store.hashes import short_hash

CODE, TEXTS, LAST = "code", "texts", "texts_last"
EACH_TOKEN, MEAN_OF_TOKENS, LAST_TOKEN = "token", "mean", "last"  # what an item is made of
CODE_WINDOWS = 240  # windows of code that are labelled,
WINDOWS_A_FILE = 3  # of a file at most so many, evenly spaced
TEXTS_EACH = 600  # texts of a set
TEST_SHARE = 0.5  # of files, or of texts, that probes are tested on

# By name: the file of sae-probes, and the value of its column `target` that is the positive class. A probe on all
# coordinates of SmolLM2-135M after block 12 tells each with an accuracy of .77 or more, by the mean over the tokens or
# by the last one, but for sentiment (.72) and men's names (.73). Left out: sets that such a small LM does not tell
# (grammatical sentences .48, football players .53, sadness .58), and topics of AG News, of which the package's other
# class is program code, so that a single coordinate tells them (.995).
TEXT_SETS = {
    "sentiment of films": ("92_glue_sst2", "1"),
    "spam": ("96_spam_is", "1"),
    "clickbait": ("105_click_bait", "clickbait"),
    "written by an AI": ("110_aimade_humangpt3", "1"),
    "politics": ("139_news_class_Politics", "1"),
    "C": ("158_code_C", "1"),
    "Python": ("159_code_Python", "1"),
    "HTML": ("160_code_HTML", "1"),
    "'high school'": ("65_high-school", "bigram"),
    "'gene expression'": ("72_gene-expression", "bigram"),
    "a man's name": ("5_hist_fig_ismale", "1"),
    "about an athlete": ("60_wikidata_occupation_isathlete", "1"),
}


class ProbeSet(NamedTuple):
    """The items of a set."""

    name: str
    items: np.ndarray  # int (items,): which real tokens, or which windows, of the family they are
    labels: np.ndarray  # bool (items,)
    test: np.ndarray  # bool (items,): for testing, else for training; a file's tokens are all on one side


@dataclass(frozen=True, eq=False)  # compared by identity: caches are keyed by the object
class Family:
    """Sets that share their windows.

    Args:
        pooling: EACH_TOKEN where an item is a real token. Else an item is a window, for which the mean over its tokens
            (MEAN_OF_TOKENS) or its last token (LAST_TOKEN) stands.
    """

    name: str
    windows: Windows
    sets: tuple[ProbeSet, ...]
    pooling: str

    def digest(self) -> str:
        """Return 16 hex digits that name the items and their labels."""
        parts = [(s.name, s.items.tolist(), s.labels.tolist(), s.test.tolist()) for s in self.sets]
        return short_hash(self.windows.digest(), self.pooling, parts)


def code_family(tokenizer: Any, length: int, n_windows: int = CODE_WINDOWS) -> Family:
    """Return the tokens of held-out files of the standard library, with what Python's tokenizer says of them.

    Args:
        tokenizer: the LM's, a fast one, as only these say where a token stands in the text.
        length: tokens of a window.
    """
    rows: list[list[int]] = []
    labels: list[np.ndarray] = []
    files: list[int] = []
    opening = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for number, document in enumerate(d for d in StdlibCorpus().documents() if d.held_out):
        marks = code_marks(document.text)
        if marks is None:
            continue
        found = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, offsets = [*opening, *found["input_ids"]], [*((0, 0) for _ in opening), *found["offset_mapping"]]
        ends = np.array([max(start, end - 1) for start, end in offsets])
        of_token = marks[:, np.minimum(ends, marks.shape[1] - 1)].T
        of_token[: len(opening)] = False
        whole = len(ids) // length
        for nth in dict.fromkeys(i * whole // WINDOWS_A_FILE for i in range(WINDOWS_A_FILE)) if whole else ():
            first = nth * length
            rows.append(ids[first : first + length])
            labels.append(of_token[first : first + length])
            files.append(number)
            if len(rows) == n_windows:
                return _code_family(rows, np.concatenate(labels), np.repeat(files, length))
    if not rows:
        raise CorpusError("eval.probing=code: no file of the standard library is as long as a window")
    return _code_family(rows, np.concatenate(labels), np.repeat(files, length))


CODE_SETS = ("in a string", "in a comment", "in a def line", "in an import", "in brackets", "indented twice")


def _code_family(rows: list[list[int]], labels: np.ndarray, files: np.ndarray) -> Family:
    test = np.array([unit_hash(f"probe:{file}") < TEST_SHARE for file in files])
    items = np.arange(len(labels))
    sets = tuple(ProbeSet(name, items, labels[:, i], test) for i, name in enumerate(CODE_SETS))
    return Family(CODE, Windows(np.array(rows), np.full(len(rows), len(rows[0]))), sets, EACH_TOKEN)


def code_marks(text: str) -> np.ndarray | None:
    """Return for each name in CODE_SETS and character of a Python file whether it holds: bool (6, characters).

    A character is in a string, in a comment, on a line of a `def` or `class` header, in an import statement, inside
    brackets that are open, on a line indented by two levels or more. None where Python cannot read the file.
    """
    starts = np.cumsum([0, *(len(line) + 1 for line in text.split("\n"))])
    marks = np.zeros((len(CODE_SETS), max(1, len(text))), dtype=bool)
    string, comment, header, importing, brackets, deep = marks
    depth = level = 0
    statement: str | None = None
    after = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            begin, end = (int(starts[row - 1]) + column for row, column in (token.start, token.end))
            kind = token.type
            if kind == tokenize.INDENT:
                level += 1
            elif kind == tokenize.DEDENT:
                level -= 1
            elif kind == tokenize.COMMENT:
                comment[begin:end] = True
            elif kind not in (tokenize.NEWLINE, tokenize.NL, tokenize.ENDMARKER) and statement in (None, "async"):
                statement = token.string
            if kind == tokenize.STRING or tokenize.tok_name[kind].startswith("FSTRING"):
                string[begin:end] = True
            if kind == tokenize.OP and token.string in ")]}":
                depth -= 1
            if depth > 0:
                brackets[after:end] = True
            if kind == tokenize.OP and token.string in "([{":
                depth += 1
            if statement in ("def", "class") and kind != tokenize.COMMENT:
                header[begin:end] = True
            if statement in ("import", "from") and kind != tokenize.COMMENT:
                importing[begin:end] = True
            if kind == tokenize.NEWLINE or (
                kind == tokenize.OP and token.string == ":" and depth == 0 and _block(statement)
            ):
                statement = None
            if level >= 2:
                deep[after:end] = True
            after = end
    except (tokenize.TokenError, SyntaxError, IndexError):
        return None
    return marks


def _block(statement: str | None) -> bool:
    """Tell whether a statement that begins so may go on in the same line after a colon."""
    return statement is not None and keyword.iskeyword(statement) and statement not in ("lambda", "return", "yield")


def text_family(tokenizer: Any, length: int, family: str = TEXTS, names: Iterable[str] = TEXT_SETS) -> Family:
    """Return labelled texts of sae-probes, each cut to one window.

    Args:
        tokenizer: the LM's.
        length: tokens of a window; longer texts are cut.
        family: TEXTS, where the mean over its tokens stands for a text, or LAST, where its last token does.

    Raises:
        CorpusError: sae-probes or zstandard is not installed, or a file is missing or not as it should be.
    """
    rows: list[list[int]] = []
    sets: list[ProbeSet] = []
    opening = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for name in names:
        file, positive = TEXT_SETS[name]
        texts = list(_balanced(file, positive))
        ids = tokenizer([text for text, _ in texts], add_special_tokens=False, verbose=False)["input_ids"]
        items = np.arange(len(rows), len(rows) + len(texts))
        rows += [[*opening, *row][:length] for row in ids]
        labels = np.array([label for _, label in texts])
        test = np.array([unit_hash("probe:" + text) < TEST_SHARE for text, _ in texts])
        sets.append(ProbeSet(name, items, labels, test))
    tokens = np.zeros((len(rows), length), dtype=np.int64)
    for at, row in enumerate(rows):
        tokens[at, : len(row)] = row
    pooling = LAST_TOKEN if family == LAST else MEAN_OF_TOKENS
    return Family(family, Windows(tokens, np.array([len(row) for row in rows])), tuple(sets), pooling)


def _balanced(file: str, positive: str) -> Iterator[tuple[str, bool]]:
    """Yield TEXTS_EACH different texts of a set, half of them of the positive class, in an order that a hash gives."""
    import pandas as pd  # here because it takes a while to load

    path = package_folder() / f"{file}.csv.zst"
    try:
        table = pd.read_csv(path, usecols=["prompt", "target"], dtype=str, keep_default_na=False)
    except Exception as error:  # pandas, its parser and the decompressor have errors of many kinds
        raise CorpusError(f"eval.probing=texts: {path} cannot be read ({type(error).__name__})") from None
    rows = dict(zip(table["prompt"], table["target"] == positive, strict=True))
    counts = {True: TEXTS_EACH // 2, False: TEXTS_EACH // 2}
    for text in sorted((text for text in rows if text.strip()), key=unit_hash):
        label = bool(rows[text])
        if counts[label]:
            counts[label] -= 1
            yield text, label
