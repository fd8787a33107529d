"""Checks that the commands in the READMEs would be understood: parsers parse them, Hydra composes them."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

import sweep.launch  # noqa: F401  registers the resolvers that the configuration uses
from sae_core.arms import CellError
from sweep.compress import main as compress
from sweep.cut import main as cut
from sweep.embedded import WEIGHTS
from sweep.evaluate import main as evaluate
from sweep.export import main as export
from sweep.jobs.build import build
from sweep.jobs.compose import Composer
from sweep.jobs.words import hydra_words
from sweep.stability import main as stability
from sweep.study.config import search_config
from sweep.study.space import space_from
from tests.readme_checks import FENCED, ROOT, SPAN, RottenError

LANGUAGES = {"bash", "console", "python", "text"}  # fenced blocks may have; commands stand in the first two


def shown_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every command in the fenced blocks; those after && count as commands of their own."""
    for language, block in FENCED.findall(text):
        if language not in LANGUAGES:
            raise RottenError(f"a fenced block is of language {language!r}; known are {', '.join(sorted(LANGUAGES))}")
        lines = block.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        if language in ("bash", "console"):
            for line in lines:
                yield from split(line)


def split(line: str) -> Iterator[list[str]]:
    """Yield the words of each command on a line of shell, without comments and leading VARIABLE=value."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, "&&"]:
        if not set(word) <= set("&;|"):
            words.append(word)
            continue
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words:
            yield words
        words = []


def mentioned_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every command in running text: inline code that begins with a program of PROGRAMS."""
    for span in SPAN.findall(FENCED.sub("", text)):
        with contextlib.suppress(ValueError):  # a quote left open: not a command
            yield from (words for words in split(" ".join(span.split())) if words[0] in PROGRAMS)


def check_command(words: Sequence[str], place: Path) -> None:
    """Raise RottenError unless the command would be understood. Nothing is run; `place` is for what parsing writes."""
    if words[0] not in PROGRAMS:
        raise RottenError(f"no rule knows the command {shlex.join(words)}")
    try:
        PROGRAMS[words[0]](list(words[1:]), place)
    except (ValueError, HydraException, OmegaConfBaseException) as error:
        raise RottenError(str(error)) from error


def check_make(targets: list[str], place: Path) -> None:
    known = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.M)
    for target in targets:
        if "=" not in target and target not in known:
            raise RottenError(f"the Makefile has no target {target}")


def check_pip(arguments: list[str], place: Path) -> None:
    found = re.fullmatch(r"\.\[([\w,]+)\]", arguments[-1])
    if arguments[:-1] != ["install", "-e"] or found is None:
        raise RottenError(f"pip {shlex.join(arguments)} does not install an extra of this project")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra in found[1].split(","):
        if extra not in extras:
            raise RottenError(f"pyproject.toml has no extra {extra}")


def check_python(arguments: list[str], place: Path) -> None:
    if len(arguments) < 2 or arguments[0] != "-m":
        raise RottenError(f"python {shlex.join(arguments)} names no module")
    module, given = arguments[1], arguments[2:]
    if importlib.util.find_spec(module) is None:
        raise RottenError(f"there is no module {module}")
    if module in MODULES:
        MODULES[module](given, place)
    elif not re.match(r"(tests\.benchmarks|sweep\.embedded)\.", module):
        raise RottenError(f"no rule knows python -m {module}")


def check_eval(arguments: list[str], place: Path) -> None:
    """Check the command whose output the shell is told to run: eval "$(...)"."""
    (asked,) = arguments
    program, *given = shlex.split(asked.removeprefix("$(").removesuffix(")"))
    PROGRAMS[program](given, place)


def without_arguments(arguments: list[str], place: Path) -> None:
    if arguments:
        raise RottenError(f"{shlex.join(arguments)}: this command takes no arguments")


def by_other_programs(arguments: list[str], place: Path) -> None:
    """Accept a command of a program that is not ours."""


class ParsedError(Exception):
    """The arguments were understood; what would act on them is not reached."""


def parsed_by(module: str) -> Callable[[list[str], Path], None]:
    """Return a check that the argparse parser in `main` of `module` takes the arguments."""

    def check(arguments: list[str], place: Path) -> None:
        parse = argparse.ArgumentParser.parse_args

        def parse_and_stop(self: argparse.ArgumentParser, *given):
            parse(self, *given)
            raise ParsedError

        said = io.StringIO()
        stopping = mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop)
        with stopping, contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            try:
                import_module(module).main(arguments)
            except ParsedError:
                return
            except SystemExit as end:
                if end.code == 0:  # --help
                    return
        raise RottenError(said.getvalue().strip())

    return check


