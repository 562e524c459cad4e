"""Measures how hard the code is to enter: rooms, sizes, names, comments, repetition, files that a call visits.

python tools/house.py            a table, for `src/lookalike`
python tools/house.py FOLDER     for the package in another folder, to compare (without the visited files)
"""

import ast
import io
import statistics
import sys
import tokenize
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from vague_names import SOURCE, VAGUE, assigned, files_of

REPEATED = 6  # lines that are the same in two places
MOST_PARAMETERS = 8  # of a public function


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yields every function of a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def n_lines_of_body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Counts the lines of a function's statements: its signature and docstring, which are read for their own, aside."""
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - statements[0].lineno + 1 if statements else 0


def n_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Counts parameters, self and cls aside."""
    arguments = function.args
    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return len([one for one in every if one.arg not in ("self", "cls")]) + (arguments.kwarg is not None)


def wide_functions(source: Path = SOURCE) -> list[str]:
    """Lists the public functions and constructors with more than MOST_PARAMETERS parameters, commands aside."""
    return [
        f"{function.name} in {file.relative_to(source)}: {n_parameters(function)}"
        for file in files_of([source])
        if "cli" not in file.relative_to(source).parts and not file.name.startswith("_")
        for function in functions(ast.parse(file.read_text()))
        if n_parameters(function) > MOST_PARAMETERS
        and (function.name == "__init__" or not function.name.startswith("_"))
    ]


def comment_lines(text: str) -> int:
    """Counts lines that are a comment and nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return sum(token.type == tokenize.COMMENT and token.line.lstrip().startswith("#") for token in tokens)


def repeated_blocks(texts: dict[str, str]) -> int:
    """Counts runs of REPEATED or more lines of code that stand in two places."""
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for file, text in texts.items():
        lines = [line.strip() for line in text.splitlines()]
        code = [
            (number, line)
            for number, line in enumerate(lines)
            if len(line) > 3 and not line.startswith(("#", "from ", "import "))
        ]
        for start in range(len(code) - REPEATED + 1):
            block = tuple(line for _, line in code[start : start + REPEATED])
            places[block].append((file, start))
    starts = {place for found in places.values() if len(found) > 1 for place in found[1:]}
    return sum((file, start - 1) not in starts for file, start in starts)


def visited(call: Callable[[], Any]) -> int:
    """Counts the package's files whose functions run during a call."""
    files: set[str] = set()

    def watch(frame: Any, event: str, _argument: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(SOURCE)) and frame.f_code.co_name not in ("<module>", "<lambda>"):
            files.add(name)

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return len(files)


def walks() -> dict[str, int]:
    """Counts the files that a conversion, an explanation with heat-maps and an evaluation visit."""
    import torch
    from torch import nn

    from lookalike import convert, evaluate, explain

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    x, y = torch.rand(60, 1, 8, 8), torch.arange(60) % 2
    sem = convert(net, (x, y), n_prototypes=2, progress=False)
    return {
        "convert": visited(lambda: convert(net, (x, y), n_prototypes=2, progress=False)),
        "explain": visited(lambda: explain(sem, x[:2], relevance=True)),
        "evaluate": visited(lambda: evaluate(sem, (x, y), train=(x, y), n_images=4, progress=False)),
    }


def main() -> None:
    """Prints the table."""
    source = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else SOURCE
    texts = {str(file.relative_to(source)): file.read_text() for file in files_of([source])}
    trees = {file: ast.parse(text) for file, text in texts.items()}
    lengths = {file: len(text.splitlines()) for file, text in texts.items()}
    every = [(file, function) for file, tree in trees.items() for function in functions(tree)]
    command = {file for file in texts if file.startswith("cli/")}
    longest = max(every, key=lambda one: n_lines_of_body(one[1]))
    library = [(file, function) for file, function in every if file not in command]
    widest = max(library, key=lambda one: n_parameters(one[1]))
    names = [name.id for tree in trees.values() for name in assigned(tree)]
    n_lines = sum(lengths.values())
    rows: list[tuple[str, Any]] = [
        ("modules at the top", sum("/" not in file and not file.startswith("__") for file in texts)),
        ("packages at the top", len({file.split("/")[0] for file in texts if "/" in file})),
        ("files", len(texts)),
        ("median file, lines", statistics.median(lengths.values())),
        ("longest file", "{} ({})".format(*max(lengths.items(), key=lambda item: item[1]))),
        ("files over 300 lines", sum(length > 300 for length in lengths.values())),
        ("longest function, statements", f"{longest[1].name} in {longest[0]}: {n_lines_of_body(longest[1])}"),
        (
            "longer than 60 lines, docstring and signature too",
            sum((fn.end_lineno or 0) - fn.lineno >= 60 for _, fn in library),
        ),
        ("most parameters, commands aside", f"{widest[1].name} in {widest[0]}: {n_parameters(widest[1])}"),
        (f"public functions of more than {MOST_PARAMETERS} parameters", len(wide_functions(source))),
        ("vague names, % of assignments", f"{100 * sum(name in VAGUE for name in names) / len(names):.1f}"),
        ("comment lines per 100", f"{100 * sum(map(comment_lines, texts.values())) / n_lines:.1f}"),
        (f"repeated blocks of {REPEATED} lines and more", repeated_blocks(texts)),
        ("Any", sum(text.count("Any") for text in texts.values())),
        ("noqa", sum(text.count("noqa") for text in texts.values())),
    ]
    if source == SOURCE:
        rows += [(f"files that {name} visits", count) for name, count in walks().items()]
    for what, value in rows:
        print(f"{what:50} {value}")


if __name__ == "__main__":
    main()
