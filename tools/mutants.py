"""Breaks the code in one place at a time and tells which breaks no test notices, by cosmic-ray's operators.

    pip install cosmic-ray pytest-cov                  # in any environment that sees the project's packages
    python tools/covering.py                           # records which tests run which line
    python tools/mutants.py --sample 400               # a sample of all mutants, by a seed
    python tools/mutants.py --sample 400 --shard 1/2   # the first half of that sample; join the files with cat
    python tools/mutants.py --module metrics/verdict.py --sample 0   # all of one module
    python tools/mutants.py --wiring --sample 60       # of the modules that pass values from part to part
    python tools/mutants.py --by-hand                  # the mistakes in tools/wiring.toml
    python tools/mutants.py --count FILE.jsonl         # killed, survived and timed out, and the survivors

cosmic-ray says where a module can be broken, and breaks it. The tests that run the broken line run here: one process
imports the libraries, and each mutant is a fork of it, in which an import hook gives the broken text in place of the
module's: no file changes. A test that fails must pass without the mutant, else it is left out.
"""

import argparse
import collections
import contextlib
import importlib
import importlib.machinery
import importlib.util
import itertools
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from tools.covering import PACKAGE, Covering  # noqa: E402
from tools.mutations import Mutant, by_hand, mutant_at, places_of  # noqa: E402

WIRING = (  # what passes values from part to part
    "metrics/evaluation.py", "metrics/context.py", "metrics/sections.py", "metrics/verdict.py", "metrics/findings.py",
    "metrics/options.py", "metrics/budget.py", "report/gathering.py", "explanation.py", "conversion/convert.py",
    "conversion/assembling.py", "cli/",
)  # fmt: skip
MODULES = ("metrics/", "relevance/", "explanation.py", "conversion/", "model/prototypes.py")
LIBRARIES = (
    "numpy", "torch", "torchvision", "scipy.stats", "sklearn.cluster", "sklearn.mixture", "sklearn.metrics", "faiss",
    "sklearn.covariance", "safetensors.torch", "matplotlib.pyplot", "torchmetrics", "filelock", "PIL.Image", "rich",
    "pytest", "hypothesis", "hypothesis.extra.numpy", "zennit.composites", "timm",
)  # fmt: skip


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=400, help="number of mutants; 0 takes all")
    parser.add_argument("--seed", type=int, default=0, help="which sample")
    parser.add_argument("--shard", default="1/1", help="i/n: the i-th of n parts of the sample")
    parser.add_argument("--module", action="append", help="a file or folder of the package; all of them by default")
    parser.add_argument("--wiring", action="store_true", help="only the modules that pass values from part to part")
    parser.add_argument("--seconds", type=float, default=120, help="the most that a mutant's tests may have taken")
    parser.add_argument("--output", type=Path, help="JSON lines; mutants that are in it are not run again")
    parser.add_argument("--again", action="store_true", help="run those in it again that survived")
    parser.add_argument("--by-hand", action="store_true", help="run the mistakes of tools/wiring.toml")
    parser.add_argument("--count", type=Path, nargs="+", help="only count what these files hold")
    arguments = parser.parse_args()
    if arguments.count:
        print_count(list(read(arguments.count).values()))
        return
    if arguments.by_hand:
        mutants = by_hand(ROOT / "tools/wiring.toml", PACKAGE)
        mutants = [one for one in mutants if one.module.startswith(tuple(arguments.module or [""]))]
    else:
        mutants = sampled(
            arguments.module or (WIRING if arguments.wiring else MODULES), arguments.sample, arguments.seed
        )
    part, parts = map(int, arguments.shard.split("/"))
    known = read([arguments.output] if arguments.output is not None and arguments.output.exists() else [])
    rows, trial = [], Trial(Covering(), arguments.seconds)
    preload()
    for one in mutants[part - 1 :: parts]:
        row = known.get(one.name)
        if row is None or (row["outcome"] == "survived" and arguments.again):
            row = trial.of(one)
            print(f"{row['outcome']:9} {row['seconds']:6.1f} s  {one.name}", flush=True)
            if arguments.output is not None:
                with arguments.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        rows.append(row)
    print_count(rows)


class Trial:
    """Runs the tests of mutants, and remembers which tests fail without any.

    Args:
        covering: What the tests run.
        seconds: The most that a mutant's tests may have taken when that was recorded.
    """

    def __init__(self, covering: Covering, seconds: float) -> None:
        self.covering, self.seconds = covering, seconds
        self._passes: dict[str, bool] = {}

    def of(self, mutant: Mutant) -> dict[str, Any]:
        """Returns what became of a mutant: killed, survived or timed out, and the test that killed it."""
        started = time.monotonic()
        covering_tests = self.covering.tests_of(mutant.module, mutant.line)
        tests = self.covering.in_order(covering_tests, mutant.module, self.seconds)
        tests = [name for name in tests if self._passes.get(name, True)]
        outcome, killer = run(mutant, tests, self.seconds)
        while outcome == "killed" and killer and not self._passes_unbroken(killer, mutant.module):
            tests.remove(killer)
            outcome, killer = run(mutant, tests, self.seconds)
        took = round(time.monotonic() - started, 1)
        row = {"mutant": mutant.name, "module": mutant.module, "operator": mutant.operator, "outcome": outcome}
        row |= {"by": killer, "tests": len(tests), "of": len(covering_tests)}
        return {**row, "was": mutant.before, "is": mutant.after, "seconds": took}

    def _passes_unbroken(self, name: str, module: str) -> bool:
        if name not in self._passes:
            text = (PACKAGE / module).read_text(encoding="utf-8")
            outcome, _ = run(Mutant(module, module, "none", "", "", text, 1), [name], self.seconds)
            self._passes[name] = outcome == "survived"
            if outcome != "survived":
                print(f"fails without any mutant: {name}", flush=True)
        return self._passes[name]


