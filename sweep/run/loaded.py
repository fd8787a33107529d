"""Load what all runs of a process share, each once: LM, tokenizer, windows, activations, the LM's clean pass.

Each function's result depends on its arguments alone, so remembering the last results changes nothing.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import torch

from sweep.activations.cache import CacheKey, Pool, open_pool
from sweep.activations.feed import Feed
from sweep.activations.held_out import HELD_OUT, HeldOut, HeldOutKey, open_held_out
from sweep.activations.logits import KeptLogits
from sweep.activations.norms import Norms
from sweep.activations.source import Source
from sweep.corpus.documents import Corpus
from sweep.corpus.windows import WindowConfig, Windows, held_out_windows, train_windows
from sweep.jobs.job import Job
from sweep.lm.errors import ModelError
from sweep.lm.find import DTYPES, ModelConfig, ModelInfo, check_tokens
from sweep.lm.model import LM, load_lm, load_tokenizer
from sweep.lm.ordinary import OutlierRule, special_ids
from sweep.machine.process import spare_long_lived_objects
from sweep.measures.clean import CleanPass, batch_size_within
from sweep.measures.config import PROBED
from sweep.measures.positions import ALL, Positions
from sweep.probing.sets import CODE, Family, code_family, text_family
from sweep.store.hashes import short_hash
from sweep.synthetic.config import SyntheticConfig, held_out_samples, train_samples
from sweep.synthetic.measure import HeldOutSamples, held_out
from sweep.synthetic.model import SyntheticModel


def pool_of(cache_dir: Path, key: CacheKey) -> Pool | None:
    """Return the opened activation entry, or None where there is none. A process verifies its checksums once."""
    folder = cache_dir / key.name
    return _pool(cache_dir, key, folder.stat().st_mtime_ns) if folder.is_dir() else None


def source_of(job: Job, device: torch.device) -> Source:
    """Return what the job's activations come from: its LM with the weights on `device`, or its synthetic model."""
    return _source(job.model, job.info, device)


def tokenizer_of(job: Job):
    """Return the tokenizer of the job's LM."""
    return _tokenizer(job.model, job.info)


def outlier_rule_of(job: Job) -> OutlierRule | None:
    """Return the rule by which tokens of the job's LM are ordinary; None where all are."""
    limit = job.model.outlier_norm
    return None if limit is None else OutlierRule(limit, special_ids(tokenizer_of(job)))


def train_windows_of(job: Job) -> Windows:
    """Return the windows of training text whose activations the job trains on."""
    if isinstance(job.model, SyntheticConfig):
        return _train_samples(job.model, job.spec.activations.tokens)
    return _train_windows(job.corpus, job.model, job.info, job.windows, job.spec.activations.tokens)


def held_out_of(job: Job) -> Windows:
    """Return the windows of held-out text that the job is measured on."""
    if isinstance(job.model, SyntheticConfig):
        return _held_out_samples(job.model, job.spec.eval.windows)
    return _held_out(job.corpus, job.model, job.info, job.windows, job.spec.eval.windows)


def positions_of(job: Job, norms: Norms | None) -> Positions:
    """Return which tokens the job is measured on, by what is known of the norms at its layer."""
    if job.model.outlier_norm is None:
        return ALL
    return Positions(norms.ordinary if norms else None, all_tokens=job.spec.activations.outlier_norm is None)


def feed_of(job: Job, device: torch.device) -> Feed:
    """Return the feed of the activations that the job trains on, which all its layers share."""
    key, rule, windows = replace(job.spec.activations, layer=0), outlier_rule_of(job), train_windows_of(job)
    layers, rows = job.layers_together, job.spec.train.batch_size
    return _feed(key, job.model, job.info, device, windows, layers, rows, rule, job.cache_dir)


def held_out_activations_of(cache_dir: Path, key: HeldOutKey, windows: Windows) -> HeldOut | None:
    """Return the opened entry, or None where there is none. A process verifies its checksum once."""
    folder = key.folder(cache_dir)
    return _held_out_activations(cache_dir, key, windows, folder.stat().st_mtime_ns) if folder.is_dir() else None


