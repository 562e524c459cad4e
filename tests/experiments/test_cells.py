import json

import pytest

from lookalike import LookalikeError
from lookalike.experiments import MODELS, Cells, Findings, Plan, Subject, read_findings, write_findings
from lookalike.experiments.tables import Column, Row, as_csv, cell, markdown
from lookalike.experiments.workbench import title_of


def test_a_cell_is_done_once(tmp_path):
    calls = []

    def make():
        calls.append(1)
        return {"value": len(calls)}

    assert Cells(tmp_path).get("a", {"n": 1}, make) == {"value": 1}
    assert Cells(tmp_path).get("a", {"n": 1}, make) == {"value": 1}
    assert Cells(tmp_path).get("a", {"n": 2}, make) == {"value": 2}  # made with other options
    (tmp_path / "a.json").write_text('{"key": ')
    assert Cells(tmp_path).get("a", {"n": 2}, make) == {"value": 3}  # half written


def test_a_failing_cell_is_reported_and_the_others_go_on(tmp_path):
    cells = Cells(tmp_path)

    def users():
        raise LookalikeError("no such data")

    def ours():
        return {"x": 1 / 0}

    assert cells.get("a", {}, users) is None
    assert cells.get("b", {}, ours) is None
    assert cells.get("c", {}, lambda: {"x": 1}) == {"x": 1}
    assert cells.failed == {"a": "no such data", "b": "ZeroDivisionError: division by zero"}
    assert "return {" in (tmp_path / "b.failed.txt").read_text()
    assert not (tmp_path / "a.json").exists()


def test_an_interrupted_cell_leaves_nothing(tmp_path):
    def make():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path).get("a", {}, make)
    assert list(tmp_path.iterdir()) == []


COLUMNS = (Column("accuracy", "accuracy %", 100, 1), Column("seconds", "s", 1, 2))
ROWS = [Row(("digits", "KMEx"), {"accuracy": [0.9, 0.92, 0.97], "seconds": [2.5]}), Row(("digits", "FLINT"), {})]


def test_tables():
    assert cell(COLUMNS[0], ROWS[0]) == "93.0 ± 3.6"
    assert cell(COLUMNS[1], ROWS[0]) == "2.50"
    assert cell(COLUMNS[1], ROWS[1]) == "–"
    assert markdown(["data", "model"], COLUMNS, ROWS).splitlines()[2] == "| digits | KMEx | 93.0 ± 3.6 | 2.50 |"
    lines = as_csv(["data", "model"], COLUMNS, ROWS).splitlines()
    assert lines[0] == "data,model,accuracy,accuracy_sd,accuracy_n,seconds,seconds_sd,seconds_n"
    assert lines[1].startswith("digits,KMEx,0.93,0.036055")
    assert lines[2] == "digits,FLINT,,,0,,,0"


def test_findings_are_written_and_read(tmp_path):
    plan = Plan(models=("kmex",))
    found = Findings(("data", "model"), COLUMNS, ROWS, {"more": [1]}, ["A remark."])
    files = write_findings("baselines", plan, found, tmp_path / "out", {"x": "broke"})
    assert [file.name for file in files] == ["baselines.md", "baselines.csv", "baselines.json"]
    text = files[0].read_text()
    assert "93.0 ± 3.6" in text
    assert "A remark." in text
    assert "x failed: broke" in text
    again = read_findings(files[2])
    assert again.to_markdown() == found.to_markdown()
    values = json.loads(files[2].read_text())
    assert values["plan"]["models"] == ["kmex"]
    assert values["machine"]
    with pytest.raises(LookalikeError, match="holds no experiment's findings"):
        read_findings(files[1])


def test_plans_name_what_is_wrong():
    with pytest.raises(LookalikeError, match="no model is called 'protonet'; there are kmex, protopnet"):
        Plan(models=("protonet",))
    with pytest.raises(LookalikeError, match="an experiment needs datasets"):
        Plan(datasets=())


def test_names_and_titles():
    assert Subject("a/b/birds", "timm:x/y", "kmex", 3).name == "birds-x_y-kmex-seed3"
    assert [title_of(model) for model in ("blackbox", *MODELS)] == [
        "black box", "KMEx", "ProtoPNet", "ProtoPNet + KMEx", "FLINT", "FLINT + KMEx", "ProtoVAE", "ProtoVAE + KMEx",
    ]  # fmt: skip


def test_of_times_the_least_is_shown():
    column, row = Column("t", "s", 1, 1, least=True), Row(("a",), {"t": [3.0, 2.0, 9.0]})
    assert cell(column, row) == "2.0"
    assert as_csv(["data"], [column], [row]).splitlines()[1].split(",")[1] == "2.0"
