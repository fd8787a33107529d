"""Config -> objects: the only place that instantiates from config. Below it nobody sees a DictConfig."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast, get_type_hints

from omegaconf import DictConfig, OmegaConf

from sae_core.arms import Arm, CellError
from sae_core.kernels.dispatch import backend_name
from sweep.activations.cache import CacheKey
from sweep.corpus.documents import Corpus
from sweep.corpus.windows import WindowConfig
from sweep.jobs.checks import check_keys, check_types
from sweep.jobs.job import Job
from sweep.jobs.recovery import RecoveryConfig, RecoveryJob, RecoverySpec
from sweep.jobs.spec import AXES, HOOK, SHUFFLE_SEED, RunSpec, latents_from, whole_number
from sweep.lm.find import ModelConfig, ModelInfo, ModelNotHereError, check_layer, find_model, model_hash
from sweep.machine.gpus import device_from
from sweep.measures.config import EvalConfig
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
}
_PARTS: dict[str, dict[str, Any]] = {  # of which records from before them say nothing
    "cache": {"local": str | None},
    "launch": {"share": int, "workers": int | None, "work": str | None},
}
_GROUPS = {"model", "corpus", "sae", "train", "eval", "tracker", "recovery"}


def build(cfg: DictConfig, sweep: str) -> Job | RecoveryJob:
    """The job that a composed config describes: an SAE, or with the group `recovery` a synthetic experiment.

    Raises:
        CellError: a cell to leave out of a grid.
        ValueError: anything else that is wrong, named by key, value and range.
    """
    return build_job(cfg, sweep) if cfg.get("recovery") is None else build_recovery(cfg, sweep)


def build_recovery(cfg: DictConfig, sweep: str) -> RecoveryJob:
    """As `build_job`, for a synthetic recovery experiment: no LM, no text."""
    settings = _settings(cfg)
    _check_settings(settings)
    config = _build(settings["recovery"], "recovery", RecoveryConfig)
    n, k, seed = latents_from(settings["n"], config.d_in), settings["k"], settings["seed"]
    degree = config.d_in if config.mask == "dense" else settings["d"]
    return RecoveryJob(
        spec=RecoverySpec(config, n, degree, k, seed),
        axes={"d": degree, "k": k, "n": n, "seed": seed},
        labels={"model": "synthetic", "corpus": f"codes:{config.codes}", "arm": config.mask, "sweep": sweep},
        tracker=_dataclass(settings, "tracker", TrackerConfig),
        runs_dir=Path(settings["runs_dir"]).expanduser(),
        device=settings["device"],
        backend=settings["backend"],
        threads=_threads(settings),
        settings=settings,
    )


def build_job(cfg: DictConfig, sweep: str) -> Job:
    """Check a composed config and turn it into a job. No LM is loaded.

    Args:
        sweep: the name that groups the runs launched together.

    Raises:
        CellError: a cell to leave out of a grid.
        ValueError: anything else that is wrong, named by key, value and range.
    """
    settings = _settings(cfg)
    _check_settings(settings)
    train = _build(_group(settings, "train"), "train", TrainConfig)
    evaluation = _build(_group(settings, "eval"), "eval", EvalConfig)
    tracker = _dataclass(settings, "tracker", TrackerConfig)
    model = _dataclass(settings, "model", ModelConfig)
    info = _find_model(model)
    if isinstance(info, ModelNotHereError):
        raise info
    check_layer(settings["layer"], info, model.name)
    n = latents_from(settings["n"], info.d_model)
    if settings["k"] > n:
        raise CellError(f"k={settings['k']} must be in 1..{n} (n)")
    if settings["n"] != n:
        settings = _settings(cfg, n)
    arm = cast(Arm, _build(_group(settings, "sae"), "sae", Arm))
    sizes = arm.sizes(info.d_model)
    key, windows, corpus = _activations(settings, model, info)
    return Job(
        spec=RunSpec(key, arm, train, evaluation, settings["seed"]),
        axes={axis: settings[axis] for axis in AXES},
        labels={
            "model": _model_label(model),
            "corpus": _corpus_label(settings["corpus"]),
            "arm": arm.label,
            "sweep": sweep,
        },
        sizes=sizes,
        model=model,
        info=info,
        corpus=corpus,
        windows=windows,
        tracker=tracker,
        runs_dir=Path(settings["runs_dir"]).expanduser(),
        cache_dir=Path(settings["cache_dir"]).expanduser(),
        cache_local=_local(settings),
        device=settings["device"],
        backend=settings["backend"],
        threads=_threads(settings),
        layers_together=tuple(sorted({settings["layer"], *settings["layers_together"]})),
        save_artifact=settings["save_artifact"],
        settings=settings,
    )


def _settings(cfg: DictConfig, n: int | None = None) -> dict[str, Any]:
    """The whole config resolved; with `n` in the place of its own, which arms refer to as ${n}."""
    if n is not None:
        plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
        cfg = cast(DictConfig, OmegaConf.create({**plain, "n": n}))
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def _activations(
    settings: dict[str, Any], model: ModelConfig, info: ModelInfo
) -> tuple[CacheKey, WindowConfig, Corpus]:
    """What determines the cached activations, and the text and windows they come from."""
    given = dict(_group(settings, "corpus"))
    bos = given.pop("bos")
    train_tokens = whole_number("corpus.train_tokens", given.pop("train_tokens"), 1)
    windows = WindowConfig(model.window, bos)
    corpus_json, cache_dir = json.dumps(given), Path(settings["cache_dir"]).expanduser()
    key = CacheKey(
        lm=_model_hash(info, cache_dir),
        lm_dtype=model.dtype,
        layer=settings["layer"],
        hook=HOOK,
        corpus=_fingerprint(corpus_json, cache_dir),
        window=model.window,
        bos=bos,
        tokens=train_tokens,
        dtype=settings["cache_dtype"],
        seed=SHUFFLE_SEED,
    )
    return key, windows, _build_corpus(corpus_json)


def _local(settings: Mapping[str, Any]) -> Path | None:
    local = settings.get("cache", {}).get("local")
    return None if local is None else Path(local).expanduser()


def _threads(settings: Mapping[str, Any]) -> int | None:
    return None if settings["threads"] is None else whole_number("threads", settings["threads"], 1)


def _check_settings(cfg: Mapping[str, Any]) -> None:
    """Raise ValueError for a key that is unknown, or an axis or setting that is out of range."""
    check_keys("", cfg, {*AXES, *_SETTINGS, *_PARTS, *_GROUPS})
    for axis, least in (("layer", 0), ("d", 1), ("k", 1), ("seed", 0)):
        whole_number(axis, cfg[axis], least)
    if cfg["seed"] >= 2**63:
        raise ValueError(f"seed={cfg['seed']} must be in 0..{2**63 - 1}")
    check_types("", {key: cfg[key] for key in _SETTINGS if key in cfg}, _SETTINGS)
    for part, hints in _PARTS.items():
        if part in cfg:
            check_keys(f"{part}.", _group(cfg, part), set(hints))
            check_types(f"{part}.", cfg[part], hints)
    launch = cfg.get("launch", {})
    for key, value in (("budget_bytes", cfg.get("budget_bytes")), ("launch.share", launch.get("share")),
                       ("launch.workers", launch.get("workers"))):  # fmt: skip
        if value is not None:
            whole_number(key, value, 1)
    for key in ("runs_dir", "cache_dir"):
        if not cfg[key]:
            raise ValueError(f"{key} must name a folder")
    if cfg["cache_dtype"] not in ("float16", "bfloat16"):
        raise ValueError(f"cache_dtype={cfg['cache_dtype']} must be float16 or bfloat16")
    backend_name(cfg["backend"], device_from(cfg["device"]))


@lru_cache
def _find_model(model: ModelConfig) -> ModelInfo | ModelNotHereError:
    """An answer of the network is remembered too, whichever it is: a sweep asks it once."""
    try:
        return find_model(model)
    except ModelNotHereError as error:
        return error


@lru_cache
def _build_corpus(corpus_json: str) -> Corpus:
    """One object per config, so that a sweep reads its text once."""
    return _build(json.loads(corpus_json), "corpus", None)


@lru_cache
def _model_hash(info: ModelInfo, cache_dir: Path) -> str:
    return model_hash(info, cache_dir)


@lru_cache
def _fingerprint(corpus_json: str, cache_dir: Path) -> str:
    return _build_corpus(corpus_json).fingerprint(cache_dir)


def _group(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(settings[name], dict):
        raise ValueError(f"{name}={settings[name]} must be a config group; choose a file of conf/{name}/")
    return settings[name]


def _build(plain: dict[str, Any], name: str, kind: type | None) -> Any:
    """Instantiate the group's `_target_`; its signature is the schema, and keys it does not have are refused."""
    try:
        module, _, member = str(plain.get("_target_")).rpartition(".")
        target = getattr(import_module(module), member)
    except Exception as error:  # whatever importing what a config names raises
        reason = " ".join(str(error).split())
        raise ValueError(f"{name}._target_={plain.get('_target_')} is no class ({reason})") from None
    given = {key: value for key, value in plain.items() if key != "_target_"}
    check_keys(f"{name}.", given, set(inspect.signature(target).parameters))
    nested = {key for key, value in given.items() if isinstance(value, dict) and "_target_" in value}
    given = {key: _build(value, f"{name}.{key}", None) if key in nested else value for key, value in given.items()}
    hints = get_type_hints(target.__init__)
    check_types(f"{name}.", given, hints)
    # 1 where a number is meant is 1.0, or one setting would have two run ids.
    given = {key: float(value) if hints.get(key) is float else value for key, value in given.items()}
    try:
        built = target(**given)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None
    if kind is not None and not isinstance(built, kind):
        raise ValueError(f"{name}._target_={plain['_target_']} is not a {kind.__name__}")
    return built


def _dataclass(settings: Mapping[str, Any], name: str, kind: type) -> Any:
    plain = _group(settings, name)
    hints = get_type_hints(kind)
    check_keys(f"{name}.", plain, set(hints))
    check_types(f"{name}.", plain, hints)
    return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()})


def _model_label(model: ModelConfig) -> str:
    return Path(model.path).name if model.name == "local" and model.path else model.name


def _corpus_label(corpus_cfg: Mapping[str, Any]) -> str:
    kind = corpus_cfg["_target_"].rsplit(".", 1)[-1].removesuffix("Corpus").lower()
    what = corpus_cfg.get("path") or corpus_cfg.get("name")
    return f"{kind}:{Path(what).name}" if what else kind
