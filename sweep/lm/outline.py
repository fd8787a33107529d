"""What an LM is made of, found out without reading its weights, so that one that cannot be used ends a launch at once.

The model is built and run with fake tensors, which have a shape but no values, and is given the shapes in the headers
of its weights' files. Models that cannot run so (some mixtures of experts choose by value) are examined when they are
loaded, by the same functions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sweep.lm.blocks import check_candidates, find_blocks, probe_tokens
from sweep.lm.errors import ModelError, first_line
from sweep.lm.weights import check_weights, unjoined, weight_shapes
from sweep.private_names import fake_tensor_mode
from sweep.store.files import write_json

_SERIAL = "HF_DEACTIVATE_ASYNC_LOAD"  # makes transformers load in this thread: fake tensors are of one thread


@dataclass(frozen=True)
class Subject:
    """The model to examine.

    Args:
        folder: its folder.
        config: its config in transformers.
        architecture, d_model, n_layers, context: as in `ModelInfo`.
        blocks, allow_pickle, trust_remote_code: as in `ModelConfig`.
    """

    folder: Path
    config: Any
    architecture: str
    d_model: int
    n_layers: int
    context: int | None
    blocks: str | None
    allow_pickle: bool
    trust_remote_code: bool


@dataclass(frozen=True)
class Outline:
    """What is known of an LM that can be used."""

    vocabulary: int | None  # rows of its embedding; None if it does not show it


def remembered_outline(subject: Subject, memo: Path | None) -> Outline:
    """Return `outline`'s result, which the file `memo` remembers. Errors are not remembered."""
    if memo is not None:
        with suppress(OSError, ValueError, TypeError):
            return Outline(**json.loads(memo.read_text()))
    found = outline(subject)
    if memo is not None:
        with suppress(OSError):  # a full disk only costs the memory
            write_json(memo, asdict(found))
    return found


def outline(subject: Subject) -> Outline:
    """Return what the model is made of.

    Raises:
        ModelError: transformers has no causal LM of this config, the weights in the folder are not the model's, or
            there is no list of blocks that return a residual stream.
    """
    shapes = weight_shapes(subject.folder, subject.allow_pickle)
    model = _built(subject)
    if model is None:
        return Outline(None)
    check_candidates(model, subject.n_layers, subject.architecture, subject.blocks)
    found = Outline(embedding_rows(model))
    with suppress(_Undecided), _fake_tensors():
        loaded, loading = _loaded(type(model), model.config, shapes, subject.folder)
        check_weights(loading, subject.folder)
        if found.vocabulary:
            _find_blocks(loaded, subject, found.vocabulary)
    return found


def embedding_rows(model: nn.Module) -> int | None:
    """Return how many token ids the model can embed, or None if it does not show its embedding."""
    try:
        return int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        return None


class _Undecided(Exception):
    """What was to be found out needs the weights."""


def _built(subject: Subject) -> Any:
    """Return the model without values, on PyTorch's meta device; None if it cannot be built there."""
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(subject.config, trust_remote_code=subject.trust_remote_code)
    except (NotImplementedError, RuntimeError) as error:  # it computes with values where it is built
        return None if "meta" in str(error) else _refuse(subject, error)
    except Exception as error:
        return _refuse(subject, error)


def _refuse(subject: Subject, error: Exception) -> None:
    raise ModelError(f"transformers builds no causal LM of {subject.folder} ({first_line(error)})") from None


@contextmanager
def _fake_tensors() -> Iterator[None]:
    """Make every tensor a fake one, and let transformers work in this thread alone, while the context lasts."""
    before = os.environ.get(_SERIAL)
    os.environ[_SERIAL] = "1"
    try:
        with fake_tensor_mode(), torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        if before is None:
            del os.environ[_SERIAL]
        else:
            os.environ[_SERIAL] = before


def _loaded(kind: Any, config: Any, shapes: dict[str, tuple[int, ...]], folder: Path) -> tuple[Any, dict[str, Any]]:
    """Load weights of `shapes` by transformers' own matching of keys; return the model and transformers' account."""
    from transformers.utils.logging import disable_progress_bar

    if getattr(config, "quantization_config", None) is not None:
        raise _Undecided
    disable_progress_bar()
    try:
        state = {key: torch.empty(shape) for key, shape in shapes.items()}
        return kind.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:
        raise unjoined(error, folder) or _Undecided from None


def _find_blocks(model: Any, subject: Subject, vocabulary: int) -> None:
    tokens = probe_tokens(subject.config, vocabulary, subject.context)
    find_blocks(model, subject.n_layers, subject.d_model, subject.blocks, tokens, partial(_run, model.eval()))


def _run(model: Any, tokens: torch.Tensor) -> None:
    try:
        model(input_ids=tokens, use_cache=False)
    except Exception:
        raise _Undecided from None