def read(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Returns the rows that earlier runs have left in files, by mutant; the last row of each counts."""
    rows = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    return {row["mutant"]: row for row in rows}


def sampled(patterns: Sequence[str], number: int, seed: int) -> list[Mutant]:
    """Draws mutants of some modules; each place where a module can be broken is as probable as any other."""
    paths = [path for pattern in patterns for path in sorted([PACKAGE / pattern, *(PACKAGE / pattern).glob("*.py")])]
    places = [place for path in paths if path.is_file() for place in places_of(path, seed)]
    random.Random(seed).shuffle(places)
    broken = (mutant_at(place, PACKAGE) for place in places)
    return list(itertools.islice((one for one in broken if one is not None), number or None))


def preload() -> None:
    """Imports the libraries, once for all mutants; the package itself is imported by each."""
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(tempfile.gettempdir()) / "lookalike-mutants")
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    os.environ["PYTHONPATH"] = str(ROOT / "src")  # for processes that tests start: they see the module as it is
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    sys.modules["torch"].set_num_threads(1)


def run(mutant: Mutant, tests: Sequence[str], seconds: float) -> tuple[str, str]:
    """Runs tests with a mutant, in a process of its own. Returns what became of it, and the test that failed, if any.

    It has three times the processor time that its tests are allowed, and half a minute to start. Without any test it
    survives.
    """
    if not tests:
        return "survived", ""
    cpu_seconds = 30 + int(3 * seconds)
    started, (reading, writing) = time.monotonic(), os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _test(mutant, tests, cpu_seconds, writing)
    os.close(writing)
    while (finished := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() - started > 10 * cpu_seconds:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.05)
    with os.fdopen(reading) as failures:
        killer = failures.readline().strip()
    status = finished[1]
    if os.WIFSIGNALED(status):
        return "timed out", ""
    return ("survived", "") if os.WEXITSTATUS(status) == 0 else ("killed", killer)


def _test(mutant: Mutant, tests: Sequence[str], cpu_seconds: int, failures: int) -> None:
    """Imports the broken module and tests it; never returns."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    code = 1
    try:
        import pytest

        os.chdir(ROOT)
        broken = _Broken(mutant)
        sys.meta_path.insert(0, broken)
        importlib.import_module(broken.name)  # pytest's own import would not ask the finder
        options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        files = dict.fromkeys(name.partition("::")[0] for name in tests)
        code = int(pytest.main([*options, *files], plugins=[_Chosen(tests, failures)]))
        code *= code != pytest.ExitCode.NO_TESTS_COLLECTED
    finally:
        os._exit(code)


class _Chosen:
    """A plugin of pytest that runs some tests, in their order, and writes the names of those that fail to a pipe."""

    def __init__(self, tests: Sequence[str], failures: int) -> None:
        self.places = {name: place for place, name in enumerate(tests)}
        self.failures = failures

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        chosen = [item for item in items if item.nodeid in self.places]
        items[:] = sorted(chosen, key=lambda item: self.places[item.nodeid])

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            os.write(self.failures, f"{report.nodeid}\n".encode())


class _Broken(importlib.machinery.SourceFileLoader):
    """Finds one module, and gives it a mutant's text."""

    def __init__(self, mutant: Mutant) -> None:
        stem = mutant.module.removesuffix(".py").removesuffix("/__init__")
        super().__init__("lookalike." + stem.replace("/", "."), str(PACKAGE / mutant.module))
        self.text = mutant.text

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:  # noqa: ARG002 - the finder's contract
        """Answers for the broken module alone."""
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname: str) -> Any:  # noqa: ARG002 - the loader's contract
        """Compiles the mutant's text."""
        return compile(self.text, self.path, "exec", dont_inherit=True)


def print_count(rows: Sequence[dict[str, Any]]) -> None:
    """Prints how many mutants were killed, by module, and all that survived."""
    by_module = collections.defaultdict(collections.Counter)
    for row in rows:
        for name in (row["module"].split("/")[0], "all"):
            by_module[name][row["outcome"]] += 1
    for name, counts in sorted(by_module.items()):
        dead, total = counts["killed"] + counts["timed out"], counts.total()
        print(f"{name:16} {dead} of {total} ({dead / total:.1%}): {', '.join(f'{v} {k}' for k, v in counts.items())}")
    for row in survivors(rows):
        print(f"{row['mutant']}\n  - {row['was']}\n  + {row['is']}")


def survivors(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields what no test has noticed."""
    yield from sorted((row for row in rows if row["outcome"] == "survived"), key=lambda row: row["mutant"])


if __name__ == "__main__":
    main()
