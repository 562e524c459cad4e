"""Kills jobs at their system calls, repeats them, and checks that nothing is lost and nothing is left behind.

Run: ``python tools/kill_anywhere.py --number 500`` (Linux, x86-64 or ARM). A job runs in a fork of a process that has
everything imported, traced: it is killed when it is about to make its k-th system call that changes a file below its
folder. At the kill, a model that is to be replaced is loadable, the old one or the new one. Then the job runs again,
to its end: its results are those of an undisturbed run, bit for bit, and there is no other file.
"""

import argparse
import collections
import contextlib
import csv
import ctypes
import hashlib
import io
import json
import os
import platform
import random
import re
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from PIL import Image

from lookalike._core.errors import LookalikeError
from lookalike.cli import main as command_line
from lookalike.data import Preprocessing, load_data
from lookalike.embedding import embed
from lookalike.encoder import LoadedClassifier, load_classifier, save_classifier
from lookalike.model import load
from lookalike.networks import NETWORKS

# what changes a file, by its number, and where its path or descriptor is among its arguments
_X86 = {
    1: "fd0", 18: "fd0", 20: "fd0", 74: "fd0", 75: "fd0", 77: "fd0",  # write, pwrite, writev, fsync …
    2: "open0", 257: "open1", 82: "path0", 264: "path1", 316: "path1",  # open, openat, rename, renameat, renameat2
    83: "path0", 258: "path1", 84: "path0", 87: "path0", 263: "path1", 90: "path0",  # mkdir, rmdir, unlink …
}  # fmt: skip
_ARM = {
    64: "fd0", 66: "fd0", 68: "fd0", 46: "fd0", 82: "fd0", 83: "fd0",
    56: "open1", 38: "path1", 276: "path1", 34: "path1", 35: "path1", 53: "path1",
}  # fmt: skip
_CALLS = {"x86_64": _X86, "aarch64": _ARM}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_TRACE_ME, _SYSCALL, _KILL_WITH_TRACER, _GOOD = 0, 24, 0x100000, 1
_SET_OPTIONS, _SYSCALL_INFO = 0x4200, 0x420E
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_LIBC.ptrace.restype = ctypes.c_long
Follow = Callable[[int, bytes], tuple[int, int]]  # a process and a folder → a count, and the process's status

_SECONDS = re.compile(rb"\| [a-z_]*seconds \| [^|]*\|")


@dataclass(frozen=True)
class Job:
    """A command that is killed.

    Attributes:
        arguments: Of ``lookalike``; ``{}`` stands for the folder that the trial has for itself.
        start: What is there before, copied from the folder of prepared things: its name there, its name here.
        always: The model that must be loadable at any time.
    """

    arguments: list[str]
    start: dict[str, str] = field(default_factory=dict)
    always: str | None = None


_CONVERT = ["convert", "{}/net", "{}/images", "-o", "{}/model", "--n-prototypes", "2"]
_EMBED = ["embed", "{}/net", "{}/images", "{}/store"]
_TRAIN = ["train", "protopnet", "-d", "{}/images", "-o", "{}/trained", "--network", "lookalike:small-cnn"]
_EVALUATE = ["evaluate", "{}/model", "{}/images", "-o", "{}/card.json", "--overwrite", "--resume", "{}/parts.json"]
_NET, _MODEL = {"net": "net"}, {"model": "model"}
JOBS: dict[str, Job] = {
    "convert": Job(_CONVERT, _NET),
    "convert with a working folder": Job([*_CONVERT, "--working-folder", "{}/work"], _NET),
    "convert over an old model": Job([*_CONVERT, "--seed", "1", "--overwrite"], _NET | _MODEL, always="model"),
    "train": Job([*_TRAIN, "--set", "image_size=16", "--set", "n_prototypes=1", "--epochs", "2"]),
    "evaluate": Job(
        [*_EVALUATE, "--only", "faithfulness,transparency,diversity", "--images", "2"], _MODEL, always="model"
    ),
    "embed": Job(_EMBED, _NET),
    "embed over old ones": Job([*_EMBED, "--overwrite"], _NET | {"store": "store"}),
    "save over an old model": Job(["save", "{}/other", "{}/model"], _MODEL | {"other": "other"}, always="model"),
}


