"""Where a study is kept, by its URL, and what is done when that place is in trouble.

    null                                       memory: gone with the process
    sqlite:///FILE.db                          one machine; any number of controllers
    FILE.journal, journal:///FILE.journal      a shared file system too
    postgresql+psycopg://USER:PASSWORD@HOST/DB a server; any other database of SQLAlchemy's likewise

A call that fails is tried again for some seconds; then the search ends with one line. What it has told the study so far
is there, and the same command goes on.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

RETRY_SECONDS = 10.0
_PAUSE = 0.25
_KINDS = "null, sqlite:///FILE.db, FILE.journal, journal:///FILE.journal or postgresql+psycopg://USER@HOST/DB"


class StorageError(ValueError):
    """The study's storage cannot be used, and in one line why."""


def quiet() -> None:
    """Optuna's own log lines, and its warnings that an option is experimental, go nowhere: the options are our choice,
    and what a user should know we say."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    warnings.filterwarnings("ignore", module="optuna")


def open_storage(url: str | None) -> BaseStorage:
    """The storage at `url`. Raises StorageError where there is no such kind, or it cannot be reached."""
    make = _maker(url)
    if url is None:
        return make()
    return cast(BaseStorage, Patient(_patiently(url, make), url))


def exists(url: str | None) -> bool:
    """Whether a file holds the study already; of a server one cannot say without asking it."""
    path = _file(url)
    return url is not None and (path is None or path.exists())


class Patient:
    """A storage whose calls are tried again while it is in trouble."""

    def __init__(self, storage: BaseStorage, url: str):
        self._storage, self._url = storage, url

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._storage, name)
        if not callable(member):
            return member
        return lambda *args, **kwargs: _patiently(self._url, partial(member, *args, **kwargs))


class KernelLock(BaseJournalFileLock):
    """A journal's lock that goes with its holder, where Optuna's own stays when that is killed and holds everybody up
    for half a minute. Whoever takes it finds whole lines."""

    def __init__(self, path: str):
        self._path, self._lock = Path(path), FileLock(f"{path}.flock")

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            _drop_torn_end(self._path)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def _drop_torn_end(path: Path) -> None:
    """Cut what stands after the last newline: an append that was cut short (a full disk) would spoil the next."""
    with open(path, "rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        back = min(end, 1 << 16)
        stream.seek(end - back)
        tail = stream.read(back)
        if tail and not tail.endswith(b"\n"):
            stream.truncate(end - back + tail.rfind(b"\n") + 1)


def _maker(url: str | None) -> Callable[[], BaseStorage]:
    if url is None:
        return InMemoryStorage
    path = _file(url)
    if url.startswith("journal:") or "://" not in url:
        if path is None:
            raise StorageError(f"hydra.sweeper.storage={url} is no storage: give {_KINDS}")
        return lambda: _journal(_made(path))
    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StorageError(f"hydra.sweeper.storage={url} is no storage ({_first_line(error)}): give {_KINDS}") from None
    if parsed.get_backend_name() != "sqlite":
        return lambda: get_storage(RDBStorage(url, engine_kwargs={"pool_pre_ping": True}))

    def sqlite() -> BaseStorage:
        if path is not None:
            _made(path)
        return get_storage(RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 20}}))

    return sqlite


def _journal(path: str) -> JournalStorage:
    return JournalStorage(JournalFileBackend(path, KernelLock(path)))


def _file(url: str | None) -> Path | None:
    """The file that a storage is, where it is one."""
    if url is None:
        return None
    if url.startswith("journal:///"):
        return Path(url.removeprefix("journal:///")).expanduser()
    if "://" not in url:
        return Path(url).expanduser() if url.endswith(".journal") else None
    if url.startswith("sqlite"):
        database = make_url(url).database
        return Path(database) if database and database != ":memory:" else None
    return None


def _made(path: Path) -> str:
    """The file's name, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def _patiently(url: str, call: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return call()
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            if time.monotonic() > deadline:
                raise StorageError(f"{_shown(url)}: {_first_line(error)}; the same command goes on from here") from None
        except ValueError as error:
            if "log format" not in str(error) and type(error).__name__ != "JSONDecodeError":
                raise
            raise StorageError(f"{_shown(url)}: the journal is damaged: {_first_line(error)}") from None
        time.sleep(_PAUSE)


def _shown(url: str) -> str:
    """The storage as an error names it, without a password."""
    shown = make_url(url).render_as_string(hide_password=True) if _file(url) is None else url
    return f"hydra.sweeper.storage={shown}"


def _first_line(error: BaseException) -> str:
    """What the database or the system itself said, less what SQLAlchemy and Optuna wrap around it."""
    cause = error
    while (inner := getattr(cause, "orig", None) or cause.__cause__) is not None:
        cause = inner
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.filename}: {cause.strerror}" if cause.filename else cause.strerror
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
