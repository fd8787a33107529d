"""This module turns a composed config into a job. No module below it sees a DictConfig."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from sae_core.arms import Arm, CellError, Imported
from sae_core.kernels.dispatch import backend_name
from sweep.activations.cache import BFLOAT16, FLOAT16, CacheKey
from sweep.corpus.documents import Corpus
from sweep.corpus.windows import WindowConfig
from sweep.jobs.config_checks import check_keys, check_types
from sweep.jobs.instantiate import instantiate
from sweep.jobs.job import Job
from sweep.jobs.origin import check_origin
from sweep.jobs.recovery import RecoveryConfig, RecoveryJob, RecoverySpec
from sweep.jobs.spec import AXES, HOOK, SEED_PARTS, SHUFFLE_SEED, RunSpec, latents_from, whole_number
from sweep.lm.dtype import fitting_dtype
from sweep.lm.find import AUTO, ModelConfig, ModelInfo, ModelNotHereError, check_layer, find_model, model_hash
from sweep.machine.gpus import device_from
from sweep.measures.config import EvalConfig
from sweep.synthetic.config import SyntheticConfig
from sweep.tracking.wandb_tracker import TrackerConfig
from sweep.train.config import TrainConfig

_SETTINGS: dict[str, Any] = {
    "runs_dir": str,
    "cache_dir": str,
    "cache_dtype": str,
    "device": str,
    "backend": str,
    "threads": int | None,
    "layers_together": list[int],
    "save_artifact": bool,
    "plan": bool,
    "budget_bytes": int | None,
    **dict.fromkeys(SEED_PARTS, int | None),
}
# Groups of settings that configs in older records do not have.
_NEWER_SETTINGS: dict[str, dict[str, Any]] = {
    "cache": {"local": str | None, "logits_bytes": int, "mode": str, "buffer": int},
    "launch": {"share": int, "workers": int | None, "fail_fast": bool, "failed_of": str | None, "work": str | None},
}
POOL, STREAM = "pool", "stream"  # the values of cache.mode
_GROUPS = {"model", "corpus", "sae", "train", "eval", "tracker", "recovery"}


def build(cfg: DictConfig, launch: str) -> Job | RecoveryJob:
    """Return the job that a composed config describes: an SAE, or with the group `recovery` a synthetic experiment.

    Args:
        launch: the name of the launch, which groups the runs launched together.

    Raises:
        CellError: a cell to leave out of a grid.
        ValueError: anything else that is wrong, named by key, value and range.
    """
    return build_job(cfg, launch) if cfg.get("recovery") is None else build_recovery(cfg, launch)


def build_recovery(cfg: DictConfig, launch: str) -> RecoveryJob:
    """Check a composed config of a recovery experiment and turn it into a job. Raises the errors of `build`."""
    settings = _resolved(cfg)
    _check_settings(settings)
    for name, seed in _own_seeds(settings).items():
        if seed is not None:
            raise ValueError(f"{name}={seed} is of an SAE; a recovery experiment has one seed")
    config = instantiate(settings["recovery"], "recovery", RecoveryConfig)
    n = latents_from(settings["n"], config.d_in)
    degree = config.d_in if config.mask == "dense" else settings["d"]
    return RecoveryJob(
        spec=RecoverySpec(config, n, degree, settings["k"], settings["seed"]),
        settings=settings,
        launch=launch,
        tracker=instantiate(_group(settings, "tracker"), "tracker", default=TrackerConfig),
        runs_dir=_folder(settings["runs_dir"]),
        device=settings["device"],
        backend=settings["backend"],
        threads=_threads(settings),
    )


def build_job(cfg: DictConfig, launch: str) -> Job:
    """Check a composed config of an SAE and turn it into a job. No LM is loaded. Raises the errors of `build`."""
    settings = _resolved(cfg)
    _check_settings(settings)
    train = instantiate(_group(settings, "train"), "train", TrainConfig)
    evaluation = instantiate(_group(settings, "eval"), "eval", EvalConfig)
    tracker = instantiate(_group(settings, "tracker"), "tracker", default=TrackerConfig)
    model = instantiate(_group(settings, "model"), "model", default=ModelConfig)
    synthetic = model if isinstance(model, SyntheticConfig) else None
    info = model.info if isinstance(model, SyntheticConfig) else _found(model, _folder(settings["cache_dir"]))
    check_layer(settings["layer"], info, model.name)
    settings = _with_latents(cfg, settings, info.d_model)
    if model.dtype == AUTO:
        model = replace(model, dtype=_dtype(settings, info.d_model), auto_dtype=True)
        about = {"dtype": model.dtype, "auto_dtype": True}  # for workers, which may run on other machines
        settings = {**settings, "model": {**settings["model"], **about}}
    arm = cast(Arm, instantiate(_group(settings, "sae"), "sae", Arm))
    arm.sizes(info.d_model)  # raises where d, k and n make no SAE of this LM, before any text is read
    if isinstance(model, SyntheticConfig):
        _check_synthetic(evaluation)
    else:
        check_origin(arm, model, info, settings["layer"])
    if isinstance(arm, Imported):  # its file says how large it is, whatever was asked for
        settings = {**settings, "n": arm.header.n_latents, "k": arm.k}
    outlier_norm = None if evaluation.tokens == "all" else model.outlier_norm
    key, windows, corpus = _activations(settings, model, info, outlier_norm)
    return Job(
        spec=RunSpec(key, arm, train, evaluation, settings["seed"], synthetic, **_own_seeds(settings)),
        settings=settings,
        launch=launch,
        model=model,
        info=info,
        corpus=corpus,
        windows=windows,
        tracker=tracker,
        runs_dir=_folder(settings["runs_dir"]),
        cache_dir=_folder(settings["cache_dir"]),
        cache_local=_local_cache(settings),
        logits_bytes=settings.get("cache", {}).get("logits_bytes", 0),
        device=settings["device"],
        backend=settings["backend"],
        threads=_threads(settings),
        layers_together=tuple(sorted({settings["layer"], *settings["layers_together"]})),
        save_artifact=settings["save_artifact"],
    )


def _own_seeds(settings: Mapping[str, Any]) -> dict[str, int | None]:
    """Return the seeds of single parts; configs in older records have none."""
    return {name: settings.get(name) for name in SEED_PARTS}


def _check_synthetic(evaluation: EvalConfig) -> None:
    """Raise ValueError where something is to be measured that only an LM on text has."""
    for key in ("novelty", "contexts", "probing"):
        if value := getattr(evaluation, key):
            raise ValueError(f"eval.{key}={value} needs an LM and a text; a synthetic model has neither")


def _resolved(cfg: DictConfig, n: int | None = None) -> dict[str, Any]:
    """Return the whole config as plain values; `n`, if given, replaces the config's n, which arms refer to as ${n}."""
    if n is not None:
        plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
        cfg = cast(DictConfig, OmegaConf.create({**plain, "n": n}))
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def _with_latents(cfg: DictConfig, settings: dict[str, Any], d_model: int) -> dict[str, Any]:
    """Return the settings with n as a whole number, whichever way it was given. Raise CellError where k > n."""
    n = latents_from(settings["n"], d_model)
    if settings["k"] > n:
        raise CellError(f"k={settings['k']} must be in 1..{n} (n)")
    return settings if settings["n"] == n else _resolved(cfg, n)


