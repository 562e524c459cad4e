"""How long help and import take, beside the imports that cannot be avoided.

    python benchmarks/startup.py [--quick]

Prints Markdown.
"""

import argparse
import functools
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import machine, ratio, side_by_side, table


def run(*command: str) -> None:
    """Runs a command to its end."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Runs all and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 3 if parser.parse_args().quick else 11
    python = sys.executable
    commands = {
        "lookalike --help": (python, "-m", "lookalike", "--help"),
        "import torch, torchvision": (python, "-c", "import torch, torchvision"),
        "import lookalike": (python, "-c", "import lookalike"),
    }
    times = side_by_side([functools.partial(run, *command) for command in commands.values()], repeats)
    rows = [[name, f"{statistics.median(t):.2f} s"] for name, t in zip(commands, times, strict=True)]
    rows.append(["import lookalike / import torch, torchvision", f"{ratio(times[2], times[1]):.2f}"])
    print(f"# Start\n\n{machine()}\n")
    print(table(f"Whole processes (median of {repeats})", ["", ""], rows))


if __name__ == "__main__":
    main()
