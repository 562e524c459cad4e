"""Exceptions at random moments of calls, and second ones while the first are dealt with."""

import random
import tempfile
import warnings
from pathlib import Path

import torch
from tests.interruptions import interrupt
from tests.small import small_network
from tools.fire.results import Result, Shard
from tools.interrupt_anywhere import calls


def run(shard: Shard) -> Result:
    """Interrupts each call at random lines and instructions, half of the times twice."""
    result = Result("interrupts")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    net = small_network()
    with tempfile.TemporaryDirectory() as folder:
        todo = calls(net, Path(folder))
        for position, (name, call) in enumerate(todo.items()):
            mine = len(range(shard.index, (shard.number + position) // len(todo), shard.count))
            for number in range(4):
                share = (mine + number) // 4
                if not share or shard.over:
                    continue
                chance = random.Random(f"{shard.seed}/{shard.index}/{name}/{number}")
                twice = number >= 2
                _, done, changed = interrupt(call, net, share, instructions=number % 2 == 1, chance=chance, twice=twice)
                for line in changed:
                    result.add(f"{name}{', twice' if twice else ''}: {line}")
                result.tried += done - len(changed)
    return result
