"""Rows of a bench made by processes of their own, on the real playground."""

import json
from pathlib import Path

import pytest
from concept_loom.benchmarks import methods

ASKED = ("--quick", "--instances", "1", "--seconds", "0.2")


def test_rows_made_two_at_a_time_stand_in_one_table_which_a_restart_leaves_alone(tmp_path: Path) -> None:
    file, rows = tmp_path / "out.json", ("quick", "quick, captions")
    assert methods.main([*ASKED, "--json", str(file), "--rows", *rows, "--jobs", "2"]) == 0
    made = json.loads(file.read_text())
    assert [row["method"] for row in made["rows"]] == ["class word", *rows]
    assert all(row["steps"] > 0 and row["closed"] is not None for row in made["rows"][1:])
    assert methods.main([*ASKED, "--json", str(file), "--rows", *rows, "--jobs", "2"]) == 0
    assert json.loads(file.read_text()) == made


def test_a_row_that_no_table_has_is_refused_with_the_names_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"--rows has Train LoRA; the table has .*core Train LoRA.* Write one"):
        methods.main([*ASKED, "--json", str(tmp_path / "out.json"), "--rows", "quick", "Train LoRA"])
