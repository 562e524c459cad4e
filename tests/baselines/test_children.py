"""A training on several devices: no more than there are, and no process is left when it ends, however it ends."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from lookalike._core.errors import LookalikeError
from lookalike.baselines.children import check_devices, with_children
from lookalike.cli import app
from tests.processes import Started

FAST = ["--network", "lookalike:small-cnn", "--set", "image_size=16", "--device", "cpu"]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def processes_of(mark):
    """Returns the processes whose environment has a mark."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and is_running(folder.name):
            with suppress(OSError):
                if mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
    return found


def is_running(process):
    """Returns whether a process has not ended; one that nobody has waited for has."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.05)


def test_more_devices_than_there_are_are_refused_before_anything_starts(image_folder, tmp_path):
    arguments = [
        "train",
        "blackbox",
        "-d",
        str(image_folder),
        "-o",
        str(tmp_path / "net"),
        *FAST,
        "--devices",
        str(CORES + 1),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2, done.output
    assert f"{CORES + 1} devices were asked for, and this machine has {CORES} (processor cores)" in done.output
    assert not [path for path in tmp_path.iterdir() if path.name != "images"]
    with pytest.raises(LookalikeError, match="2 devices were asked for, and this machine has"):
        check_devices("mps", 2)
    check_devices("cpu", "auto")
    check_devices("cpu", 1)


@pytest.mark.parametrize("error", [LookalikeError("the loss is not finite"), KeyboardInterrupt()])
def test_a_training_that_fails_ends_its_processes_and_restores_the_environment(error):
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[sleeper])))
    before = dict(os.environ)

    def fail():
        os.environ["MASTER_PORT"] = "1"  # as Lightning does
        raise error

    with pytest.raises(type(error)):
        with_children(trainer, fail)
    assert sleeper.poll() == -signal.SIGTERM
    assert dict(os.environ) == before


def test_processes_of_a_training_that_succeeds_end_by_themselves():
    done = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.2)"])
    trainer = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[done])))
    assert with_children(trainer, lambda: 5) == 5
    assert done.poll() == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.skipif(CORES < 2, reason="needs two devices")
def test_a_training_that_is_told_to_end_leaves_no_process(image_folder, tmp_path):
    mark = f"LOOKALIKE_TEST_MARK={tmp_path}"
    name, _, value = mark.partition("=")
    command = [sys.executable, "-m", "lookalike", "train", "blackbox", "-d", str(image_folder), *FAST]
    command += ["-o", str(tmp_path / "net"), "--devices", "2", "--epochs", "100000"]
    training = subprocess.Popen(command, env={**os.environ, name: value}, stdout=-3, stderr=subprocess.PIPE)
    try:
        for line in training.stderr:
            if b"epoch 2" in line:
                break
        assert len(processes_of(mark)) >= 2
        training.send_signal(signal.SIGTERM)
        training.communicate(timeout=120)
        assert training.returncode == 130
    finally:
        training.kill()
        training.communicate()
    wait_until(lambda: not processes_of(mark), 120)


def train_on_the_second_device():
    """Trains as the process that Lightning starts for the second device: as if it waited for the first."""
    os.environ["LOCAL_RANK"] = "1"
    print("child", os.getpid(), flush=True)  # noqa: T201
    with_children(SimpleNamespace(), lambda: time.sleep(60))


def train_on_two_devices():
    def train():
        child = os.fork()
        if child == 0:
            train_on_the_second_device()
        os.waitpid(child, 0)

    with_children(SimpleNamespace(strategy=None), train)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="looks for processes in /proc")
def test_processes_of_a_training_that_is_killed_end():
    training = Started(train_on_two_devices)
    child = int(training.wait_for("child").split()[1])
    training.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_running(child), 50)
    training.finish()
