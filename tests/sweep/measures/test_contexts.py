"""Contexts compared with a plain search window by window, and the file that they are written to."""

from __future__ import annotations

import gzip
import json
import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sae_core.activity import activity_of
from sweep.measures.contexts import token_texts, top_contexts, write_contexts

LENGTHS = (7, 1, 12, 5, 9, 3)
WINDOWS = (4, 1, 0, 9, 3, 6)


def some_codes(seed=0, n=20, k=3, lengths=LENGTHS, windows=WINDOWS):
    """Return (codes, indices, activity). Many codes are equal, some zero or negative, and the last latents are dead."""
    rng = random.Random(seed)
    count = sum(lengths)
    indices = torch.tensor([rng.sample(range(max(k, n - 4)), k) for _ in range(count)])
    codes = torch.tensor([[rng.choice([-1.5, -0.25, 0.0, 0.5, 2.0, 3.25]) for _ in range(k)] for _ in range(count)])
    tokens = torch.tensor([rng.randrange(50) for _ in range(count)])
    window = torch.tensor([w for w, length in zip(windows, lengths, strict=True) for _ in range(length)])
    return codes, indices, activity_of(codes, indices, n, tokens, window)


def text(token):
    return f" t{token}"


def slow_contexts(codes, indices, activity, per_latent, before, after):
    """Return what `top_contexts` must find, by plain loops."""
    tokens, windows, found = activity.tokens.tolist(), activity.windows.tolist(), []
    fires = {}
    for t, (row, values) in enumerate(zip(indices.tolist(), codes.tolist(), strict=True)):
        for latent, code in zip(row, values, strict=True):
            if code != 0:
                fires.setdefault(latent, {})[t] = code
    for latent in sorted(fires):
        mine = fires[latent]
        best = {}
        for t in sorted(mine):
            if windows[t] not in best or mine[t] > mine[best[windows[t]]]:
                best[windows[t]] = t
        peaks = sorted(best.values(), key=lambda t: (-mine[t], t))[:per_latent]
        contexts = []
        for peak in peaks:
            around = [t for t in range(peak - before, peak + after + 1) if 0 <= t < len(tokens)]
            around = [t for t in around if windows[t] == windows[peak]]
            contexts.append({"tokens": [text(tokens[t]) for t in around], "codes": [mine.get(t, 0.0) for t in around]})
        rate = float(f"{len(mine) / len(tokens):.4g}")
        found.append({"latent": latent, "firing_rate": rate, "contexts": contexts})
    return found


ONE_WINDOW = {"lengths": (37,), "windows": (5,)}
ONE_TOKEN_WINDOWS = {"lengths": (1,) * 30, "windows": range(30)}


@pytest.mark.parametrize("shape", [{}, {"k": 1}, {"n": 3, "k": 3}, ONE_WINDOW, ONE_TOKEN_WINDOWS])
@pytest.mark.parametrize("asked", [(5, 12, 6), (1, 0, 0), (2, 3, 1), (100, 0, 40)])
@pytest.mark.parametrize("seed", range(3))
def test_contexts_are_those_of_a_plain_search(shape, asked, seed):
    codes, indices, activity = some_codes(seed, **shape)
    assert list(top_contexts(activity, codes, text, *asked)) == slow_contexts(codes, indices, activity, *asked)


def one_latent(codes, windows):
    """Return (codes, activity) of a single latent, whose code on each token is given."""
    codes = torch.tensor(codes)[:, None]
    count = len(codes)
    return codes, activity_of(codes, torch.zeros_like(codes).long(), 2, torch.arange(count), torch.tensor(windows))


