"""How long people wait for a command, beyond importing torch: processor time, so that a shared machine does not count.

    python benchmarks/waits.py MODEL IMAGES [--network SPEC] [--report]

MODEL is a saved model, IMAGES a folder that 'evaluate' would take. Prints Markdown. Both user and system time of all
threads count; on n idle cores the wait is shorter by up to n.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from common import machine, table


def cpu_seconds(*command: str) -> float:
    """Returns the processor time of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Runs all and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("--network")
    parser.add_argument("--report", action="store_true", help="also write a report, which takes long")
    given = parser.parse_args()
    network = ["--network", given.network] if given.network else []
    image = next(path for path in sorted(Path(given.images).rglob("*")) if path.suffix in (".jpg", ".jpeg", ".png"))
    lookalike = [sys.executable, "-m", "lookalike"]
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "import torch, torchvision": [sys.executable, "-c", "import torch, torchvision"],
            "predict, one image": [*lookalike, "predict", given.model, str(image), *network],
            "explain, one image": [*lookalike, "explain", given.model, str(image), "-o", f"{folder}/e", *network],
        }
        if given.report:
            commands["report"] = [*lookalike, "report", given.model, given.images, "-o", f"{folder}/r.html", *network]
        seconds = {name: cpu_seconds(*command) for name, command in commands.items()}
    base = seconds["import torch, torchvision"]
    rows = [[name, f"{taken:.1f} s", f"{taken - base:.1f} s"] for name, taken in seconds.items()]
    print(f"# Waits\n\n{machine()}\n")
    print(table("Processor time", ["", "whole", "beyond importing torch"], rows))


if __name__ == "__main__":
    main()