def work(arguments: list[str]) -> None:
    """Runs a job: a command of ``lookalike``, or ``embed`` and ``save``, which are Python's alone."""
    if arguments[0] == "embed":
        loaded = load_classifier(arguments[1])
        data = load_data(arguments[2], loaded.preprocessing).train
        embed(loaded.model, data, folder=arguments[3], batch_size=4, resume=True, overwrite="--overwrite" in arguments)
    elif arguments[0] == "save":
        load(arguments[1]).save(arguments[2], overwrite=True)
    else:
        sys.argv = ["lookalike", *arguments]
        command_line()


def run(arguments: list[str], folder: Path, kill_at: int | None = None, traced: bool = True) -> tuple[int, int, str]:
    """Runs a job in a fork.

    Args:
        arguments: The job's.
        folder: Calls that change files below it count.
        kill_at: Kill it before it makes this call, counted from 1.
        traced: Count at all.

    Returns:
        Its exit code, minus the signal's number if one ended it; how many calls it made; and what it printed.
    """
    if traced:
        return run_traced(arguments, folder, lambda pid, below: _follow(pid, below, kill_at))
    return run_traced(arguments, folder, None)


def run_traced(arguments: list[str], folder: Path, follow: Follow | None) -> tuple[int, int, str]:
    """Runs a job in a fork; returns its exit code, what ``follow`` counted, and what it printed.

    Args:
        arguments: The job's.
        folder: What the follower watches.
        follow: Follows the traced process to its end, and returns a count and its status; None does not trace.
    """
    with tempfile.TemporaryFile() as printed:
        pid = os.fork()
        if pid == 0:
            child(arguments, printed.fileno(), follow is not None)
        count, status = (0, os.waitpid(pid, 0)[1]) if follow is None else follow(pid, os.fsencode(folder))
        printed.seek(0)
        return os.waitstatus_to_exitcode(status), count, printed.read().decode(errors="replace")


def child(arguments: list[str], output: int, traced: bool) -> None:
    """Runs a job in a fork, whose output goes to a descriptor, and ends it."""
    code = 1
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        if traced:
            _LIBC.ptrace(_TRACE_ME, 0, None, None)
            os.kill(os.getpid(), signal.SIGSTOP)
        torch.set_num_threads(1)
        work(arguments)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except LookalikeError as error:  # from ``embed`` and ``save``; commands tell it themselves
        os.write(output, f"error: {error}\n".encode())
        code = 2
    except BaseException:
        os.write(output, traceback.format_exc().encode())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(code or 0)


def _follow(pid: int, folder: bytes, kill_at: int | None) -> tuple[int, int]:
    """Counts the calls of a traced process; returns their number and the process's status."""
    os.waitpid(pid, 0)
    _LIBC.ptrace(_SET_OPTIONS, pid, None, ctypes.c_void_p(_GOOD | _KILL_WITH_TRACER))
    calls, info, n_calls, deliver = _CALLS[platform.machine()], ctypes.create_string_buffer(88), 0, 0
    while True:
        _LIBC.ptrace(_SYSCALL, pid, None, ctypes.c_void_p(deliver))
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status):
            return n_calls, status
        deliver = 0 if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80 else os.WSTOPSIG(status)
        if deliver:
            continue
        _LIBC.ptrace(_SYSCALL_INFO, pid, ctypes.c_void_p(len(info)), ctypes.addressof(info))
        entering, number, *arguments = struct.unpack_from("<B23xQ6Q", info.raw)
        if entering != 1 or number not in calls or not changes(pid, calls[number], arguments, folder):
            continue
        n_calls += 1
        if n_calls == kill_at:
            os.kill(pid, signal.SIGKILL)
            return n_calls, os.waitpid(pid, 0)[1]