def test_contexts_worked_out_by_hand():
    codes, activity = one_latent([0.0, 1.0, 3.0, -1.0, 4.0, 3.0, 0.0, -2.0, -0.5], [0, 0, 0, 0, 1, 1, 1, 2, 2])
    assert list(top_contexts(activity, codes, text, 2, before=1, after=1)) == [
        {
            "latent": 0,
            "firing_rate": 0.7778,
            "contexts": [
                {"tokens": [" t4", " t5"], "codes": [4.0, 3.0]},  # not its 3: of the same window
                {"tokens": [" t1", " t2", " t3"], "codes": [1.0, 3.0, -1.0]},
            ],
        }
    ]
    third = next(top_contexts(activity, codes, text, 9, before=1, after=1))["contexts"][2]
    assert third == {"tokens": [" t7", " t8"], "codes": [-2.0, -0.5]}  # -0.5 is stronger than -2: the code nearest to 0


def test_codes_are_rounded_to_four_digits():
    codes, activity = one_latent([1.23456, 0.000123456, 98765.4], [0, 0, 0])
    assert next(top_contexts(activity, codes, text))["contexts"][0]["codes"] == [1.235, 0.0001235, 98770.0]


def test_latents_that_never_fire_have_no_contexts():
    codes, activity = one_latent([0.0, 0.0], [0, 0])
    assert list(top_contexts(activity, codes, text)) == []


@pytest.mark.parametrize("name, value", [("per_latent", 0), ("before", -1), ("after", -2)])
def test_bad_arguments_are_named(name, value):
    codes, _, activity = some_codes()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        top_contexts(activity, codes, text, **{name: value})
    with pytest.raises(ValueError, match="codes of shape"):
        top_contexts(activity, codes[1:], text)


def test_the_file_holds_the_contexts_and_has_the_same_bytes_each_time(tmp_path, monkeypatch):
    codes, _, activity = some_codes()
    texts = [f" é{i}" for i in range(50)]
    paths = [tmp_path / "a" / "contexts.jsonl.gz", tmp_path / "b" / "other.gz"]
    for path, now in zip(paths, (1.0, 2e9), strict=True):
        monkeypatch.setattr("time.time", lambda now=now: now)
        write_contexts(path, top_contexts(activity, codes, texts.__getitem__))
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    lines = gzip.decompress(paths[0].read_bytes()).decode().splitlines()
    assert [json.loads(line) for line in lines] == list(top_contexts(activity, codes, texts.__getitem__))


def test_a_reader_of_the_old_file_is_not_disturbed_by_a_new_one(tmp_path):
    path = tmp_path / "contexts.jsonl.gz"
    write_contexts(path, [{"latent": 0}])
    with gzip.open(path) as reader:
        write_contexts(path, [{"latent": 1}])
        assert reader.read() == b'{"latent":0}\n'


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "contexts.jsonl.gz"
    write_contexts(path, [{"latent": 0}])
    before = path.read_bytes()

    def broken():
        yield {"latent": 1}
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_contexts(path, broken())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_token_texts_join_to_the_text_of_byte_level_tokens(tokenizer):
    text_of = token_texts(tokenizer.decode)
    written = "the cat sat, then\n\n  went home.\t"
    ids = tokenizer(written)["input_ids"]
    assert "".join(map(text_of, ids)) == written
    assert text_of(tokenizer.bos_token_id) == tokenizer.bos_token
    parts = tokenizer("é")["input_ids"]
    assert len(parts) == 2 and [text_of(i) for i in parts] == ["\ufffd", "\ufffd"]


def test_token_texts_keep_the_space_that_a_decoder_drops_at_the_start():
    """Llama 2's tokenizer and others like it drop that space."""
    tokenizer = Tokenizer(models.BPE(unk_token="?"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.train_from_iterator(["the cat sat on the mat"] * 5, trainers.BpeTrainer(vocab_size=60))
    ids = tokenizer.encode("the mat sat").ids
    assert tokenizer.decode([ids[-1]]) == "sat"
    assert "".join(map(token_texts(tokenizer.decode), ids)) == " the mat sat"


def test_each_token_is_decoded_once():
    asked = []
    text_of = token_texts(lambda ids: asked.append(ids) or "x" * len(ids))
    assert [text_of(3), text_of(3), text_of(4)] == ["x"] * 3
    assert len({id(a) for a in asked}) == len(asked) and asked.count([3]) == 1 and asked.count([4]) == 1
