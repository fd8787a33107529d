"""Open the storage of a study by its URL, and try calls to it again when they fail.

    null                                       memory: gone with the process
    sqlite:///FILE.db                          one machine; any number of controllers
    FILE.journal, journal:///FILE.journal      a shared file system too
    postgresql+psycopg://USER:PASSWORD@HOST/DB a server; any other database that SQLAlchemy knows works likewise

A call that fails is tried again for some seconds; then the search ends with one line.
What the study was told so far is kept, and once the storage can be used again, the same command goes on from there.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

import optuna
from filelock import FileLock
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage, get_storage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

RETRY_SECONDS = 10.0  # how long a failing call is tried again
_PAUSE = 0.25  # seconds between two tries
# SQLite's words for what no waiting mends.
_LASTING = ("file is not a database", "unable to open database file", "attempt to write a readonly database")
_KINDS = "null, sqlite:///FILE.db, FILE.journal, journal:///FILE.journal or postgresql+psycopg://USER@HOST/DB"


class StorageError(ValueError):
    """The study's storage cannot be used; the message says why in one line."""


def quiet() -> None:
    """Silence Optuna's log lines and its warnings that an option is experimental.

    The options are our choice, and our own lines say what a user should know.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    warnings.filterwarnings("ignore", module="optuna")


def open_storage(url: str | None) -> BaseStorage:
    """Return the storage at `url`. Raises StorageError if it is of no known kind, or cannot be reached."""
    make = _maker(url)
    if url is None:
        return make()
    try:
        return cast(BaseStorage, Patient(_patiently(url, make, opening=True), url))
    except RuntimeError as error:  # its tables are of another version of Optuna
        raise StorageError(f"{_shown(url)}: {_first_line(error)}") from None


def exists(url: str | None) -> bool:
    """Tell whether the storage is there: a file if it exists, a server always, memory never."""
    path = _file(url)
    return url is not None and (path is None or path.exists())


class Patient:
    """Wraps a storage, and tries each call again while it fails (see `_patiently`)."""

    def __init__(self, storage: BaseStorage, url: str):
        self._storage, self._url = storage, url

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._storage, name)
        if not callable(member):
            return member
        return lambda *args, **kwargs: _patiently(self._url, partial(member, *args, **kwargs))


class KernelLock:
    """A journal's lock that the operating system releases when its holder ends.

    Optuna's own lock stays when its holder is killed, and holds everybody up for half a minute. Whoever takes this one
    finds whole lines in the journal. Optuna calls nothing but `acquire` and `release`; its base class for such locks is
    a private name, so this class does not inherit from it.
    """

    def __init__(self, path: str):
        self._path, self._lock = Path(path), FileLock(f"{path}.flock")

    def acquire(self) -> bool:
        """Wait for the lock, then cut off a line that a killed holder left unfinished."""
        self._lock.acquire()
        try:
            _drop_torn_end(self._path)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        """Give the lock back."""
        self._lock.release()


def _drop_torn_end(path: Path) -> None:
    """Cut off what stands after the last newline: a line cut short (by a full disk) would spoil the next one."""
    with open(path, "rb+") as stream:
        end = stream.seek(0, os.SEEK_END)
        back = min(end, 1 << 16)
        stream.seek(end - back)
        tail = stream.read(back)
        if tail and not tail.endswith(b"\n"):
            stream.truncate(end - back + tail.rfind(b"\n") + 1)


def _maker(url: str | None) -> Callable[[], BaseStorage]:
    """Return a function that opens the storage at `url`. Raises StorageError if it is of no known kind."""
    if url is None:
        return InMemoryStorage
    path = _file(url)
    if url.startswith("journal:") or "://" not in url:
        if path is None:
            raise StorageError(f"{_shown(url)} is no storage: give {_KINDS}")
        return lambda: _journal(_with_folder(path))
    try:
        parsed = make_url(url)
        parsed.get_dialect().import_dbapi()
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        raise StorageError(f"{_shown(url)} is no storage ({_first_line(error)}): give {_KINDS}") from None
    if parsed.get_backend_name() != "sqlite":
        return lambda: _database(url, pool_pre_ping=True)

    def sqlite() -> BaseStorage:
        given = url if path is None else _sqlite_url(url, _with_folder(path))
        return _database(given, connect_args={"timeout": 20})

    return sqlite


def _database(url: str, **engine: Any) -> BaseStorage:
    """Return Optuna's storage in a database, which takes braces in the URL for fields of its own to fill in."""
    return get_storage(RDBStorage(url.replace("{", "{{").replace("}", "}}"), engine_kwargs=engine))