def changes(pid: int, kind: str, arguments: list[int], folder: bytes) -> bool:
    """Says whether a call changes something below a folder."""
    value = arguments[int(kind[-1])]
    try:
        if kind.startswith("fd"):
            return bytes(Path(f"/proc/{pid}/fd/{value}").readlink()).startswith(folder)
        if kind.startswith("open") and not arguments[int(kind[-1]) + 1] & _WRITING:
            return False
        path = _text_at(pid, value)
        if path.startswith(b"/") or kind[-1] == "0":
            return path.startswith(folder)
        directory = struct.unpack("<i", struct.pack("<I", arguments[0] & 0xFFFFFFFF))[0]
        link = f"/proc/{pid}/cwd" if directory == -100 else f"/proc/{pid}/fd/{directory}"  # rmtree's, by descriptor
        return bytes(Path(link).readlink()).startswith(folder)
    except OSError:
        return False


def _text_at(pid: int, address: int) -> bytes:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        text = memory.read(4096 - address % 4096)  # up to the end of its page, and then the next one
        if b"\0" not in text:
            text += memory.read(4096)
        return text.partition(b"\0")[0]


def snapshot(folder: Path) -> dict[str, str]:
    """Returns a fingerprint of each file below a folder, seconds aside, and of each empty folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file():
            found[name] = hashlib.sha256(_timeless(path)).hexdigest()
        elif not path.is_dir():
            found[name] = "a link to nothing, or a pipe"
        elif not any(path.iterdir()):
            found[name] = "an empty folder"
    return found


def _timeless(path: Path) -> bytes:
    """Returns a file's bytes without how long something took, and without checksums of files that say so."""
    content = path.read_bytes()
    if path.name == "training.csv":
        rows = list(csv.DictReader(io.StringIO(content.decode())))
        return json.dumps([{name: value for name, value in row.items() if name != "seconds"} for row in rows]).encode()
    if path.suffix == ".md":
        return _SECONDS.sub(b"", content)
    if path.suffix != ".json":
        return content
    with contextlib.suppress(ValueError):
        values = json.loads(content)
        _without_seconds(values)
        if path.name == "config.json":
            del values["fingerprint"], values["files"]
        return json.dumps(values, sort_keys=True).encode()
    return content


def _without_seconds(value: object) -> None:
    if isinstance(value, dict):
        for name in [name for name in value if name.endswith("seconds")]:
            del value[name]
        for inner in value.values():
            _without_seconds(inner)


