"""Two processes that do the same job on one folder at the same time.

Each ends well or is refused in one line, at least one ends well, and afterwards the folder holds what a single
undisturbed process leaves.
"""

import os
import random
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from tools.fire.results import Result, Shard
from tools.kill_anywhere import JOBS, Job, child, prepare, snapshot, trial, undisturbed, warm_up

_HANGS = 120.0  # seconds


def start(arguments: list[str]) -> tuple[int, BinaryIO]:
    """Starts a job in a fork; returns its process and the file that it prints to."""
    printed = tempfile.TemporaryFile()  # noqa: SIM115 - closed where it is read
    pid = os.fork()
    if pid == 0:
        child(arguments, printed.fileno(), traced=False)
    return pid, printed


def finish(pid: int, printed: BinaryIO) -> tuple[int, str]:
    """Waits for a job; returns its exit code and what it printed. One that hangs is killed."""
    until = time.monotonic() + _HANGS
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        if time.monotonic() > until:
            os.kill(pid, 9)
            _, status = os.waitpid(pid, 0)
            break
        time.sleep(0.01)
    with printed:
        printed.seek(0)
        return os.waitstatus_to_exitcode(status), printed.read().decode(errors="replace")


def run_pair(job: Job, ready: Path, root: Path, delay: float, expected: dict[str, str]) -> str:
    """Starts a job twice, the second one later; returns what is wrong, or nothing."""
    with trial(job, ready, root) as (folder, arguments):
        first = start(arguments)
        time.sleep(delay)
        second = start(arguments)
        ends = [finish(*first), finish(*second)]
        for code, printed in ends:
            if code not in (0, 2) or "Traceback" in printed:
                return f"one ended with {code}: {printed[-400:]}"
        if all(code for code, _ in ends):
            return f"neither ended well: {ends[0][1][-200:]} / {ends[1][1][-200:]}"
        after = snapshot(folder)
        names = sorted(name for name in {**after, **expected} if after.get(name) != expected.get(name))
        return f"afterwards other {', '.join(names[:5])} (exit codes {[code for code, _ in ends]})" if names else ""


def run(shard: Shard) -> Result:
    """Starts pairs, the second process at a random moment of the first one's run."""
    result = Result("pairs")
    warm_up()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        ready = prepare(root)
        for position, (name, job) in enumerate(JOBS.items()):
            mine = len(range(shard.index, (shard.number + position) // len(JOBS), shard.count))
            if not mine or shard.over:
                continue
            expected, _ = undisturbed(job, ready, root)
            with trial(job, ready, root) as (_, arguments):
                started = time.monotonic()
                finish(*start(arguments))
                seconds = time.monotonic() - started
            chance = random.Random(f"{shard.seed}/{shard.index}/{name}")
            for _ in range(mine):
                if shard.over:
                    break
                delay = chance.choice([0.0, chance.uniform(0, seconds)])
                message = run_pair(job, ready, root, delay, expected)
                result.add(message and f"{name}, the second one after {delay:.2f} s: {message}")
    return result