def clean_pass_of(job: Job, device: torch.device, positions: Positions, activations: HeldOut) -> CleanPass:
    """Return the unchanged LM on the held-out windows, from the job's hook point up."""
    windows, size = held_out_of(job), held_out_logits_bytes(job)
    kept = CleanPass.KEPT_BYTES < size <= job.logits_bytes
    key = short_hash(job.spec.activations.lm, job.model.dtype, windows.digest(), _together(job.lm, job.info, windows))
    folder = job.cache_dir / HELD_OUT / f"{key}.logits" if kept else None
    return _clean_pass(job.lm, job.info, device, job.axes["layer"], windows, positions, activations, folder)


def held_out_logits_bytes(job: Job) -> int:
    """Return the bytes of the LM's logits on all held-out windows, as it computes them."""
    return job.spec.eval.windows * job.model.window * (job.info.vocabulary or 0) * DTYPES[job.model.dtype].itemsize


def family_of(job: Job, name: str) -> Family:
    """Return a family of sets to probe, as windows of the job's LM."""
    return _family(name, job.lm, job.info)


@lru_cache(maxsize=len(PROBED))
def _family(name: str, model: ModelConfig, info: ModelInfo) -> Family:
    tokenizer = _tokenizer(model, info)
    made = code_family(tokenizer, model.window) if name == CODE else text_family(tokenizer, model.window, name)
    _embeddable(made.windows, model, info)
    return made


def held_out_samples_of(job: Job) -> HeldOutSamples:
    """Return the held-out samples of the job's synthetic model."""
    assert isinstance(job.model, SyntheticConfig)
    return _made_samples(job.model, held_out_of(job))


@lru_cache(maxsize=2)
def synthetic_model(config: SyntheticConfig) -> SyntheticModel:
    """Return the synthetic model of these settings."""
    return SyntheticModel(config)


@lru_cache(maxsize=2)
def _train_samples(config: SyntheticConfig, count: int) -> Windows:
    return train_samples(config, count)


@lru_cache(maxsize=2)
def _held_out_samples(config: SyntheticConfig, n_windows: int) -> Windows:
    return held_out_samples(config, n_windows)


@lru_cache(maxsize=1)
def _made_samples(config: SyntheticConfig, windows: Windows) -> HeldOutSamples:
    return held_out(synthetic_model(config), windows)


@lru_cache(maxsize=4)
def _pool(cache_dir: Path, key: CacheKey, changed: int) -> Pool | None:
    return open_pool(cache_dir, key)


def _source(model: ModelConfig | SyntheticConfig, info: ModelInfo, device: torch.device) -> Source:
    return synthetic_model(model) if isinstance(model, SyntheticConfig) else _usable(model, info, device)


@lru_cache(maxsize=1)
def _feed(
    key: CacheKey,
    model: ModelConfig | SyntheticConfig,
    info: ModelInfo,
    device: torch.device,
    windows: Windows,
    layers: tuple[int, ...],
    rows: int,
    rule: OutlierRule | None,
    cache_dir: Path,
) -> Feed:
    assert key.stream is not None, "activations come from disk"
    lm, memo = partial(_source, model, info, device), cache_dir / "streams" / key.name
    leaves_out = key.outlier_norm is not None
    return Feed(lm, windows, layers, key.stream, rows, model.batch_size, key.seed, rule, leaves_out, memo)


@lru_cache(maxsize=4)
def _held_out_activations(cache_dir: Path, key: HeldOutKey, windows: Windows, changed: int) -> HeldOut | None:
    return open_held_out(cache_dir, key, windows)


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
    model: ModelConfig,
    info: ModelInfo,
    device: torch.device,
    layer: int,
    held_out: Windows,
    positions: Positions,
    activations: HeldOut,
    logits: Path | None,
) -> CleanPass:
    lm, together = partial(_usable, model, info, device), _together(model, info, held_out)
    keep = None if logits is None else KeptLogits(logits).of
    return CleanPass(lm, layer, held_out, activations.of, together, positions, device, keep)


def _together(model: ModelConfig, info: ModelInfo, windows: Windows) -> int:
    """Return how many windows go through the LM together when it is measured."""
    width = DTYPES[model.dtype].itemsize
    return batch_size_within(model.batch_size, windows.tokens.shape[1], info.vocabulary, width)
