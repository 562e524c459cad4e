"""Where a command cannot write its output, it says so before any work, and names the place as the user gave it."""

import sys
from pathlib import Path

import pytest
import typer

from lookalike._core.errors import WriteError
from lookalike._core.replacing import replacing_file, replacing_folder, try_writing
from lookalike.cli import app
from tests.cli.test_commands import mistake

NO_PLACE = "/proc/lookalike"  # takes no file, not even root's
needs_no_place = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a folder that takes no file")
# What each command needs beside --output: models and data that do not exist, so that any work would fail otherwise.
ARGUMENTS = {
    "audit": ["nodata", "-m", "nomodel"],
    "calibrate": ["nomodel", "nodata"],
    "convert": ["nonetwork", "nodata"],
    "demo": [],
    "edit": ["nomodel", "noscript"],
    "evaluate": ["nomodel", "nodata"],
    "explain": ["nomodel", "nodata"],
    "export": ["nomodel"],
    "report": ["nomodel", "nodata"],
    "reproduce": ["nothing"],
    "train": ["blackbox", "-d", "nodata"],
}
SUFFIXES = {"audit": ".csv", "evaluate": ".json", "report": ".html"}


def test_every_command_with_an_output_is_tried():
    commands = typer.main.get_command(app).commands
    with_output = {name for name, command in commands.items() if any("-o" in p.opts for p in command.params)}
    assert with_output == set(ARGUMENTS)


@needs_no_place
@pytest.mark.parametrize("command", ARGUMENTS)
def test_a_place_that_takes_no_file_is_refused_before_any_work(command):
    output = NO_PLACE + SUFFIXES.get(command, "")
    error = mistake(command, *ARGUMENTS[command], "-o", output)
    assert f"cannot write '{output}" in error
    assert "'/proc' (" in error
    assert ".part" not in error


@needs_no_place
@pytest.mark.parametrize("option", ["--state", "--log", "--modes"])
def test_watch_tries_its_files_before_any_work(option):
    assert f"cannot write '{NO_PLACE}'" in mistake("watch", "nomodel", "nodata", option, NO_PLACE)


@pytest.mark.parametrize(
    ("command", "message"),
    [("evaluate", "is not overwritten"), ("report", "is not overwritten"), ("audit", "is written as a table")],
)
def test_a_file_of_another_kind_is_not_replaced(command, message, tmp_path):
    """Such as the network's weights, in place of a name that was meant."""
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"PK\x03\x04 weights")
    assert message in mistake(command, *ARGUMENTS[command], "-o", weights, "--overwrite")
    assert weights.read_bytes() == b"PK\x03\x04 weights"


@pytest.mark.parametrize("suffix", [".csv", ".html"])
def test_an_audit_replaces_only_an_audit_of_its_kind(suffix, tmp_path):
    other = tmp_path / f"prices{suffix}"
    other.write_text("price,weight\n1,2\n")
    assert "is not overwritten" in mistake("audit", *ARGUMENTS["audit"], "-o", other, "--overwrite")
    other.write_text("kind,rank\n" if suffix == ".csv" else "<!doctype html>")
    assert "nomodel" in mistake("audit", *ARGUMENTS["audit"], "-o", other, "--overwrite")


@pytest.mark.parametrize("option", ["--state", "--log"])
def test_a_watch_writes_into_no_file_of_another_kind(option, tmp_path):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"PK\x03\x04 weights")
    assert "is not overwritten" in mistake("watch", "nomodel", "noimages", option, weights)


def test_the_trial_leaves_nothing_and_names_the_path_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("file", "missing/too/file"):
        try_writing(Path(place))
    assert list(tmp_path.iterdir()) == []
    Path("plain").write_text("text")
    with pytest.raises(WriteError, match=r"cannot write 'plain/below': no file can be made in .*plain' \("):
        try_writing(Path("plain/below"))
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_a_late_error_names_the_target_and_not_the_hidden_file(tmp_path):
    (tmp_path / "plain").write_text("text")
    target = tmp_path / "plain" / "below"
    for context in (replacing_file(target), replacing_folder(target, replace=False)):
        with pytest.raises(WriteError, match=r"cannot write '.*below': ") as caught, context:
            pass
        assert ".part" not in str(caught.value)
