"""Which tests run a line of the package, and how long each takes. tools/mutants.py asks it which tests to run.

    pip install pytest-cov
    python tools/covering.py      # runs the quick tests once, under coverage, and keeps what they ran in .covering/

A module that changes later needs it again.
"""

import ast
import collections
import hashlib
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest
from coverage import Coverage, CoverageData

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/lookalike"
FOLDER = ROOT / ".covering"
_DATA, _TIMES, _SOURCES = "coverage.sqlite", "junit.xml", "sources.json"
_UNKNOWN = 0.1  # seconds of a test whose time was not recorded
_WITHOUT = ("tests/conversion/test_distributed.py",)  # its nodes are processes that no coverage sees


def main() -> None:
    """Runs the tests that are not slow under coverage, with a context for each test."""
    FOLDER.mkdir(exist_ok=True)
    sources = {path.relative_to(PACKAGE).as_posix(): _digest(path) for path in sorted(PACKAGE.rglob("*.py"))}
    (FOLDER / _SOURCES).write_text(json.dumps(sources))
    options = ["-n", "2", "--dist", "worksteal", "-q", "-m", "not slow", *(f"--ignore={path}" for path in _WITHOUT)]
    options += ["-p", "tools.covering", "--cov=lookalike", "--cov-context=test", "--cov-report="]
    options += [f"--junitxml={FOLDER / _TIMES}", "-o", "junit_family=xunit1"]
    environment = os.environ | {"COVERAGE_FILE": str(FOLDER / _DATA), "OMP_NUM_THREADS": "1"}
    sys.exit(subprocess.run([sys.executable, "-m", "pytest", *options], cwd=ROOT, env=environment).returncode)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:  # noqa: ARG001 - the hook's contract
    """Sees to it that a test's fixtures are traced."""
    _trace_again()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:  # noqa: ARG001 - the hook's contract
    """Sees to it that a test is traced."""
    _trace_again()


def _trace_again() -> None:
    """Starts the tracer again where a test has ended it: Playwright's greenlets do, for all tests that follow."""
    coverage = Coverage.current()
    if coverage is not None and sys.gettrace() is None:
        coverage.stop()
        coverage.start()


@dataclass(frozen=True)
class Covering:
    """What the tests ran, by line.

    Attributes:
        folder: What :func:`main` has written.
    """

    folder: Path = FOLDER

    @cached_property
    def _data(self) -> CoverageData:
        if not (self.folder / _DATA).exists():
            sys.exit("nothing tells which tests run a line: first run python tools/covering.py")
        data = CoverageData(str(self.folder / _DATA))
        data.read()
        return data

    @cached_property
    def _sources(self) -> Mapping[str, str]:
        return dict(json.loads((self.folder / _SOURCES).read_text()))

    @cached_property
    def seconds(self) -> Mapping[str, float]:
        """Time of each test, by its pytest name."""
        cases = ElementTree.parse(self.folder / _TIMES).iter("testcase")
        return {_name(case): float(case.get("time", _UNKNOWN)) for case in cases}

    @cached_property
    def _tests_by_file(self) -> Mapping[str, list[str]]:
        by_file: dict[str, list[str]] = collections.defaultdict(list)
        for name in self.seconds:
            by_file[name.partition("::")[0]].append(name)
        return by_file

    def tests_of(self, module: str, line: int) -> set[str]:
        """Returns the tests that run the statement at a line of a module.

        Where no test does, it returns those that run the function around it. What runs when the module is imported is
        covered by all tests of the module.
        """
        path = PACKAGE / module
        if self._sources.get(module) != _digest(path):
            sys.exit(f"{module} has changed since the tests were recorded: run python tools/covering.py again")
        contexts = self._data.contexts_by_lineno(str(path))
        for lines in reach(path.read_text(encoding="utf-8"), line):
            tests = self._of_contexts(context for number in lines for context in contexts.get(number, ()))
            if tests:
                return tests
        return set()

    def _of_contexts(self, contexts: Iterable[str]) -> set[str]:
        tests = set()
        for context in set(contexts):
            name, _, phase = context.rpartition("|")
            if phase == "setup":  # of the first test that asked for a fixture which its file shares
                tests |= set(self._tests_by_file[name.partition("::")[0]])
            elif name:
                tests.add(name)
        return tests

    def in_order(self, tests: Iterable[str], module: str, seconds: float) -> list[str]:
        """Returns the tests to run for a mutant, as many as take that long: file by file, its room's first.

        Args:
            tests: Names of tests.
            module: The mutant's.
            seconds: What all may take together, as recorded.
        """
        room, chosen, left = module.partition("/")[0].removesuffix(".py"), [], seconds
        is_far = {name: room not in name.partition("::")[0] for name in tests}
        for name in sorted(is_far, key=lambda name: (is_far[name], self.seconds.get(name, _UNKNOWN), name)):
            left -= self.seconds.get(name, _UNKNOWN)
            if left < 0 and chosen:
                break
            chosen.append(name)
        # a file's tests stay together, so that what they share is made once
        places: dict[str, int] = {}
        for place, name in enumerate(chosen):
            places.setdefault(name.partition("::")[0], place)
        return sorted(chosen, key=lambda name: places[name.partition("::")[0]])


def reach(source: str, line: int) -> Sequence[range]:
    """Returns which lines tell what runs a line, the nearest first: its statement, the function around it, the module.

    A function's own first lines run when the module is imported; what counts is who calls it.
    """
    statement: ast.stmt | None = None
    function: ast.FunctionDef | ast.AsyncFunctionDef | None = None
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.stmt) or not _first_line(node) <= line <= (node.end_lineno or 0):
            continue
        if statement is None or _first_line(node) >= _first_line(statement):
            statement = node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (
            function is None or node.lineno > function.lineno
        ):
            function = node
    everything = range(1, len(source.splitlines()) + 1)
    if function is None or statement is None:
        return [everything]
    inside = range(function.body[0].lineno, (function.end_lineno or 0) + 1)
    if statement is function:
        return [inside, everything]
    body = getattr(statement, "body", None)
    last = max(line, body[0].lineno - 1) if body else statement.end_lineno or line
    return [range(statement.lineno, last + 1), inside, everything]


def _first_line(node: ast.stmt) -> int:
    """Returns the line where a statement begins, decorators included."""
    return min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", ()))])


def _name(case: ElementTree.Element) -> str:
    """Returns a test's name as pytest prints it: file, class and function."""
    file = case.get("file", "")
    stem = file.removesuffix(".py").replace("/", ".")
    inside = case.get("classname", "").removeprefix(stem).strip(".")
    return "::".join([file, *inside.split("."), case.get("name", "")] if inside else [file, case.get("name", "")])


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