def _activations(
    settings: dict[str, Any], model: ModelConfig | SyntheticConfig, info: ModelInfo, outlier_norm: float | None
) -> tuple[CacheKey, WindowConfig, Corpus]:
    """Return the key of the cached activations, and the windows and the text that they come from."""
    given = dict(_group(settings, "corpus"))
    bos = given.pop("bos")
    train_tokens = whole_number("corpus.train_tokens", given.pop("train_tokens"), 1)
    corpus_json, cache_dir = json.dumps(given), _folder(settings["cache_dir"])
    automatic = settings["cache_dtype"] == "auto"
    key = CacheKey(
        lm=model.digest if isinstance(model, SyntheticConfig) else _model_hash(info, cache_dir),
        lm_dtype=model.dtype,
        layer=settings["layer"],
        hook=HOOK,
        corpus=_fingerprint(corpus_json, cache_dir),
        window=model.window,
        bos=bos,
        tokens=train_tokens,
        dtype=FLOAT16 if automatic else settings["cache_dtype"],
        seed=SHUFFLE_SEED,
        outlier_norm=outlier_norm,
        stream=_buffer(settings),
        may_widen=automatic,
    )
    return key, WindowConfig(model.window, bos), _corpus(corpus_json)


def _folder(path: str) -> Path:
    return Path(path).expanduser()


