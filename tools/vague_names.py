"""Counts the assignments whose names say nothing of the value. Exit code 1 if they are more than allowed.

    python tools/vague_names.py                  share per package; exit code 1 above the bar
    python tools/vague_names.py FILE...          each line, in these files or folders

A name should say what the value is: ``nearest_index`` and not ``place``, ``prototypes_of_class`` and not ``found``.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "lookalike"
ALLOWED = 0.02

VAGUE = frozenset(
    [
        "all_of_it",
        "any_one",
        "any_of",
        "chosen",
        "done",
        "each",
        "each_one",
        "every",
        "everything",
        "found",
        "given",
        "got",
        "held",
        "it",
        "kept",
        "known",
        "left",
        "made",
        "mine",
        "more",
        "one",
        "ones",
        "other",
        "others",
        "own",
        "part",
        "parts",
        "place",
        "placed",
        "put",
        "rest",
        "said",
        "seen",
        "shown",
        "some",
        "something",
        "such",
        "taken",
        "that",
        "their",
        "theirs",
        "them",
        "these",
        "they",
        "thing",
        "things",
        "this",
        "those",
        "told",
        "used",
        "wanted",
        "what",
        "whatever",
        "which",
        "whole",
    ]
)


def assigned(tree: ast.AST) -> Iterator[ast.Name]:
    """Yields every name that a module binds to a value, arguments aside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id != "_":
            yield node


def files_of(paths: list[Path]) -> list[Path]:
    """Lists Python files."""
    return sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py")))


def main() -> int:
    """Prints the table, or the lines."""
    asked = [Path(argument) for argument in sys.argv[1:]]
    totals: Counter[str] = Counter()
    vague: Counter[str] = Counter()
    for file in files_of(asked or [SOURCE]):
        room = file.relative_to(SOURCE).parts[0] if file.is_relative_to(SOURCE) else file.name
        for name in assigned(ast.parse(file.read_text())):
            totals[room] += 1
            if name.id in VAGUE:
                vague[room] += 1
                if asked:
                    print(f"{file}:{name.lineno}: {name.id}")
    share = vague.total() / max(1, totals.total())
    if not asked:
        for room in sorted(totals, key=lambda room: -vague[room]):
            print(f"{room:20} {vague[room]:5} of {totals[room]:5}  {100 * vague[room] / totals[room]:5.1f}%")
    print(f"{vague.total()} of {totals.total()} assignments ({100 * share:.1f}%) are to names that say nothing")
    return int(not asked and share > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
