"""What a conversion and an explanation spend their time on, as ``--profile`` tells.

    python benchmarks/costs.py [--quick]

Prints Markdown. ResNet34 at 224² and photographs in files, from the command line.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torchvision

sys.path.insert(0, str(Path(__file__).parent))

from common import machine, table
from embedding import MEAN, STD, write_photographs

N_EXPLAINED = 8
NETWORK = f"""
import torchvision
from lookalike.data import Preprocessing


def make():
    return torchvision.models.resnet34(weights=None), Preprocessing.square(224, mean={MEAN}, std={STD})
"""


def steps(folder: Path, *arguments: str) -> list[list[str]]:
    """Runs a command with ``--profile``; returns its largest steps with their seconds and shares."""
    command = [sys.executable, "-m", "lookalike", *arguments, "--profile", f"{arguments[0]}.json"]
    told = subprocess.run(command, cwd=folder, check=True, text=True, capture_output=True)
    found = re.findall(r"^ +([\d.]+ s) +([\d.]+%)  (.+?)$", told.stdout + told.stderr, re.MULTILINE)
    return [[name, seconds, share] for seconds, share, name in found]


def main() -> None:
    """Runs both and prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer images")
    number = 60 if parser.parse_args().quick else 400
    print(f"# Costs\n\n{machine()}\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photographs(folder / "photographs" / "train", number)
        write_photographs(folder / "photographs" / "test", 2 * N_EXPLAINED)
        (folder / "network.py").write_text(NETWORK)
        torch.manual_seed(0)
        torch.save(torchvision.models.resnet34().state_dict(), folder / "weights.pth")
        headers = ["step", "time", "of all"]
        convert = ["convert", "network.py:make", "photographs", "--weights", "weights.pth", "-o", "model"]
        print(table(f"Conversion with {number} photographs, ResNet34 at 224²", headers, steps(folder, *convert)))
        explain = ["explain", "model", "photographs/test/0", "-o", "pictures", "--network", "network.py:make"]
        title = f"Explanation of {N_EXPLAINED} photographs, three prototypes each, ResNet34 at 224²"
        print(table(title, headers, steps(folder, *explain)))


if __name__ == "__main__":
    main()
