"""The campaign: kills, interrupts, full disks, pairs of processes, hostile folders. Exit code 1 if anything broke.

    python tools/under_fire.py                                      all parts at full length: hours
    python tools/under_fire.py --part kills --number 50             one part
    python tools/under_fire.py --part disks --shard 2/4             the second quarter of a part
    python tools/under_fire.py --minutes 10                         all parts, none of which begins a trial after 10 min

The seed fixes the trials of each shard, whatever the time allows of them. One process runs at a time (two in a pair).
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.fire import disks, folders, interrupts, kills, pairs
from tools.fire.results import Result, Shard, table

PARTS: dict[str, tuple[Callable[[Shard], Result], int]] = {
    "kills": (kills.run, 1_000),
    "interrupts": (interrupts.run, 3_000),
    "disks": (disks.run, 300),
    "pairs": (pairs.run, 60),
    "folders": (folders.run_part, 500),
}


def shard_of(text: str) -> tuple[int, int]:
    """Reads ``2/4``: the second of four shards."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"a shard is I/N with 1 ≤ I ≤ N, not {text!r}")
    return int(index) - 1, int(count)


def main() -> int:
    """Runs the parts and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=PARTS, help="these parts alone")
    parser.add_argument("--number", type=int, help="trials of each part, in all shards together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", type=shard_of, default=(0, 1), metavar="I/N", help="do one of N shards")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="for each part")
    given = parser.parse_args()
    results = []
    for name in given.part or PARTS:
        run, number = PARTS[name]
        index, count = given.shard
        number = number if given.number is None else given.number
        results.append(run(Shard(number, given.seed, index, count, 60 * given.minutes)))
        print(table(results[-1:]), flush=True)
    print(f"\n{table(results)}")
    return 1 if any(result.broke for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
