"""What replaces a file or a folder does so as a whole, and what killed runs leave behind is removed."""

import shutil
import sys
from pathlib import Path

import pytest
from tools.fuzz_saved import make_models
from tools.kill_anywhere import JOBS, kill_and_repeat, prepare, undisturbed

from lookalike import load
from lookalike._core.errors import LookalikeError
from lookalike._core.files import write_whole
from lookalike._core.replacing import leftovers, remove_leftovers_in, replace_folder, replacing_folder


def filled(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "text").write_text(text)
    return folder


def test_leftovers_of_killed_runs_are_removed_and_those_of_live_ones_stay(tmp_path):
    dead = filled(tmp_path / ".a.0123abcd.part", "dead")
    other = filled(tmp_path / ".b.0123abcd.old", "of another target")
    foreign = filled(tmp_path / ".a.part", "not ours")
    with replacing_folder(tmp_path / "a", replace=False) as live:
        with replacing_folder(tmp_path / "a", replace=False) as second:
            (second / "text").write_text("second")
        assert leftovers(tmp_path, "a") == [dead]
        write_whole(tmp_path / "a.json", "{}")
        remove_leftovers_in(tmp_path / "nowhere")
        assert live.exists()
        shutil.rmtree(tmp_path / "a")
    assert other.exists()
    remove_leftovers_in(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [foreign.name, "a", "a.json"]


def test_a_leftover_file_goes_with_the_next_write(tmp_path):
    (tmp_path / ".card.json.0123abcd.part").write_text("half")
    write_whole(tmp_path / "card.json", "{}")
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_what_came_up_meanwhile_is_not_replaced(tmp_path):
    with pytest.raises(LookalikeError, match="exists already"), replacing_folder(tmp_path / "a", replace=False):
        filled(tmp_path / "a", "somebody else's")
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "text"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_a_targets_place(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(sys, "platform", "another")
    replace_folder(filled(tmp_path / "new", "new"), filled(tmp_path / "a", "old"))
    assert (tmp_path / "a" / "text").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_replacement_that_was_killed_halfway_is_rolled_back(tmp_path):
    """Where two folders cannot be exchanged in one step, a kill can leave the old model under a hidden name."""
    folder = make_models(tmp_path)[0]
    folder.rename(tmp_path / f".{folder.name}.0123abcd.old")
    sem = load(folder)
    folder.rename(tmp_path / f".{folder.name}.0123abcd.old")
    with pytest.raises(LookalikeError, match="exists already"):
        sem.save(folder)
    sem.save(folder, overwrite=True)
    load(folder)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="traces system calls")
@pytest.mark.parametrize("name", ["save over an old model", "embed over old ones"])
def test_a_job_killed_at_a_system_call_and_repeated_leaves_what_an_undisturbed_one_does(tmp_path, name):
    """A sample of what ``tools/kill_anywhere.py`` tries by the hundred."""
    ready = prepare(tmp_path)
    expected, n_calls = undisturbed(JOBS[name], ready, tmp_path)
    for kill_at in range(n_calls - 2, 0, -(n_calls // 2)):
        assert not kill_and_repeat(JOBS[name], ready, tmp_path, kill_at, expected), (kill_at, n_calls)
