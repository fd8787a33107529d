"""Long documents in pieces: the tokens of the whole, no more than is wanted, and the whole where that is needed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sweep.corpus import TextCorpus, pieces
from sweep.corpus.documents import Document
from sweep.corpus.windows import WindowConfig, held_out_windows, train_windows
from tests.conftest import some_text

WEIGHTS = Path(__file__).parents[3] / "sweep/embedded/weights"
WORDS = (  # of Llama 3 and Qwen: a newline may belong to the word before it
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
ALPHABET = pre_tokenizers.ByteLevel.alphabet()


def trained(model, trainer, before=None, split=None):
    tokenizer = Tokenizer(model)
    if before is not None:
        tokenizer.normalizer = before
    if split is not None:
        tokenizer.pre_tokenizer = split
    tokenizer.train_from_iterator(some_text(400), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def sentencepiece():
    """Byte-pair encoding of the whole text as one word, as Llama has it, that keeps spaces apart."""
    splitting = trained(
        models.BPE(unk_token="<unk>"),
        trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>"]),
        normalizers.Replace(" ", "\u2581"),
        pre_tokenizers.Split("\u2581", "merged_with_next"),
    )
    backend = splitting.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.pre_tokenizer = pre_tokenizers.Sequence([])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def byte_level(split, vocab_size=400):
    return trained(models.BPE(), trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=ALPHABET), split=split)


def of_a_folder():
    """The tokenizer of a model of the user's own: TOKENIZER=FOLDER python -m pytest ..."""
    if not os.environ.get("TOKENIZER"):
        pytest.skip("TOKENIZER names no model's folder")
    return AutoTokenizer.from_pretrained(os.environ["TOKENIZER"])


JOINED = {
    "embedded": lambda: AutoTokenizer.from_pretrained(WEIGHTS),
    "of a folder": of_a_folder,
    "sentencepiece": sentencepiece,
    "gpt2": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "llama3": lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), BYTES])),
    "unigram": lambda: trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"]),
        normalizers.NFKC(),
        pre_tokenizers.Metaspace(),
    ),
    "wordpiece": lambda: trained(
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"]),
        normalizers.BertNormalizer(),
        pre_tokenizers.BertPreTokenizer(),
    ),
}
WHOLE = {
    "tokens of several words": lambda: byte_level(BYTES, 800),
    "words of seven characters": lambda: byte_level(pre_tokenizers.Sequence([pre_tokenizers.FixedLength(7), BYTES])),
}


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "PIECE", 4000)
    monkeypatch.setattr(pieces, "OVERLAP", 1000)


def texts():
    """Stories, code, characters at random, and runs longer than an overlap or a piece."""
    rng = random.Random(0)
    story = " ".join(some_text(200))
    yield story
    yield Path(pieces.__file__).read_text() * 5
    yield "".join(rng.choice("ab \n\t\u00e9\U0001f642\u2019. ,1\u0301x  ") for _ in range(30_000))
    yield story[:9000] + "a" * 1500 + story[:9000] + " " * 1500 + story[:9000] + "\n" * 600 + story[:7001]


def tokenised(tokenizer, text, monkeypatch):
    """Return the pieces, and whether the document was tokenised as a whole after all."""
    whole = []
    monkeypatch.setattr(
        pieces, "_ids", lambda *given: whole.append(1) or given[0](given[1], add_special_tokens=False)["input_ids"]
    )
    return list(pieces.token_pieces(tokenizer, text)), bool(whole)


@pytest.mark.parametrize("name", [*JOINED, *WHOLE])
def test_pieces_are_the_tokens_of_the_whole(name, monkeypatch):
    tokenizer = {**JOINED, **WHOLE}[name]()
    for number, text in enumerate(texts()):
        found, fell_back = tokenised(tokenizer, text, monkeypatch)
        assert sum(found, []) == tokenizer(text, add_special_tokens=False)["input_ids"], (name, number)
        if number == 0:
            assert fell_back == (name in WHOLE) and (len(found) > 5 or name in WHOLE)


def test_a_word_longer_than_a_piece_is_read_as_a_whole_and_nothing_is_doubled(tokenizer, monkeypatch):
    text = " ".join(some_text(40)) + " " + "x" * 20_000 + " " + " ".join(some_text(40))
    found, fell_back = tokenised(tokenizer, text, monkeypatch)
    assert fell_back and len(found) > 1 and sum(found, []) == tokenizer(text)["input_ids"]


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer):
        self._tokenizer, self.characters = tokenizer, 0

    def __call__(self, given, **settings):
        self.characters += len(given) if isinstance(given, str) else sum(map(len, given))
        return self._tokenizer(given, **settings)

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)


@pytest.mark.parametrize("bos", ["document", "window", "none"])
def test_windows_of_long_documents_are_those_of_the_whole_and_no_more_is_read_than_wanted(tmp_path, tokenizer, bos):
    long = [" ".join(some_text(800, seed)) for seed in range(4)]
    (tmp_path / "t.txt").write_text("<|endoftext|>".join(long))
    corpus = TextCorpus(str(tmp_path / "t.txt"), held_out_fraction=0.5)
    config, counting = WindowConfig(24, bos), Counting(tokenizer)
    few = train_windows(corpus, counting, config, 500)
    held = held_out_windows(corpus, counting, config, 5)
    assert counting.characters == 2 * 2 * 4000  # two pieces of each side, of 220,000 characters a document
    pieces.PIECE = 10**9  # small_pieces puts it back
    assert few.digest() == train_windows(corpus, tokenizer, config, 500).digest()
    assert held.digest() == held_out_windows(corpus, tokenizer, config, 5).digest()


def test_a_tokenizer_without_offsets_reads_the_document_as_a_whole(monkeypatch):
    class Slow:
        is_fast = False

        def __call__(self, text, **settings):
            return {"input_ids": [ord(c) for c in text]}

    found, fell_back = tokenised(Slow(), "x" * 9000, monkeypatch)
    assert fell_back and len(found) == 1 and len(found[0]) == 9000


def test_short_documents_go_to_the_tokenizer_together_and_long_ones_alone(tokenizer):
    class Corpus:
        def documents(self):
            texts = ["a b c"] * 130 + ["d " * 200_000] + ["e f"] * 3
            return (Document(str(i), t, False) for i, t in enumerate(texts))

    config = WindowConfig(16, "none")
    n = sum(len(tokenizer(d.text)["input_ids"]) for d in Corpus().documents())
    assert train_windows(Corpus(), tokenizer, config, n).n_tokens == n
