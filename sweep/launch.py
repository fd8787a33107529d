"""`python -m sweep`: compose a config, check it, and carry out one run; a grid goes to the sweeper."""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sweep.embedded import WEIGHTS
from sweep.jobs.choices import unknown_choice
from sweep.jobs.overrides import quoting_hint, unreadable, without_interpolations
from sweep.jobs.words import ADDED, hydra_words
from sweep.machine.workers import register_resolvers
from sweep.store.versions import code_hash

_Command = Callable[[list[str]], int]
_TRACES = "EXPANDER_SWEEP_TRACES"  # environment variable: keeps the HYDRA_FULL_ERROR that the user set
_NO_CHOICE = re.compile(r"Could not find '([^']+)'\s+Available options in '([^']+)':(.*)", re.DOTALL)

OmegaConf.register_new_resolver("embedded_weights", lambda: str(WEIGHTS), replace=True)
OmegaConf.register_new_resolver("expanded", lambda folder: os.path.expanduser(str(folder)), replace=True)
# Hydra resolves the settings of launchers and sweepers twice.
OmegaConf.register_new_resolver("literal", lambda text: without_interpolations(str(text)), replace=True)
OmegaConf.register_new_resolver("hydra_folder", lambda folder: _hydra_folder(str(folder)), replace=True)
register_resolvers()
# What imports make is no garbage, and looking through it takes .9 of the 4.2 s of a worker's imports.
gc.set_threshold(100_000, 20, 20)


def task(cfg: DictConfig) -> dict[str, str] | None:
    """Carry out what Hydra composed: one run, or in a multirun the work of one worker.

    Returns:
        {run id: reason} for the runs of a worker that left no record; None for one run alone.
    """
    code_hash()  # remembered now, because the files may be edited while this process runs
    logging.raiseExceptions = False  # W&B keeps a log; a full disk under it is not worth a traceback for each line
    hydra_config = HydraConfig.get()
    if cfg.launch.work is not None:
        from sweep.workers.worker import work

        return work(Path(cfg.launch.work))
    if hydra_config.mode == RunMode.MULTIRUN:
        raise ValueError(f"hydra/sweeper={hydra_config.runtime.choices['hydra/sweeper']} is not one of this project's")
    # Errors are caught here and not in main, because Hydra prints messages of its own about an exception of its task.
    with one_line_errors():
        run_alone(cfg, Path(hydra_config.run.dir).name)
    return None


def run_alone(cfg: DictConfig, name: str) -> None:
    """Carry out the one run that a config describes, or print what it would take; `name` is the launch's name."""
    from sweep.machine.workers import Workers
    from sweep.plan.plan import make_plan
    from sweep.plan.report import print_plan
    from sweep.run.once import carry_out, preflight
    from sweep.workers.display import Display
    from sweep.workers.table import print_table

    plan = make_plan([([], cfg)], name)
    if plan.left_out:
        raise ValueError(plan.left_out[0].reason)
    if cfg.plan:
        print_plan(plan, Workers(1, cfg.threads))
        return
    planned = plan.runs[0]
    if not planned.done:
        preflight(planned.job)
        with Display(planned.job.runs_dir, [(planned.job.spec.run_id, planned.job.title)]):
            carry_out(planned.job)
    if print_table(plan.runs, []):
        raise SystemExit(1)


def main() -> None:
    """Run the command. A mistake ends it with one line and exit code 1, Ctrl-C with one line and exit code 130."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "0")
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda word: word not in ("-m", "--multirun"))  # Hydra wants -m first
    warnings.formatwarning = _one_line_warning
    with one_line_errors():
        sys.argv[1:] = hydra_words(sys.argv[1:])
        os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors reach us instead of being printed by it
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a Ray cluster that the launch starts reports to nobody
        hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")(task)()


def _hydra_folder(folder: str) -> str | None:
    """Return where in `folder` Hydra writes down what it composed: nowhere if it would take the path for a reference.

    Hydra 1.3 keeps the absolute path in its config unescaped, and reads it there to write these files.
    """
    return None if "${" in os.path.abspath(os.path.expanduser(folder)) else ".hydra"


def _one_line_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return f"{category.__name__}: {message}\n"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print errors of input, config and disk as one line and exit. HYDRA_FULL_ERROR=1 shows tracebacks instead."""
    show_traces = os.environ.get(_TRACES, os.environ["HYDRA_FULL_ERROR"]) == "1"
    os.environ[_TRACES] = str(int(show_traces))
    try:
        yield
    except KeyboardInterrupt:
        rest = "" if "plan=true" in sys.argv else ": what is finished stays; the same command goes on from here"
        print(f"interrupted{rest}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, HydraException, OmegaConfBaseException, OSError) as error:
        if show_traces:
            raise
        print(f"error: {explain(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(1)
    except RuntimeError as error:
        missing = re.fullmatch(r"Unknown plugin class : 'hydra_plugins\.hydra_(\w+?)_launcher\..*'", str(error))
        if show_traces or not missing:
            raise
        print(f"error: this launcher is not installed: pip install -e '.[{missing[1]}]'", file=sys.stderr)
        sys.exit(1)


def command(usage: str, needs_words: bool = True) -> Callable[[_Command], _Command]:
    """Return a decorator for the main function of a command that reads its words by itself, (words) -> exit code.

    `--help` prints the usage, and so does no word at all where the command needs some, which is exit code 1. Errors are
    shown as `one_line_errors` does.
    """

    def decorated(main: _Command) -> _Command:
        @wraps(main)
        def run(arguments: list[str]) -> int:
            if (needs_words and not arguments) or {"-h", "--help"} & set(arguments):
                print(usage)
                return 0 if arguments else 1
            os.environ.setdefault("HYDRA_FULL_ERROR", "0")
            with one_line_errors():
                return main(arguments)
            return 1

        return run

    return decorated


def explain(error: BaseException, arguments: Sequence[str] = ()) -> str:
    """Return the error as one line, which keeps only the first fact of Hydra's long messages.

    Args:
        arguments: the command line's words; where one of them should have been quoted, the line says how.
    """
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror} (runs_dir and cache_dir say where files go)"
    texts: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__
    unknown = re.search(r"Could not override '([^']+)'", "\n".join(texts))
    if unknown and unknown[1] in ADDED:
        return "zip(...), grid(...) and experiments joined by a + are for grids, not for searches"
    if unknown:
        return f"unknown key {unknown[1]}; python -m sweep --help lists the keys"
    if isinstance(error, OverrideParseException):
        return unreadable(error.override)
    missing = re.search(
        r"Could not find '([^']+)'\s+Available options in '([^']+)':([^\0]*?)(Config search|$)", texts[0]
    )
    if missing:
        return unknown_choice(missing[2], missing[1].removeprefix(f"{missing[2]}/"), missing[3].split())
    several = re.search(r"Ambiguous value for argument '(.+)'", texts[0])
    if several:
        return f"{several[1]} gives several values: add -m to sweep over them{quoting_hint(several[1], [several[1]])}"
    said = " ".join(texts[0].split("Config search path")[0].split())
    return said + quoting_hint(said, arguments)
