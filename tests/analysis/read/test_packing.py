from __future__ import annotations

import gzip
import json

import pandas as pd
import pytest

from analysis.read.load import read_records
from analysis.read.packing import compact, pack
from analysis.read.records import Records
from analysis.read.sources import NoRunsError
from analysis.tables.dominance import dominance_table
from analysis.tables.frontier import frontier_table
from analysis.tables.wins import wins_table
from sweep.store.records import SCHEMA, write_record
from tests.analysis.synthetic import record


@pytest.fixture(scope="session")
def packed(study, tmp_path_factory):
    file = tmp_path_factory.mktemp("packed") / "runs.jsonl.gz"
    pack(study, file)
    return file


def tables_of(records):
    runs = records.runs.drop(columns=["curves", "latents", "theory"])
    return [runs, frontier_table(records.runs), wins_table(records.readings), dominance_table(records.readings)]


def test_tables_are_the_same_from_a_packed_file(records, packed):
    again = Records.read(packed)
    assert len(again.everything) == len(records.everything)
    for one, other in zip(tables_of(records), tables_of(again), strict=True):
        pd.testing.assert_frame_equal(one, other, rtol=1e-5, atol=1e-6, check_like=True)


def test_the_same_records_give_the_same_bytes_from_any_source(study, packed, tmp_path):
    pack(packed, tmp_path / "again.jsonl.gz")  # from the packed file, not the folder
    assert (tmp_path / "again.jsonl.gz").read_bytes() == packed.read_bytes()
    ids = [record["run_id"] for record in read_records(packed)]
    assert ids == sorted(ids) and len(ids) == len(list(study.iterdir()))


def test_a_packed_record_has_no_paths_and_seven_digits():
    made = compact({**record("expander", 2, 8, 0, 0.123456789012), "numbers": [1.00000000001, 3, None, True, "x"]})
    assert "config" not in made and made["metrics"]["ce_recovered"] == 0.1234568
    assert made["numbers"] == [1.0, 3, None, True, "x"] and made["axes"]["d"] == 2


def test_failed_runs_are_not_packed(tmp_path, capsys):
    write_record(tmp_path / "runs", record("expander", 2, 8, 0, 0.8))
    write_record(tmp_path / "runs", {"schema": SCHEMA, "run_id": "f", "status": "failed", "error": "x"})
    assert pack(tmp_path / "runs", tmp_path / "deep" / "out.jsonl.gz") == 1
    assert "1 failed run" in capsys.readouterr().err


def test_a_damaged_file_is_an_error_and_a_damaged_line_a_warning(packed, tmp_path, capsys):
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(packed.read_bytes()[:2000])
    with pytest.raises(NoRunsError, match="not a file that"):
        read_records(cut)
    (tmp_path / "text.jsonl.gz").write_text("{}")
    with pytest.raises(NoRunsError, match="not a file that"):
        read_records(tmp_path / "text.jsonl.gz")
    with gzip.open(tmp_path / "line.jsonl.gz", "wt") as stream:
        stream.write("{broken\n" + json.dumps(record("expander", 2, 8, 0, 0.8)) + "\n[]\n")
    assert len(read_records(tmp_path / "line.jsonl.gz")) == 1
    assert "line.jsonl.gz, line 1" in (said := capsys.readouterr().err) and "line 3" in said
