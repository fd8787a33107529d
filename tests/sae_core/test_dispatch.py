"""The choice of a backend by name and device, and what is said where it cannot be used."""

from __future__ import annotations

import warnings

import pytest
import torch

from sae_core.kernels import cpu, dispatch
from sae_core.kernels.dispatch import BACKENDS, BackendWarning, get_backend

CPU = torch.device("cpu")


def test_an_unknown_backend_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="backend=fast is unknown: choose one of auto, reference, torch_gather, cpu"):
        get_backend("fast", CPU)


def test_a_backend_that_is_not_there_says_why(monkeypatch):
    with pytest.raises(ValueError, match="backend=cpu cannot be used: it computes on cpu, not on cuda"):
        get_backend("cpu", torch.device("cuda"))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="backend=gpu cannot be used: (it computes on a CUDA device|triton is not)"):
        get_backend("gpu", CPU)


def test_without_the_compiled_library_auto_warns_once_and_computes_by_torch_gather(monkeypatch):
    monkeypatch.setattr(cpu, "why_unavailable", lambda device: "its library was not built")
    dispatch._auto.cache_clear()
    try:
        with pytest.warns(BackendWarning, match="its library was not built.*torch_gather computes instead"):
            assert get_backend("auto", CPU) is BACKENDS["torch_gather"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert get_backend("auto", CPU) is BACKENDS["torch_gather"]
    finally:
        dispatch._auto.cache_clear()
