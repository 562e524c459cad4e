"""Jobs killed at a system call, and repeated."""

import random
import tempfile
from pathlib import Path

from tools.fire.results import Result, Shard
from tools.kill_anywhere import JOBS, kill_and_repeat, prepare, undisturbed, warm_up


def run(shard: Shard) -> Result:
    """Kills jobs before calls that change files; see ``tools/kill_anywhere.py``."""
    result = Result("kills")
    warm_up()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place).resolve()
        ready = prepare(root)
        for position, name in enumerate(JOBS):
            share = (shard.number + position) // len(JOBS)
            mine = len(range(shard.index, share, shard.count))
            if not mine or shard.over:
                continue
            expected, n_calls = undisturbed(JOBS[name], ready, root)
            chance = random.Random(f"{shard.seed}/{shard.index}/{name}")
            for _ in range(mine):
                if shard.over:
                    break
                kill_at = chance.randint(1, n_calls)
                message = kill_and_repeat(JOBS[name], ready, root, kill_at, expected)
                result.add(message and f"{name}, call {kill_at} of {n_calls}: {message}")
    return result
