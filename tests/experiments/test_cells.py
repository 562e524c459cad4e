import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Event

import pytest
from matplotlib.figure import Figure

from lookalike import LookalikeError, LookalikeWarning
from lookalike.experiments import (
    EXPERIMENTS,
    MODELS,
    Cells,
    Experiment,
    Findings,
    Plan,
    Subject,
    draw_findings,
    read_findings,
    write_findings,
)
from lookalike.experiments.large import draw_large_k_means
from lookalike.experiments.side_by_side import before_and_after, rows_of
from lookalike.experiments.tables import Column, Row, as_csv, figures_as_text, gather, markdown
from lookalike.experiments.variants import draw_similarities
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


def test_a_damaged_cell_is_done_again(tmp_path):
    Cells(tmp_path).get("a", {"n": 1}, lambda: {"value": 0.5})
    path = tmp_path / "a.json"
    path.write_text(path.read_text().replace("0.5", "0.7"))
    with pytest.warns(LookalikeWarning, match=r"a.json' cannot be used: it was altered .* it is done again"):
        assert Cells(tmp_path).get("a", {"n": 1}, lambda: {"value": 0.5}) == {"value": 0.5}


def test_two_runs_do_a_cell_once(tmp_path):
    calls, said, waits = [], [], Event()

    def make():
        calls.append(1)
        waits.wait(60)
        return {"value": 1}

    def say(line):
        said.append(line)
        waits.set()

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: Cells(tmp_path, say).get("a", {}, make), range(2)))
    assert found == [{"value": 1}] * 2
    assert len(calls) == 1
    assert [text.startswith(f"waiting: '{tmp_path / 'a.json'}' is in use by") for text in said] == [True]


def test_a_failing_cell_is_reported_and_the_others_go_on(tmp_path):
    cells = Cells(tmp_path)

    def users():
        raise LookalikeError("no such data")

    def ours():
        return {"x": 1 / 0}

    assert cells.get("a", {}, users) is None
    assert cells.get("b", {}, ours) is None
    assert cells.get("c", {}, lambda: {"x": 1}) == {"x": 1}
    told = tmp_path / "b.failed.txt"
    assert cells.failed == {"a": "no such data", "b": f"ZeroDivisionError: division by zero (where: {told})"}
    assert "return {" in told.read_text()
    assert not (tmp_path / "a.json").exists()
    assert list(cells.provenance) == ["c"]
    assert Cells(tmp_path).get("b", {}, lambda: {"x": 2}) == {"x": 2}
    assert not told.exists()


