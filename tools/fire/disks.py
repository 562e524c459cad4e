"""Jobs whose disk is full from some write on, and repeated with room.

The job is traced: from a random write below its folder on, each write fails with "No space left on device", whatever
library it comes from. It must end in one line, without a traceback; what was there before is as it was, to the bit; and
repeated with room, its results are those of an undisturbed run.
"""

import ctypes
import errno
import os
import platform
import random
import signal
import struct
import tempfile
from pathlib import Path

from tools.fire.results import Result, Shard
from tools.kill_anywhere import JOBS, Job, changes, prepare, run_traced, snapshot, trial, undisturbed, warm_up

CAN_FILL = platform.machine() == "x86_64"
_WRITES = {1, 18, 20, 77, 285, 296}  # write, pwrite64, writev, ftruncate, fallocate, pwritev of x86-64
_POKE_USER, _SYSCALL, _SYSCALL_INFO, _SET_OPTIONS = 6, 24, 0x420E, 0x4200
_GOOD_AND_KILL = 1 | 0x100000
_NUMBER, _RETURNED = 120, 80  # orig_rax and rax among the registers
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_LIBC.ptrace.restype = ctypes.c_long

MORE_JOBS: dict[str, Job] = {
    "explain over old pictures": Job(
        ["explain", "{}/model", "{}/images/test", "-o", "{}/pictures", "--no-maps", "--overwrite"],
        {"model": "model", "pictures": "pictures"},
    ),
    "report over an old one": Job(
        ["report", "{}/model", "{}/images", "-o", "{}/out/report.html", "--images", "2", "--overwrite"],
        {"model": "model", "out": "out"},
    ),
    "evaluate over an old card": Job(
        ["evaluate", "{}/model", "{}/images", "-o", "{}/out/card.json", "--only", "diversity", "--overwrite"],
        {"model": "model", "out": "out"},
    ),
}


def fill_at(first: int | None) -> "Filler":
    """Returns what lets writes fail from the ``first``-th on; None counts them."""
    return Filler(first)


class Filler:
    """Follows a traced process, and lets its writes below a folder fail.

    Attributes:
        writes: How many there were.
    """

    def __init__(self, first: int | None) -> None:
        self.first = first
        self.writes = 0

    def __call__(self, pid: int, folder: bytes) -> tuple[int, int]:
        """Returns the number of writes and the process's status."""
        os.waitpid(pid, 0)
        _LIBC.ptrace(_SET_OPTIONS, pid, None, ctypes.c_void_p(_GOOD_AND_KILL))
        info, deliver, failing = ctypes.create_string_buffer(88), 0, False
        while True:
            _LIBC.ptrace(_SYSCALL, pid, None, ctypes.c_void_p(deliver))
            _, status = os.waitpid(pid, 0)
            if not os.WIFSTOPPED(status):
                return self.writes, status
            deliver = 0 if os.WSTOPSIG(status) == signal.SIGTRAP | 0x80 else os.WSTOPSIG(status)
            if deliver:
                continue
            _LIBC.ptrace(_SYSCALL_INFO, pid, ctypes.c_void_p(len(info)), ctypes.addressof(info))
            kind, number, *arguments = struct.unpack_from("<B23xQ6Q", info.raw)
            if failing:  # the exit of a call that was taken away
                _LIBC.ptrace(_POKE_USER, pid, ctypes.c_void_p(_RETURNED), ctypes.c_void_p(2**64 - errno.ENOSPC))
                failing = False
            elif kind == 1 and number in _WRITES and changes(pid, "fd0", arguments, folder):
                self.writes += 1
                if self.first is not None and self.writes >= self.first:
                    _LIBC.ptrace(_POKE_USER, pid, ctypes.c_void_p(_NUMBER), ctypes.c_void_p(2**64 - 1))
                    failing = True


def fill_and_repeat(job: Job, ready: Path, root: Path, first: int, expected: dict[str, str]) -> str:
    """Runs a job on a disk that becomes full, and again with room; returns what is wrong, or nothing."""
    with trial(job, ready, root) as (folder, arguments):
        before = snapshot(folder)
        code, _, printed = run_traced(arguments, folder, fill_at(first))
        if "Traceback" in printed or code not in (0, 2):
            return f"on a full disk it ended with {code}: {printed[-500:]}"
        after = snapshot(folder)
        lost = [name for name in before if after.get(name) != before[name]]
        if code == 2 and lost:
            return f"on a full disk it lost {', '.join(lost[:5])}"
        if code == 0 and after != expected:
            return f"on a full disk it ended with 0, and its results are others: {printed[-300:]}"
        code, _, printed = run_traced(arguments, folder, fill_at(None))
        if code != 0 and not (code == 2 and "exists already" in printed):
            return f"repeated with room, it ended with {code}: {printed[-500:]}"
        repeated = snapshot(folder)
        names = sorted(name for name in {**repeated, **expected} if repeated.get(name) != expected.get(name))
        return f"repeated with room, it left other {', '.join(names[:5])}" if names else ""


def count_writes(job: Job, ready: Path, root: Path) -> int:
    """Returns how many writes an undisturbed job makes."""
    with trial(job, ready, root) as (folder, arguments):
        return run_traced(arguments, folder, fill_at(None))[1]


def run(shard: Shard) -> Result:
    """Fills disks."""
    result = Result("full disks")
    if not CAN_FILL:
        print("full disks: only on x86-64, where a traced call can be taken away")
        return result
    warm_up()
    jobs = {**JOBS, **MORE_JOBS}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        ready = prepare(root)
        prepare_more(ready)
        for position, (name, job) in enumerate(jobs.items()):
            mine = len(range(shard.index, (shard.number + position) // len(jobs), shard.count))
            if not mine or shard.over:
                continue
            expected, _ = undisturbed(job, ready, root)
            n_writes = count_writes(job, ready, root)
            chance = random.Random(f"{shard.seed}/{shard.index}/{name}")
            for _ in range(mine):
                if shard.over:
                    break
                first = chance.randint(1, n_writes)
                message = fill_and_repeat(job, ready, root, first, expected)
                result.add(message and f"{name}, write {first} of {n_writes}: {message}")
    return result


def prepare_more(ready: Path) -> None:
    """Makes the old pictures, report and scorecard that jobs write over."""
    (ready / "out").mkdir()
    (ready / "out" / "report.html").write_text("an old report")
    (ready / "out" / "card.json").write_text("{}")
    arguments = ["explain", f"{ready}/model", f"{ready}/images/test/ant", "-o", f"{ready}/pictures", "--no-maps"]
    code, _, printed = run_traced(arguments, ready, fill_at(None))
    assert code == 0, printed
