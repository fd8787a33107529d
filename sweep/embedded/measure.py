"""Measure the embedded LM against xz on the held-out files: `python -m sweep.embedded.measure [--out DIR]`.

Prints held-out nats/token and bits/byte, and writes the model card beside the weights.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import platform
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from sweep.corpus.documents import Document
from sweep.embedded import WEIGHTS
from sweep.embedded.recipe import END_OF_TEXT, encode_documents, split_documents
from sweep.lm.losses import cross_entropies, log_normalisers
from sweep.store.hashes import short_hash


class HeldOut(NamedTuple):
    """The held-out text, and how well the LM and xz predict it."""

    files: int  # number of files
    bytes: int  # their size as UTF-8
    tokens: int  # tokens predicted
    nats_per_token: float  # the LM's cross-entropy
    bits_per_byte: float  # the same per byte of text
    xz_bits_per_byte: float  # compressed size by xz -9e, all files in one stream
    data_hash: str  # 16 hex digits over the files' names and texts


def measure_held_out(folder: Path, documents: list[Document]) -> HeldOut:
    """Measure the model in `folder` on `documents`.

    Every token of every document is predicted once, from at least half a context of earlier tokens if the document has
    so many.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = encode_documents(tokenizer, documents)
    nats = sum(_document_nats(model, ids) for ids in tqdm(encoded, desc="held-out files", leave=False))
    text = b"".join(d.text.encode() for d in documents)
    tokens = sum(len(ids) - 1 for ids in encoded)
    return HeldOut(
        files=len(documents),
        bytes=len(text),
        tokens=tokens,
        nats_per_token=nats / tokens,
        bits_per_byte=nats / math.log(2) / len(text),
        xz_bits_per_byte=8 * len(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)) / len(text),
        data_hash=documents_hash(documents),
    )


@torch.inference_mode()
def _document_nats(model, ids: np.ndarray, batch_size: int = 16) -> float:
    """Return the sum over a document's tokens of -ln p(token | the tokens before it, at most one context).

    Args:
        ids: the document's token ids (tokens,), which open with the end-of-text token.
    """
    context = model.config.max_position_embeddings
    stride = context // 2
    tokens = torch.from_numpy(ids.astype(np.int64))
    starts = list(range(0, max(1, len(tokens) - context), stride)) if len(tokens) > context else [0]
    if len(tokens) > context:
        starts.append(len(tokens) - context)
    total, predicted = 0.0, 1  # the opening token is given
    for i in range(0, len(starts), batch_size):
        batch = torch.stack([tokens[s : s + context] for s in starts[i : i + batch_size]])
        logits = model(input_ids=batch, use_cache=False).logits
        losses = cross_entropies(logits, batch, log_normalisers(logits)).double()
        for start, row in zip(starts[i : i + batch_size], losses, strict=True):
            total += float(row[predicted - start - 1 :].sum())
            predicted = start + batch.shape[1]
    return total


def documents_hash(documents: list[Document]) -> str:
    """Return 16 hex digits that name the documents' names and texts."""
    return short_hash([[d.name, d.text] for d in documents])


def write_card(folder: Path) -> HeldOut:
    """Measure the model in `folder` and write its model card, `README.md`, there."""
    train_documents, held_out_documents = split_documents()
    held_out = measure_held_out(folder, held_out_documents)
    training = json.loads((folder / "training.json").read_text())
    recipe, curve = training["recipe"], training["curve"]
    shown = [curve[i] for i in np.linspace(0, len(curve) - 1, min(12, len(curve))).round().astype(int)]
    megabytes = sum(len(d.text.encode()) for d in train_documents) / 1e6
    text = f"standard library of CPython {platform.python_version()} (`.py` files; PSF licence), split by file"
    train = f"{len(train_documents)} files, {megabytes:.1f} MB, sha256 `{documents_hash(train_documents)}`"
    card = f"""# The embedded LM

A GPT-NeoX language model (the Pythia architecture) of Python source: {recipe["n_layers"]} blocks,
d_model {recipe["d_model"]}, {recipe["n_heads"]} heads, context {recipe["context"]},
byte-level BPE of {recipe["vocab_size"]}; fp16 weights of {_size(folder)} MB.
It exists so that sweeps can be tried on a real trained model without any download.

| | |
|---|---|
| text | {text} |
| training side | {train} |
| held-out side | {held_out.files} files, {held_out.bytes / 1e6:.2f} MB, sha256 `{held_out.data_hash}` |
| tokens seen | {recipe["tokens"] / 1e6:.0f} M |
| held-out nats/token | {held_out.nats_per_token:.3f} |
| held-out bits/byte | **{held_out.bits_per_byte:.3f}** |
| `xz -9e` on the same files in one stream | {held_out.xz_bits_per_byte:.3f} bits/byte |

Measured by `python -m sweep.embedded.measure`, which writes this card; another Python version has other files.
Trained by `python -m sweep.embedded.train` (bf16 autocast, Muon and AdamW; numbers in `sweep/embedded/recipe.py`).
Documents open with `{END_OF_TEXT}`.

Training loss (mean over {_spacing(curve)} tokens each; the whole curve is in `training.json`):

| tokens (M) | nats/token |
|---|---|
""" + "\n".join(f"| {tokens / 1e6:.1f} | {loss:.3f} |" for tokens, loss in shown)
    (folder / "README.md").write_text(card + "\n")
    return held_out


def _size(folder: Path) -> str:
    """Return the size of the weights in megabytes (10^6 bytes)."""
    return f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f}"


def _spacing(curve: list) -> str:
    """Return the number of tokens between two points of the loss curve."""
    return f"{curve[0][0]:,}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sweep.embedded.measure", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the model; its card is rewritten")
    held_out = write_card(parser.parse_args(argv).out)
    for name, value in held_out._asdict().items():
        print(f"{name:18} {value:.4f}" if isinstance(value, float) else f"{name:18} {value}")


if __name__ == "__main__":
    main()
