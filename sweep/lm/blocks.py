"""Find an LM's list of blocks by what it is, and not by its architecture's name.

It is the list of as many modules as the model has blocks, of which a pass over text runs each once and in order, and
each returns the residual stream (windows, length, d_model).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sweep.lm.errors import ModelError

BlockList = nn.ModuleList | nn.Sequential


@dataclass(frozen=True)
class Call:
    """One block's run in a forward pass."""

    index: int
    shape: tuple[int, ...] | None  # of what it returns; None if that is no tensor
    goes_on: bool  # whether its input is what the block before it returned


def candidates(model: nn.Module, n_layers: int) -> list[str]:
    """Return the module path of every list of `n_layers` modules in the model."""
    return [name for name, module in _lists(model) if len(module) == n_layers]


def check_candidates(model: nn.Module, n_layers: int, architecture: str, chosen: str | None) -> None:
    """Raise ModelError unless the model has a list of `n_layers` modules, and `chosen` (model.blocks) is one."""
    paths = candidates(model, n_layers)
    if chosen is not None and chosen not in paths:
        raise ModelError(f"model.blocks={chosen} is not a list of {n_layers} blocks; such lists: {_named(paths)}")
    if not paths:
        lists = [f"{name} ({len(module)})" for name, module in _lists(model)]
        raise ModelError(
            f"architecture {architecture} has no list of {n_layers} blocks to hook; "
            f"lists of modules in it: {_named(lists)}"
        )


def find_blocks(
    model: nn.Module,
    n_layers: int,
    d_model: int,
    chosen: str | None,
    tokens: torch.Tensor,
    run: Callable[[torch.Tensor], Any],
) -> str:
    """Return the module path of the model's list of blocks.

    Args:
        chosen: the path that model.blocks gives; None to find it.
        tokens: token ids (windows, length) for one pass.
        run: passes token ids through the model.

    Raises:
        ModelError: no list returns the residual stream, or several do.
    """
    paths = [chosen] if chosen is not None else candidates(model, n_layers)
    calls = _traced({path: model.get_submodule(path) for path in paths}, tokens, run)
    wanted = (*tokens.shape, d_model)
    streams = [path for path in paths if _is_stream(calls[path], n_layers, wanted)]
    if len(streams) > 1:  # a list of norms, say, beside the list of blocks
        streams = [path for path in streams if all(call.goes_on for call in calls[path][1:])] or streams
    if len(streams) == 1:
        return streams[0]
    if streams:
        raise ModelError(f"the residual stream may be that of {_named(streams)}: say which as model.blocks=...")
    seen = [f"{path} {_said(calls[path])}" for path in paths]
    raise ModelError(
        f"no list of {n_layers} blocks returns a residual stream of shape (windows, length, d_model) = {wanted}, each "
        f"block once and in order: {_named(seen)}"
    )


def probe_tokens(config: Any, vocabulary: int, context: int | None) -> torch.Tensor:
    """Return two windows of ordinary token ids (2, length) that share their first half, for a tiny pass.

    Args:
        config: the model's config in transformers; the ids that it gives a meaning, such as an image's, are avoided.
        vocabulary: how many ids the model can embed.
    """
    special = set(_special_ids(config.to_dict()))
    # The last rows of an embedding may be padding that no token has trained.
    ordinary = [token for token in range((vocabulary + 1) // 2) if token not in special] or [0]
    length = min(8, context or 8)
    ids = [ordinary[i * len(ordinary) // (2 * length)] for i in range(2 * length)]
    windows = torch.tensor(ids).view(2, length)
    windows[1, : length // 2] = windows[0, : length // 2]
    return windows


def stream_of(output: Any) -> Any:
    """Return the hidden state of a block's output: the output itself, or the first of several."""
    return output[0] if isinstance(output, (tuple, list)) and output else output


def _lists(model: nn.Module) -> Iterator[tuple[str, BlockList]]:
    return ((name, module) for name, module in model.named_modules() if isinstance(module, BlockList))


def _traced(
    lists: Mapping[str, nn.Module], tokens: torch.Tensor, run: Callable[[torch.Tensor], Any]
) -> dict[str, list[Call]]:
    """Return the runs of each list's modules in one pass."""
    calls: dict[str, list[Call]] = {path: [] for path in lists}
    last: dict[str, Any] = {}

    def note(path: str, index: int, inputs: Iterable[Any], output: Any) -> None:
        hidden = stream_of(output)
        shape = tuple(hidden.shape) if isinstance(hidden, torch.Tensor) else None
        calls[path].append(Call(index, shape, any(given is last.get(path) for given in inputs)))
        last[path] = hidden

    with _noted(lists, note):
        run(tokens)
    return calls


@contextmanager
def _noted(lists: Mapping[str, nn.Module], note: Callable[[str, int, Iterable[Any], Any], None]) -> Iterator[None]:
    def hook(path: str, index: int):
        return lambda _m, args, named, output: note(path, index, [*args, *named.values()], output)

    handles = [
        block.register_forward_hook(hook(path, index), with_kwargs=True)
        for path, blocks in lists.items()
        for index, block in enumerate(blocks.children())
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_stream(calls: Sequence[Call], n_layers: int, wanted: tuple[int, ...]) -> bool:
    return [call.index for call in calls] == list(range(n_layers)) and all(call.shape == wanted for call in calls)


def _said(calls: Sequence[Call]) -> str:
    return f"returns {calls[0].shape}" if calls else "is not run by text"


def _named(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _special_ids(config: Mapping[str, Any]) -> Iterator[int]:
    """Yield every id that a config, or one nested in it, gives a meaning: `eos_token_id`, `image_token_index`, ..."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _special_ids(value)
        elif re.search("token_(id|index)", str(key)):
            yield from value if isinstance(value, list) else [value]