def _local_cache(settings: Mapping[str, Any]) -> Path | None:
    local = settings.get("cache", {}).get("local")
    return None if local is None else _folder(local)


def _buffer(settings: Mapping[str, Any]) -> int | None:
    """Return the tokens of the buffer through which activations come straight from the LM; None for those on disk."""
    cache = settings.get("cache", {})
    mode = cache.get("mode", POOL)
    if mode not in (POOL, STREAM):
        raise ValueError(f"cache.mode={mode} must be {POOL} or {STREAM}")
    return whole_number("cache.buffer", cache["buffer"], 1) if mode == STREAM else None


def _threads(settings: Mapping[str, Any]) -> int | None:
    return None if settings["threads"] is None else whole_number("threads", settings["threads"], 1)


def _check_settings(settings: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that is unknown, or an axis or setting that is out of range."""
    check_keys("", settings, {*AXES, *_SETTINGS, *_NEWER_SETTINGS, *_GROUPS})
    check_types("", {key: settings[key] for key in _SETTINGS if key in settings}, _SETTINGS)
    for part, hints in _NEWER_SETTINGS.items():
        if part in settings:
            check_keys(f"{part}.", _group(settings, part), set(hints))
            check_types(f"{part}.", settings[part], hints)
    for axis, least in (("layer", 0), ("d", 1), ("k", 1), ("seed", 0)):
        whole_number(axis, settings[axis], least)
    for name in ("seed", *SEED_PARTS):
        if (seed := settings.get(name)) is not None and not 0 <= seed < 2**63:
            raise ValueError(f"{name}={seed} must be in 0..{2**63 - 1}")
    launch = settings.get("launch", {})
    counts = {f"launch.{key}": launch.get(key) for key in ("share", "workers")}
    counts["budget_bytes"] = settings.get("budget_bytes")
    for key, value in counts.items():
        if value is not None:
            whole_number(key, value, 1)
    for key in ("runs_dir", "cache_dir"):
        if not settings[key]:
            raise ValueError(f"{key} must name a folder")
    if settings["cache_dtype"] not in ("auto", FLOAT16, BFLOAT16):
        raise ValueError(f"cache_dtype={settings['cache_dtype']} must be auto, float16 or bfloat16")
    backend_name(settings["backend"], device_from(settings["device"]))


def _found(model: ModelConfig, cache_dir: Path) -> ModelInfo:
    """Return what is known of the LM. Raise ModelNotHereError if it is neither on disk nor can be downloaded."""
    info = _asked_once(model, cache_dir)
    if isinstance(info, ModelNotHereError):
        raise info
    return info


@lru_cache
def _asked_once(model: ModelConfig, cache_dir: Path) -> ModelInfo | ModelNotHereError:
    """Return the LM, or the error that says why it is not here. Either is remembered: a sweep asks the network once."""
    try:
        return find_model(model, cache_dir)
    except ModelNotHereError as error:
        return error


@lru_cache
def _corpus(corpus_json: str) -> Corpus:
    """Return the one object that stands for this config's text, so that a sweep reads its text once."""
    return instantiate(json.loads(corpus_json), "corpus")


@lru_cache
def _model_hash(info: ModelInfo, cache_dir: Path) -> str:
    return model_hash(info, cache_dir)


@lru_cache
def _fingerprint(corpus_json: str, cache_dir: Path) -> str:
    return _corpus(corpus_json).fingerprint(cache_dir)


def _dtype(settings: Mapping[str, Any], d_model: int) -> str:
    """Return the dtype that the LM runs faster in on this machine."""
    return _fitting_dtype(settings["device"], d_model, _folder(settings["cache_dir"]))


@lru_cache
def _fitting_dtype(device: str, d_model: int, cache_dir: Path) -> str:
    return fitting_dtype(device_from(device), d_model, cache_dir)


def _group(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a config group. Raise ValueError where a plain value stands in its place."""
    if not isinstance(settings[name], dict):
        raise ValueError(f"{name}={settings[name]} must be a config group; choose a file of conf/{name}/")
    return settings[name]
