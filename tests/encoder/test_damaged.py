"""A sample of what ``tools/fuzz_checkpoints.py`` tries."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from fuzz_checkpoints import fuzz


def test_damaged_checkpoints_are_read_or_refused(tmp_path):
    said: list[str] = []
    assert fuzz(150, 1, tmp_path, said.append) == 0, said
    assert said[-1].startswith("150 files: 0 wrong")
