"""Load what all runs of a process share, each once: LM, tokenizer, windows, activations, the LM's clean pass.

Each function's result depends on its arguments alone, so remembering the last results changes nothing.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

from sweep.activations.cache import CacheKey, Pool, open_pool
from sweep.activations.norms import Norms
from sweep.corpus.documents import Corpus
from sweep.corpus.windows import WindowConfig, Windows, held_out_windows, train_windows
from sweep.jobs.job import Job
from sweep.lm.errors import ModelError
from sweep.lm.find import ModelConfig, ModelInfo, check_tokens
from sweep.lm.model import LM, load_lm, load_tokenizer
from sweep.lm.ordinary import OutlierRule, special_ids
from sweep.machine.process import spare_long_lived_objects
from sweep.measures.clean import CleanPass
from sweep.measures.positions import ALL, Positions


def pool_of(cache_dir: Path, key: CacheKey) -> Pool | None:
    """Return the opened activation entry, or None where there is none. A process verifies its checksums once."""
    folder = cache_dir / key.name
    return _pool(cache_dir, key, folder.stat().st_mtime_ns) if folder.is_dir() else None


def lm_of(job: Job, device: torch.device) -> LM:
    """Return the job's LM with its weights on `device`."""
    return _usable(job.model, job.info, device)


def tokenizer_of(job: Job):
    """Return the tokenizer of the job's LM."""
    return _tokenizer(job.model, job.info)


def outlier_rule_of(job: Job) -> OutlierRule | None:
    """Return the rule by which tokens of the job's LM are ordinary; None where all are."""
    limit = job.model.outlier_norm
    return None if limit is None else OutlierRule(limit, special_ids(tokenizer_of(job)))


def train_windows_of(job: Job) -> Windows:
    """Return the windows of training text whose activations the job trains on."""
    return _train_windows(job.corpus, job.model, job.info, job.windows, job.spec.activations.tokens)


def held_out_of(job: Job) -> Windows:
    """Return the windows of held-out text that the job is measured on."""
    return _held_out(job.corpus, job.model, job.info, job.windows, job.spec.eval.windows)


def positions_of(job: Job, norms: Norms | None) -> Positions:
    """Return which tokens the job is measured on, by what is known of the norms at its layer."""
    if job.model.outlier_norm is None:
        return ALL
    return Positions(norms.ordinary if norms else None, all_tokens=job.spec.activations.outlier_norm is None)


def clean_pass_of(job: Job, device: torch.device, positions: Positions) -> CleanPass:
    """Return the pass of the unchanged LM over the held-out windows."""
    return _clean_pass(job.model, job.info, device, job.axes["layer"], held_out_of(job), positions)


@lru_cache(maxsize=4)
def _pool(cache_dir: Path, key: CacheKey, changed: int) -> Pool | None:
    return open_pool(cache_dir, key)


def _usable(model: ModelConfig, info: ModelInfo, device: torch.device) -> LM:
    """Return the LM. Raise ModelError if it cannot be used, which is found out once: its other runs end at once."""
    lm = _lm(model, info, device)
    if isinstance(lm, ModelError):
        raise lm
    return lm


@lru_cache(maxsize=1)
def _lm(model: ModelConfig, info: ModelInfo, device: torch.device) -> LM | ModelError:
    try:
        lm = load_lm(model, info, device)
    except ModelError as error:
        return error.with_traceback(None)  # which would keep alive what was loaded
    spare_long_lived_objects()
    return lm


@lru_cache(maxsize=1)
def _tokenizer(model: ModelConfig, info: ModelInfo):
    return load_tokenizer(model, info)


@lru_cache(maxsize=1)
def _train_windows(
    corpus: Corpus, model: ModelConfig, info: ModelInfo, windows: WindowConfig, n_tokens: int
) -> Windows:
    return _embeddable(train_windows(corpus, _tokenizer(model, info), windows, n_tokens), model, info)


@lru_cache(maxsize=1)
def _held_out(corpus: Corpus, model: ModelConfig, info: ModelInfo, windows: WindowConfig, n_windows: int) -> Windows:
    return _embeddable(held_out_windows(corpus, _tokenizer(model, info), windows, n_windows), model, info)


def _embeddable(windows: Windows, model: ModelConfig, info: ModelInfo) -> Windows:
    """Return the windows. Raise ModelError if they hold a token that the LM cannot embed."""
    check_tokens(windows.tokens, info, _tokenizer(model, info))
    return windows


@lru_cache(maxsize=1)
def _clean_pass(
    model: ModelConfig, info: ModelInfo, device: torch.device, layer: int, held_out: Windows, positions: Positions
) -> CleanPass:
    return CleanPass(_usable(model, info, device), layer, held_out, model.batch_size, positions)