def test_a_cell_interrupted_while_it_is_written_is_as_it_was(tmp_path, monkeypatch):
    Cells(tmp_path).get("a", {"n": 1}, lambda: {"x": 1})
    before = (tmp_path / "a.json").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Cells(tmp_path).get("a", {"n": 2}, lambda: {"x": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == before


def test_a_cell_says_when_and_on_what_it_was_made(tmp_path):
    first, again = Cells(tmp_path), Cells(tmp_path)
    for cells in (first, again):
        cells.get("a", {"n": 1}, lambda: {"x": 1})
    assert first.provenance == again.provenance
    assert first.provenance["a"]["options"] == {"n": 1}
    assert {"date", "machine", "versions"} == first.provenance["a"]["made"].keys()


def cell(column, row):
    return figures_as_text([column], [row])[0][0]


COLUMNS = (Column("accuracy", "accuracy %", 100, 1), Column("seconds", "s", 1, 2))
ROWS = [Row(("digits", "KMEx"), {"accuracy": [0.9, 0.92, 0.97], "seconds": [2.5]}), Row(("digits", "FLINT"), {})]


def test_tables():
    assert cell(COLUMNS[0], ROWS[0]) == "93.0 ± 3.6"
    assert figures_as_text(COLUMNS, ROWS) == [["93.0 ± 3.6", "2.50 (1 seed)"], ["–", "–"]]
    assert cell(COLUMNS[1], ROWS[1]) == "–"
    assert (
        markdown(["data", "model"], COLUMNS, ROWS).splitlines()[2] == "| digits | KMEx | 93.0 ± 3.6 | 2.50 (1 seed) |"
    )
    lines = as_csv(["data", "model"], COLUMNS, ROWS).splitlines()
    assert lines[0] == "data,model,accuracy,accuracy_sd,accuracy_n,seconds,seconds_sd,seconds_n"
    assert lines[1].startswith("digits,KMEx,0.93,0.036055")
    assert lines[2] == "digits,FLINT,,,0,,,0"


def test_findings_are_written_and_read(tmp_path):
    plan = Plan(models=("kmex",))
    found = Findings(("data", "model"), COLUMNS, ROWS, {"more": [1]}, ["A remark."])
    cells = Cells(tmp_path, failed={"x": "broke"})
    cells.get("a", {"n": 1}, lambda: {"value": 1})
    files = write_findings("baselines", plan, found, tmp_path / "out", cells)
    assert [file.name for file in files] == ["baselines.md", "baselines.csv", "baselines.json"]
    text = files[0].read_text()
    assert "93.0 ± 3.6" in text
    assert "A remark." in text
    assert "x failed: broke" in text
    again = read_findings(files[2])
    assert again.to_markdown() == found.to_markdown()
    values = json.loads(files[2].read_text())
    assert values["plan"]["models"] == ["kmex"]
    assert [one["date"] for one in values["measured"]] == [date.today().isoformat()]
    assert values["measured"][0]["machine"] in text
    assert values["cells"] == {"a": {"n": 1}}
    with pytest.raises(LookalikeError, match="holds no experiment's findings"):
        read_findings(files[1])


def test_plans_name_what_is_wrong():
    with pytest.raises(LookalikeError, match="no model is called 'protonet'; there are kmex, protopnet"):
        Plan(models=("protonet",))
    with pytest.raises(LookalikeError, match="an experiment needs datasets"):
        Plan(datasets=())
    with pytest.raises(LookalikeError, match="'a/birds' and 'b/birds' would both be called 'birds'"):
        Plan(datasets=("a/birds", "b/birds"))
    with pytest.raises(LookalikeError, match="would both be called 'resnet34'"):
        Plan(networks=("torchvision:resnet34", "timm:resnet34"))


def test_a_figure_that_fails_is_reported_and_the_others_are_drawn(tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("no room")

    def titled(title):
        figure = Figure()
        figure.suptitle(title)
        return figure

    pictures = {"one": broken, "two": lambda: titled("two"), "three": lambda: titled(r"$\no$")}  # fails when written
    experiment = Experiment("T", "", run=None, draw=lambda _: titled("t"), pictures=lambda *_: pictures)
    monkeypatch.setattr(EXPERIMENTS, "_members", {"t": experiment})
    cells = Cells(tmp_path / "cells")
    drawn = draw_findings("t", Plan(), Findings((), (), []), tmp_path / "out", None, cells)
    assert drawn == ["t", "t-two"]
    assert cells.failed["figure t-one"].startswith("ValueError: no room")
    assert "Unknown symbol" in cells.failed["figure t-three"]
    files = write_findings("t", Plan(), Findings((), (), []), tmp_path / "out", cells, drawn)
    assert [file.name for file in files[3:]] == ["t.png", "t.svg", "t-two.png", "t-two.svg"]
    assert sorted(files) == sorted((tmp_path / "out").iterdir())


def test_differences_are_of_the_same_seed():
    def record(accuracy):
        return {"figures": {"accuracy": accuracy}}

    place = ("digits", "small-cnn")
    found = {place: {"flint": {0: record(0.5), 2: record(0.75)}, "flint+kmex": {1: record(0.1), 2: record(1.0)}}}
    rows = before_and_after(found).rows
    assert [row.values["accuracy"] for row in rows] == [[0.5, 0.75], [0.1, 1.0], [0.25]]


def test_the_black_box_has_every_seed_that_any_model_has():
    def record(accuracy):
        return {"figures": {"accuracy": accuracy, "black_box_accuracy": accuracy + 0.1}}

    found = {("digits", "small-cnn"): {"kmex": {1: record(0.2)}, "flint": {0: record(0.1), 1: record(0.5)}}}
    rows = rows_of(found, [COLUMNS[0]])
    assert rows[0].names[2] == "black box"
    assert rows[0].values["accuracy"] == pytest.approx([0.2, 0.3])


def test_similarities_are_drawn_where_they_could_be_measured():
    radar = {"accuracy": 1.0, "AUROC": 0.5, "diversity": 0.2}
    found = {"radars": {"x": {}, "y": {"l2": radar, "dot": radar}, "z": {"l1": radar, "l2": radar}, "w": {"l1": radar}}}
    figure = draw_similarities(Findings((), (), [], found))
    assert [ax.get_title() for ax in figure.axes if ax.axison] == ["y: dot", "z: l1"]
    with pytest.raises(LookalikeError, match="there is no similarity to compare with l2"):
        draw_similarities(Findings((), (), [], {"radars": {"x": {"l2": radar}}}))


def test_what_is_no_number_is_left_out():
    column = Column("a", "A")
    assert gather([{"a": float("nan")}, {"a": 1.0}, {"a": None}, {}], [column]) == {"a": [1.0]}
    assert cell(column, Row(("x",), gather([{"a": float("nan")}] * 2, [column]))) == "–"
    assert cell(Column("a", "A", 1, 1), Row(("x",), {"a": [-0.01]})) == "0.0"
    assert r"| a\|b |" in markdown(["x"], [column], [Row(("a|b",), {"a": [1.0]})])


def test_names_and_titles():
    assert Subject("a/b/birds", "timm:x/y", "kmex", 3).name == "birds-x_y-kmex-seed3"
    assert Subject(".", "timm:x", "kmex", 3).name == f"{Path.cwd().name}-x-kmex-seed3"
    assert [title_of(model) for model in ("blackbox", *MODELS)] == [
        "black box", "KMEx", "ProtoPNet", "ProtoPNet + KMEx", "FLINT", "FLINT + KMEx", "ProtoVAE", "ProtoVAE + KMEx",
    ]  # fmt: skip


def test_of_times_the_least_is_shown():
    column, row = Column("t", "s", 1, 1, least=True), Row(("a",), {"t": [3.0, 2.0, 9.0]})
    assert cell(column, row) == "2.0"
    assert as_csv(["data"], [column], [row]).splitlines()[1].split(",")[1] == "2.0"


def test_the_figure_of_large_data_names_data_above_and_sizes_below():
    values = {name: [1.0] for name in ("accuracy", "inertia", "seconds", "memory")}
    rows = [
        Row(("digits", net, f"{n} × {dim}", method), values)
        for net, dim in (("a", "64"), ("b", "1,024"))
        for n in ("4,000", "32,000")
        for method in ("full", "mini-batch", "faiss", "20 % of each class", "5 %", "1 %")
    ]
    axes = draw_large_k_means(Findings((), (), rows)).axes
    assert [ax.get_title() for ax in axes] == ["digits, 64 dimensions", "digits, 1,024 dimensions", *[""] * 6]
    assert [ax.get_xlabel() for ax in axes] == [*[""] * 6, "embeddings", "embeddings"]
    assert [line.get_xdata().tolist() for line in axes[0].lines] == [[4000, 32000]] * 6


def test_names_in_tables_are_no_formulas_and_break_no_row():
    rows = [Row(("=HYPERLINK(1)", "two\nlines"), {"a": [0.5]})]
    columns = [Column("a", "A")]
    assert as_csv(["data", "class"], columns, rows).splitlines()[1].startswith("'=HYPERLINK(1)")
    assert len(markdown(["data", "class"], columns, rows).splitlines()) == 3


@pytest.mark.parametrize("repeated", [{"seeds": (0, 0)}, {"datasets": ("digits", "digits")}])
def test_what_is_repeated_counts_once_or_not_at_all(repeated):
    with pytest.raises(LookalikeError, match=f"{next(iter(repeated))} must differ"):
        Plan(**repeated)
