"""Where a study is kept: any folder, and one line that names the key where the storage cannot be used."""

from __future__ import annotations

import os

import pytest
from optuna.study import StudyDirection
from sqlalchemy.exc import OperationalError

from sweep.study import run_search
from sweep.study import storage as keeping
from sweep.study.storage import StorageError, exists, open_storage

NAME = "~a=b,c(d)';$f{g} ü${h}%20#i:j?k"


@pytest.mark.parametrize("url", ["sqlite:///{}/x.db", "sqlite:///{}/x.db?timeout=5", "{}/x.db.journal"])
def test_a_file_in_any_folder_is_where_its_url_says(tmp_path, url):
    folder = tmp_path / NAME
    folder.mkdir()
    url = url.replace("{}", str(folder))
    assert not exists(url)
    storage = open_storage(url)
    storage.create_new_study([StudyDirection.MINIMIZE], "s")
    assert exists(url) and [name for name in os.listdir(folder) if name.startswith("x.db")]


def test_a_url_may_be_encoded_and_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    open_storage(f"sqlite:///{tmp_path}/a%20b/x.db")
    open_storage("sqlite:///~/y.db")
    assert (tmp_path / "a b" / "x.db").is_file() and (tmp_path / "y.db").is_file()


@pytest.mark.parametrize(
    "url, said",
    [
        ("foo://x", "no storage"),
        ("foo", "no storage"),
        ("postgresql://u:secret@h:abc/db", "no storage"),
        ("sqlite:///{}/garbage", "file is not a database"),
        ("sqlite:///{}/folder", "unable to open"),
        ("sqlite:///{}/garbage/x.db", "File exists"),
        ("journal:///{}/garbage", "damaged"),
        ("journal:///{}/folder", "Is a directory"),
    ],
)
def test_a_storage_that_cannot_be_opened_is_one_line_at_once(tmp_path, url, said):
    (tmp_path / "garbage").write_text("neither a database\nnor a journal\n" * 200)
    (tmp_path / "folder").mkdir()
    before = (tmp_path / "garbage").read_bytes()
    with pytest.raises(StorageError, match=said) as caught:
        open_storage(url.replace("{}", str(tmp_path)))
    line = str(caught.value)
    assert line.startswith("hydra.sweeper.storage=") and "\n" not in line
    assert "same command" not in line and "secret" not in line
    assert (tmp_path / "garbage").read_bytes() == before


def test_a_server_that_does_not_answer_is_tried_for_a_while(monkeypatch):
    monkeypatch.setattr(keeping, "RETRY_SECONDS", 0.6)
    tries = []

    def call():
        tries.append(1)
        raise OperationalError("connect", {}, Exception("connection refused"))

    with pytest.raises(StorageError, match="connection refused") as caught:
        keeping._patiently("postgresql://u:secret@h/db", call)
    assert len(tries) > 2 and "secret" not in str(caught.value)


def test_only_a_search_that_was_under_way_can_go_on(bench, monkeypatch):
    """The promise is made where the storage had been opened and the search had begun."""
    monkeypatch.setattr(run_search, "_leave_results", lambda to_do: None)

    def gone(to_do):
        raise StorageError("hydra.sweeper.storage=x: gone")

    monkeypatch.setattr(run_search, "search", gone)
    monkeypatch.setattr(run_search, "_launch", lambda *_: bench.train)
    monkeypatch.setattr(run_search, "launch_folder", lambda _: bench.folder / "launch")
    monkeypatch.setattr(run_search.OmegaConf, "save", lambda *_: None)
    with bench.search("d=2,3", n_trials=1) as to_do, pytest.raises(StorageError, match="gone; once it can be used"):
        config = {"hydra": {"launcher": {}}, "threads": 1}
        master = run_search.OmegaConf.create(config)
        run_search._search_and_report(to_do.asking.study, to_do.cells, None, master, bench.runs)
