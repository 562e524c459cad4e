"""The page of what is read and refused names a test that exists for each line."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROWS = [
    line.strip().strip("|").split("|")
    for line in (ROOT / "docs/reference/inputs.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("|") and not re.match(r"\|(---|\s*what\s*\|)", line)
]


def _functions(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if hasattr(node, "name")}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip()[:60])
def test_each_line_names_a_test(row: list[str]) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row[-1])
    assert named, f"no test named: {row[0]}"
    for file, function in named:
        assert function in _functions(ROOT / file), f"{file} has no {function}"
