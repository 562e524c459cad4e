"""Reads the code out of the documentation's pages, and prepares what it speaks of."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "docs" / "tutorial.md", *sorted((ROOT / "docs" / "how-to").glob("*.md"))]
_BLOCK = re.compile(r"^(?P<indent>[ \t]*)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```[ \t]*$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        language: ``"sh"``, ``"python"``, or another one.
        code: Without the indentation of the block.
        line: Where it begins.
    """

    language: str
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """Returns a page's blocks of code, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            match["language"],
            re.sub(rf"^{match['indent']}", "", match["code"], flags=re.M),
            text.count("\n", 0, match.start("code")) + 1,
        )
        for match in _BLOCK.finditer(text)
    ]


def commands_of(page: Path) -> list[str]:
    """Returns the commands in a page's shell blocks, one a line, without comments."""
    commands = []
    for block in blocks_of(page):
        if block.language in ("sh", "bash", "shell", "console"):
            lines = block.code.replace("\\\n", " ").splitlines()
            words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
            commands += [shlex.join(line) for line in words if line]
    return commands


def python_of(page: Path) -> str:
    """Returns a page's Python blocks as one program whose lines have the page's numbers."""
    lines: list[str] = []
    for block in blocks_of(page):
        if block.language in ("python", "py"):
            lines += [""] * (block.line - 1 - len(lines)) + block.code.splitlines()
    return "\n".join(lines)