def prepare(root: Path) -> Path:
    """Makes the images, the network and the models that jobs start from."""
    ready = root / "ready"
    rng = np.random.default_rng(0)
    for part, number in (("train", 4), ("test", 2)):
        for k, name in enumerate(["ant", "bee", "cat"]):
            (ready / "images" / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 60, (16, 16, 3), dtype=np.uint8)
                pixels[..., k] += 190
                Image.fromarray(pixels).save(ready / "images" / part / name / f"{i:02d}.png")
    torch.manual_seed(0)
    spec = {"source": "lookalike", "name": "small-cnn", "args": {"n_classes": 3, "width": 4}}
    network = NETWORKS["small-cnn"](n_classes=3, width=4).eval()
    preprocessing = Preprocessing.square(16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    save_classifier(LoadedClassifier(network, spec, preprocessing, ["ant", "bee", "cat"]), ready / "net")
    for arguments in (
        ["convert", f"{ready}/net", f"{ready}/images", "-o", f"{ready}/model", "--n-prototypes", "1"],
        ["convert", f"{ready}/net", f"{ready}/images", "-o", f"{ready}/other", "--n-prototypes", "2"],
        ["embed", f"{ready}/net", f"{ready}/images", f"{ready}/store"],
    ):
        code, _, printed = run(arguments, ready, traced=False)
        assert code == 0, printed
    return ready


@contextlib.contextmanager
def trial(job: Job, ready: Path, root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yields a folder with what a job starts from, and the job's arguments for it.

    The folder has the same name in every trial, as results may name their inputs.
    """
    folder = root / "trial"
    folder.mkdir()
    shutil.copytree(ready / "images", folder / "images")
    for name, source in job.start.items():
        shutil.copytree(ready / source, folder / name)
    try:
        yield folder, [argument.replace("{}", str(folder)) for argument in job.arguments]
    finally:
        shutil.rmtree(folder)


def undisturbed(job: Job, ready: Path, root: Path) -> tuple[dict[str, str], int]:
    """Runs a job to its end; returns what it leaves and how many calls it makes."""
    with trial(job, ready, root) as (folder, arguments):
        code, n_calls, printed = run(arguments, folder)
        assert code == 0, printed
        return snapshot(folder), n_calls


def kill_and_repeat(job: Job, ready: Path, root: Path, kill_at: int, expected: dict[str, str]) -> str:
    """Kills a job, and repeats it; returns what is wrong, or nothing."""
    temporary = set(Path(tempfile.gettempdir()).iterdir())
    with trial(job, ready, root) as (folder, arguments):
        code, _, printed = run(arguments, folder, kill_at)
        if code != -signal.SIGKILL:
            return f"it was not killed but ended with {code}: {printed[-300:]}"
        if job.always is not None:
            try:
                load(folder / job.always)
            except LookalikeError as error:
                return f"at the kill there was no model: {error}"
        code, _, printed = run(arguments, folder, traced=False)
        complete = "exists already" in printed  # the kill came after the last step that counts
        if code != 0 and not (code == 2 and complete):
            return f"repeated, it ended with {code}: {printed[-500:]}"
        found = snapshot(folder)
        if found != expected:
            names = sorted(name for name in {**found, **expected} if found.get(name) != expected.get(name))
            told = [f"{name} ({_fate(name, found, expected)})" for name in names]
            return f"afterwards {', '.join(told[:6])}"
    left = [path.name for path in set(Path(tempfile.gettempdir()).iterdir()) - temporary if "lookalike" in path.name]
    return f"left in the temporary folder: {', '.join(left)}" if left else ""


def _fate(name: str, found: dict[str, str], expected: dict[str, str]) -> str:
    return "left" if name not in expected else "lost" if name not in found else "other"


def main() -> int:
    """Kills and repeats; prints what came of it; returns 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", action="append", choices=JOBS, help="these jobs alone")
    given = parser.parse_args()
    warm_up()
    names = given.job or list(JOBS)
    wrong: collections.Counter[str] = collections.Counter()
    total, started = 0, time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        ready = prepare(root)
        for position, name in enumerate(names):
            expected, n_calls = undisturbed(JOBS[name], ready, root)
            share = (given.number - total) // (len(names) - position)
            chance = random.Random(f"{given.seed}/{name}")
            chosen = sorted(chance.sample(range(1, n_calls + 1), min(share, n_calls)))
            for kill_at in chosen:
                message = kill_and_repeat(JOBS[name], ready, root, kill_at, expected)
                if message:
                    wrong[name] += 1
                    print(f"{name}, call {kill_at} of {n_calls}: {message}", flush=True)
            total += len(chosen)
            print(f"{name}: {len(chosen)} kills among {n_calls} calls, {wrong[name]} wrong", flush=True)
    print(f"{total} kills, {sum(wrong.values())} wrong, {time.monotonic() - started:.0f} s")
    return 1 if wrong else 0


def warm_up() -> None:
    """Imports what jobs need, so that no fork has to."""
    import lightning.pytorch  # noqa: F401

    import lookalike.baselines
    import lookalike.metrics
    import lookalike.plots  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