def _journal(path: str) -> JournalStorage:
    return JournalStorage(JournalFileBackend(path, cast(Any, KernelLock(path))))


def _file(url: str | None) -> Path | None:
    """Return the file that holds the storage; None where no file does."""
    if url is None:
        return None
    if url.startswith("journal:///"):
        return Path(url.removeprefix("journal:///")).expanduser()
    if "://" not in url:
        return Path(url).expanduser() if url.endswith(".journal") else None
    return _sqlite_file(url) if url.startswith("sqlite") else None


def _sqlite_file(url: str) -> Path | None:
    """Return the file that an SQLite URL names, or None for a database in memory.

    Folders may have any characters, so a name counts as it is written; one with `%20` for a blank, as URLs have it,
    counts as decoded where the folder as written does not exist.
    """
    name, _ = _name_and_query(url)
    if name in ("", ":memory:"):
        return None
    written, decoded = Path(name).expanduser(), Path(unquote(name)).expanduser()
    return written if written.parent.is_dir() else decoded


def _sqlite_url(url: str, file: str) -> str:
    """Return an SQLite URL with `file` in place of its own, encoded as SQLAlchemy decodes it."""
    return f"{url.partition('///')[0]}///{quote(file)}{_name_and_query(url)[1]}"


def _name_and_query(url: str) -> tuple[str, str]:
    """Return the file's name in an SQLite URL as it is written, and the query behind it with its question mark."""
    rest = url.partition("///")[2]
    name, mark, query = rest.rpartition("?")
    return (name, mark + query) if mark and "=" in query and "/" not in query else (rest, "")


def _with_folder(path: Path) -> str:
    """Make the file's folder, and return its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def _patiently(url: str, call: Callable[[], Any], opening: bool = False) -> Any:
    """Return what `call` returns, and try it again while it fails.

    Args:
        opening: the storage is only being opened, so that an error which no waiting mends ends it at once. Later the
            same error may be a disk of the network that is gone for a moment.

    Raises:
        StorageError: it still failed after `RETRY_SECONDS`, or at once; see `opening`.
    """
    deadline = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return call()
        except (SQLAlchemyError, StorageInternalError, OSError) as error:
            if time.monotonic() > deadline or (opening and _lasting(error)):
                raise StorageError(f"{_shown(url)}: {_first_line(error)}") from None
        except ValueError as error:
            if "log format" not in str(error) and type(error).__name__ != "JSONDecodeError":
                raise
            raise StorageError(f"{_shown(url)}: the journal is damaged: {_first_line(error)}") from None
        time.sleep(_PAUSE)


def _lasting(error: BaseException) -> bool:
    """Tell whether no waiting mends what is wrong: a missing permission, or a file that is no database."""
    cause = _cause(error)
    if isinstance(cause, (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError)):
        return True
    return any(words in str(cause) for words in _LASTING)


def _shown(url: str) -> str:
    """Return the storage as error messages name it, without a password."""
    without_password = re.sub(r"(://[^:/@]*:)[^@]*@", r"\1***@", url)
    return f"hydra.sweeper.storage={without_password}"


def _first_line(error: BaseException) -> str:
    """Return the first line of the database's or the system's own message, without what Optuna and SQLAlchemy add."""
    cause = _cause(error)
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.filename}: {cause.strerror}" if cause.filename else cause.strerror
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__


def _cause(error: BaseException) -> BaseException:
    """Return the database's or the system's own error."""
    while (inner := getattr(error, "orig", None) or error.__cause__) is not None:
        error = inner
    return error