def check_evaluate(arguments: list[str], place: Path) -> None:
    """Let `sweep.evaluate` look for the runs in an empty store, where it ends; keys must be those of the config too."""
    compose([word for word in arguments if not word.startswith("run=")], place)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        evaluate([*arguments, f"runs_dir={place / 'none'}"])
    if "no finished run" not in said.getvalue():
        raise RottenError(said.getvalue().strip())


def check_stability(arguments: list[str], place: Path) -> None:
    """Let `sweep.stability` look for the runs in an empty store, where it ends."""
    compose([word for word in arguments if not word.startswith("run=")], place)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        stability([*arguments, f"runs_dir={place / 'none'}"])
    if "no finished run" not in said.getvalue():
        raise RottenError(said.getvalue().strip())


def looks_for_a_run(main: Callable[[list[str]], int]) -> Callable[[list[str], Path], None]:
    """Return a check that lets a command of key=value words look for its run in an empty store, where it ends."""

    def check(arguments: list[str], place: Path) -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
            main([*arguments, f"runs_dir={place / 'none'}"])
        if "no finished run" not in said.getvalue():
            raise RottenError(said.getvalue().strip())

    return check


def check_sweep(arguments: list[str], place: Path) -> None:
    """Compose every cell of the command, and check each that is not of an LM that would have to be downloaded."""
    if arguments in (["--help"], ["-h"]):
        return
    possible, impossible = 0, "the command makes no cell"
    for cell in compose(arguments, place):
        try:
            if cell.get("recovery") is not None or cell.model.name in ("embedded", "local"):
                build(cell, "test")
            possible += 1
        except CellError as error:  # a sweep leaves this cell out
            impossible = str(error)
    if not possible:
        raise RottenError(impossible)


def compose(arguments: list[str], place: Path) -> Iterator[DictConfig]:
    """Yield the config of each cell of `python -m sweep`, as Hydra and our sweepers compose it."""
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    multirun, arguments = {"-m", "--multirun"}, hydra_words(arguments)
    overrides = [_on_this_machine(word, place) for word in arguments if word not in multirun]
    overrides += [f"runs_dir={place / 'runs'}", f"cache_dir={place / 'cache'}"]
    master = hydra.compose_config("config", overrides, run_mode=RunMode.MULTIRUN, with_log_configuration=False)
    if not multirun & set(arguments) and master.hydra.mode != RunMode.MULTIRUN:  # an experiment may set the mode
        one = hydra.compose_config("config", overrides, run_mode=RunMode.RUN, with_log_configuration=False)
        OmegaConf.set_struct(one, False)
        del one["hydra"]
        return iter([one])
    given: Any = OmegaConf.to_container(master.hydra.sweeper, resolve=True)
    del given["_target_"]
    tasks, loader = list(master.hydra.overrides.task), hydra.config_loader
    if "sampler" in given:
        return _trials(given, given.pop("params") or {}, tasks, loader, master)
    from hydra_plugins.sae_sweeper.grid import GridSweeper  # here: Hydra imports its plugins anew when it is set up

    sweeper: Any = GridSweeper(**given)
    sweeper.hydra_context, sweeper.config = SimpleNamespace(config_loader=loader), master
    return (cell for _, cell in sweeper._cells(tasks))


def _trials(given, params, tasks, loader, master) -> Iterator[DictConfig]:
    """Yield the first trial of a search: of every key searched the first choice or the lowest value."""
    search_config(given)
    space = space_from(params, tasks, loader)
    searched: dict[str, Any] = space.distributions
    lowest = {name: found.choices[0] if hasattr(found, "choices") else found.low for name, found in searched.items()}
    yield Composer(loader, master)(space.overrides(lowest))


def _on_this_machine(word: str, place: Path) -> str:
    """Give a placeholder's setting a value that exists: the embedded LM's folder, or a small text."""
    if word == "model.path=DIR":
        return f"model.path={WEIGHTS}"
    return f"corpus.path={place / 'text.txt'}" if word.startswith("corpus.path=") else word


MODULES: dict[str, Callable[[list[str], Path], None]] = {
    "sweep": check_sweep,
    "sweep.completion": without_arguments,
    "sweep.cut": looks_for_a_run(cut),
    "sweep.evaluate": check_evaluate,
    "sweep.compress": looks_for_a_run(compress),
    "sweep.export": looks_for_a_run(export),
    "sweep.retry": parsed_by("sweep.retry"),
    "sweep.stability": check_stability,
    "sweep.status": parsed_by("sweep.status"),
    "sweep.sync": parsed_by("sweep.sync"),
    "analysis": parsed_by("analysis.__main__"),
    "analysis.dashboard": parsed_by("analysis.dashboard.__main__"),
}
PROGRAMS: dict[str, Callable[[list[str], Path], None]] = {
    "make": check_make,
    "pip": check_pip,
    "eval": check_eval,
    "python": check_python,
    "source": by_other_programs,
    "wandb": by_other_programs,
    "optuna-dashboard": by_other_programs,
}
