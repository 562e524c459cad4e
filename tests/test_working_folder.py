"""The lock, the record and the checksums that every working folder has."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from lookalike._core.errors import LookalikeError, LookalikeWarning
from lookalike._core.working_folder import (
    alone,
    differences,
    is_foreign,
    lock_beside,
    lock_in,
    read_record,
    read_sealed,
    write_record,
    write_sealed,
    writing_to,
)


def hold(lock: Path, until: int | None = None) -> int:
    """Forks a process that has a lock until it reads a byte from a pipe; returns its number when it has it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with alone(lock):
            os.write(writer, b"x")
            if until is None:
                time.sleep(60)
            else:
                os.read(until, 1)
        os._exit(0)
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return pid


def end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_second_process_is_refused_in_one_line_that_names_the_first(tmp_path):
    pid = hold(lock_in(tmp_path / "work"))
    expected = rf"work' is in use by another process \(pid {pid} on '.+', since '20"
    with pytest.raises(LookalikeError, match=expected) as told, alone(lock_in(tmp_path / "work")):
        pass
    assert "\n" not in str(told.value)
    end(pid)  # a kill ends the lock
    with alone(lock_in(tmp_path / "work")):
        pass
    assert list((tmp_path / "work").iterdir()) == []


def test_a_forked_child_does_not_keep_the_lock_of_a_killed_process(tmp_path):
    lock, reader, writer = lock_in(tmp_path), *os.pipe()
    pid = os.fork()
    if pid == 0:
        with alone(lock):
            if not os.fork():
                os.write(writer, str(os.getpid()).encode())  # it runs, and has let go of the lock
            time.sleep(60)
        os._exit(0)
    child = int(os.read(reader, 10))
    end(pid)
    try:
        with alone(lock):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_another_thread_is_kept_out_and_the_same_one_comes_in_again(tmp_path):
    told = []

    def enter():
        try:
            with alone(lock_in(tmp_path)):
                told.append("in")
        except LookalikeError as error:
            told.append(str(error))

    with alone(lock_in(tmp_path)), alone(lock_in(tmp_path)):
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert (tmp_path / ".lock").exists()
    assert [
        text.endswith("is in use by another thread of this process: wait until it ends, or choose another place")
        for text in told
    ] == [True]


def test_who_is_to_wait_waits_with_one_line(tmp_path):
    said, (reader, writer) = [], os.pipe()
    pid = hold(lock_beside(tmp_path / "model"), until=reader)

    def wait(line):
        said.append(line)
        os.write(writer, b"x")

    with alone(lock_beside(tmp_path / "model"), wait=wait):
        pass
    assert len(said) == 1
    assert f"waiting: '{tmp_path / 'model'}' is in use by another process (pid {pid}" in said[0]
    os.waitpid(pid, 0)
    assert not list(tmp_path.iterdir())


def test_many_processes_are_never_in_at_once(tmp_path):
    """The lock file is removed and made again all the time: whoever gets an old one must notice."""
    pids = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            code = 0
            for _ in range(60):
                with alone(lock_in(tmp_path / "w"), wait=lambda _: None):
                    inside = tmp_path / "inside"
                    try:
                        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
                    except FileExistsError:
                        code = 1
                    inside.unlink(missing_ok=True)
            os._exit(code)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0] * 4


def test_storage_without_locks_is_warned_of(tmp_path, monkeypatch):
    import fcntl

    def fail(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    with (
        pytest.warns(LookalikeWarning, match="without locks: let only one process at a time"),
        alone(lock_in(tmp_path)),
    ):
        pass


def test_records_are_whole_or_refused(tmp_path):
    path, values = tmp_path / "key.json", {"a": [1, 2.5, float("nan")], "names": ["caf\udce9", "b"]}
    write_record(path, values)
    assert read_record(path)["a"][:2] == [1, 2.5]
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            assert json.dumps(read_record(path)) == json.dumps({**values, "names": read_record(path)["names"]})
        except LookalikeError:
            continue
        assert json.loads(damaged) == json.loads(whole) or damaged.split() == whole.split()
    for content in (b"", b"[]", b"{}", whole[:-5]):
        path.write_bytes(content)
        with pytest.raises(LookalikeError):
            read_record(path)


def test_differences_name_the_values_but_not_fingerprints():
    held = {"weights": "0" * 64, "seed": 1, "options": {"sigma": 1.0}, "same": 3, "old": 1}
    wanted = {"weights": "1" * 64, "seed": 2, "options": {"sigma": 2.0}, "same": 3}
    assert differences(held, wanted) == (
        "weights and seed (was 1, now 2) and options.sigma (was 1.0, now 2.0) and old (was 1, now None)"
    )
    assert differences(held, held) == ""
    assert differences({"n": {"a": (1, 2)}}, {"n": {"a": [1, 2]}}) == ""  # as JSON has them


def test_a_sealed_file_in_the_place_of_another_is_not_read(tmp_path):
    write_sealed(tmp_path / "class-1", b"one")
    write_sealed(tmp_path / "class-2", b"two")
    (tmp_path / "class-1").replace(tmp_path / "class-2")
    with pytest.warns(LookalikeWarning, match="'.*class-2' cannot be used: it was altered or damaged"):
        assert read_sealed(tmp_path / "class-2") is None


def test_a_damaged_sealed_file_is_warned_of_and_not_read(tmp_path):
    path = tmp_path / "class.npy"
    assert read_sealed(path) is None
    write_sealed(path, b"content")
    assert read_sealed(path) == b"content"
    whole = path.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 4]) + whole[i + 1 :] for i in range(len(whole))]
    for content in [b"", whole[:-1], whole + b"\0", *flipped]:
        path.write_bytes(content)
        with pytest.warns(LookalikeWarning, match=r"class.npy' cannot be used: it was altered or .* it is made again"):
            assert read_sealed(path) is None


def test_what_killed_runs_and_systems_leave_is_not_foreign(tmp_path):
    for name in (".clusters.json.0123abcd.part", ".lock", ".embeddings.lock", ".DS_Store", ".nfs000012ab"):
        (tmp_path / name).touch()
    assert not is_foreign(tmp_path)
    (tmp_path / "letter.txt").touch()
    assert is_foreign(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line(tmp_path):
    expected = "cannot write to 'w': the disk is full; 3 classes are safe: make room, and run the same command again"
    with pytest.raises(LookalikeError, match=expected), writing_to(Path("w"), "3 classes are safe"):
        Path("/dev/full").write_bytes(b"x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only an administrator can become another user")
def test_the_lock_of_another_user_counts(tmp_path):
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    (tmp_path / "w").mkdir()
    (tmp_path / "w").chmod(0o777)
    reader, writer = os.pipe()
    with alone(lock_in(tmp_path / "w")):
        pid = os.fork()
        if pid == 0:
            os.setuid(65534)
            try:
                with alone(lock_in(tmp_path / "w")):
                    os.write(writer, b"in")
            except LookalikeError as error:
                os.write(writer, str(error).encode())
            os._exit(0)
        os.waitpid(pid, 0)
    assert f"is in use by another process (pid {os.getpid()}" in os.read(reader, 1000).decode()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="an administrator may write anywhere")
def test_where_nothing_can_be_written_there_is_no_lock(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with alone(lock_in(tmp_path)):
            pass
    finally:
        tmp_path.chmod(0o700)
