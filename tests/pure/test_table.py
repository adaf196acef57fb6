import json

import pytest
from concept_loom.benchmarks.table import Table, arguments, print_table


def _never():
    raise AssertionError("made twice")


def test_a_restart_makes_only_what_is_missing(tmp_path):
    path = tmp_path / "out.json"
    first = Table(path, {"seed": 1})
    first.once("ceiling", lambda: 0.8)
    first.row("quick", lambda: {"identity": 0.5})
    again = Table(path, {"seed": 1})
    assert again.once("ceiling", _never) == 0.8
    assert again.row("quick", _never) == {"method": "quick", "identity": 0.5}
    again.row("auto", lambda: {"identity": 0.6})
    assert [row["method"] for row in json.loads(path.read_text())["rows"]] == ["quick", "auto"]


def test_a_row_of_another_recipe_is_made_anew_in_its_place(tmp_path):
    path = tmp_path / "out.json"
    first = Table(path, {"seed": 1})
    for name in ("quick", "auto"):
        first.row(name, lambda: {"identity": 0.5}, recipe="one")
    again = Table(path, {"seed": 1})
    assert again.row("auto", _never, recipe="one")["identity"] == 0.5
    again.row("quick", lambda: {"identity": 0.6}, recipe="two")
    found = [(row["method"], row["recipe"], row["identity"]) for row in json.loads(path.read_text())["rows"]]
    assert found == [("quick", "two", 0.6), ("auto", "one", 0.5)]


def test_a_row_that_fails_leaves_the_others(tmp_path):
    path = tmp_path / "out.json"
    table = Table(path, {"seed": 1})
    table.row("quick", lambda: {"identity": 0.5})
    with pytest.raises(AssertionError):
        table.row("auto", _never)
    assert [row["method"] for row in json.loads(path.read_text())["rows"]] == ["quick"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_about_something_else_is_begun_anew(tmp_path):
    path = tmp_path / "out.json"
    Table(path, {"seed": 1}).once("floor", lambda: 0.1)
    assert Table(path, {"seed": 2}).once("floor", lambda: 0.2) == 0.2


def test_a_table_without_a_file_still_keeps_its_values():
    table = Table(None, {})
    table.once("floor", lambda: 0.1)
    assert table.once("floor", _never) == 0.1


def test_columns_line_up(capsys):
    print_table(("method", "identity"), [("quick", 0.5), ("textual inversion", None), ("auto", 12)])
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert len({len(line) for line in lines}) == 1
    assert lines[2].endswith("-")


def test_a_checkpoint_is_taken_where_it_can_be_measured_and_refused_with_a_way_out_elsewhere(capsys):
    own = ["--checkpoint", "mine.safetensors"]
    assert arguments("step", any_checkpoint=True).parse_args(own).checkpoint.name == "mine.safetensors"
    with pytest.raises(SystemExit):
        arguments("methods").parse_args(own)
    told = capsys.readouterr().err
    assert all(part in told for part in ("mine.safetensors", "needs its model", "demo --checkpoint"))


def test_a_row_made_apart_joins_and_what_else_the_other_knows_does_not(tmp_path):
    path = tmp_path / "out.json"
    table = Table(path, {"seed": 1})
    table.row("class word", lambda: {"identity": 0.0})
    other = Table(None, {"seed": 1})
    other.row("quick", lambda: {"identity": 0.5}, recipe="two")
    other.row("class word", lambda: {"identity": 0.9})
    other.entry("peers", "Train LoRA", lambda: {"rate": 0.1})
    table.row("quick", lambda: {"identity": 0.1}, recipe="one")
    assert table.has("quick", recipe="one") and not table.has("quick", recipe="two")
    table.join(other.values, "quick")
    again = Table(path, {"seed": 1})
    assert again.row("quick", _never, recipe="two")["identity"] == 0.5
    assert again.row("class word", _never)["identity"] == 0.0
    assert again.values["peers"] == {"Train LoRA": {"rate": 0.1}} and again.values["about"] == {"seed": 1}


def test_rows_stand_in_the_order_that_is_asked():
    table = Table(None, {})
    for name in ("staged", "old", "quick"):
        table.row(name, lambda: {})
    table.sort(["quick", "staged"])
    assert [row["method"] for row in table.values["rows"]] == ["quick", "staged", "old"]
