"""Breaks the code in one place at a time and tells which breaks no test notices, by cosmic-ray's operators.

    pip install cosmic-ray                             # in any environment that sees the project's packages
    python tools/mutants.py --sample 400               # a sample of all mutants, by a seed
    python tools/mutants.py --sample 400 --shard 1/2   # the first half of that sample; join the files with cat
    python tools/mutants.py --module metrics/verdict.py --sample 0   # all of one module
    python tools/mutants.py --by-hand                  # the mistakes in tools/wiring.toml
    python tools/mutants.py --count FILE.jsonl         # killed, survived and timed out, and the survivors

cosmic-ray says where a module can be broken, and breaks it. The tests run here: one process imports the libraries, and
each mutant is a fork of it, in which an import hook gives the broken text in place of the module's: no file changes.
"""

import argparse
import collections
import contextlib
import importlib
import importlib.machinery
import importlib.util
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

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/lookalike"
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from tools.mutations import Mutant, by_hand, mutants_of  # noqa: E402

METRICS = ("card", "metrics", "divergence", "faithfulness", "prototypes", "robustness", "class_order", "data_check")
TESTS: dict[str, Sequence[str]] = {  # the quickest first: a mutant is done with at the first test that fails
    "metrics/": [*(f"tests/metrics/test_{name}.py" for name in METRICS), "tests/metrics/test_evaluation.py"],
    "relevance/": [
        "tests/relevance/test_maps.py", "tests/relevance/test_rules.py", "tests/relevance/test_engine.py",
        "tests/relevance/test_zennit.py", "tests/relevance/test_dependence.py", "tests/relevance/test_prp.py",
    ],
    "explanation.py": ["tests/test_explanation_fields.py", "tests/test_explanation.py"],
    "clustering.py": ["tests/test_clustering.py"],
    "streaming.py": ["tests/test_streaming.py"],
    "joining.py": ["tests/test_joining.py"],
    "prototypes.py": ["tests/test_prototypes.py", "tests/test_explanation_fields.py", "tests/test_joining.py"],
    "kmex.py": ["tests/test_kmex.py", "tests/test_conversion.py", "tests/test_joining.py", "tests/test_streaming.py"],
    "baselines/": [f"tests/baselines/test_{name}.py" for name in ("losses", "steps", "training")],
}  # fmt: skip
ALSO = ("tests/test_untouched.py", "tests/test_arguments.py")  # what every module's tests end with
MODULES = tuple(start for start in TESTS if start != "baselines/")
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
    parser.add_argument("--cpu-seconds", type=int, default=120, help="the most processor time of a mutant's tests")
    parser.add_argument("--output", type=Path, help="JSON lines; mutants that are in it are not run again")
    parser.add_argument("--by-hand", action="store_true", help="run the mistakes of tools/wiring.toml")
    parser.add_argument("--count", type=Path, nargs="+", help="only count what these files hold")
    arguments = parser.parse_args()
    if arguments.count:
        print_count([json.loads(line) for path in arguments.count for line in path.read_text().splitlines()])
        return
    if arguments.by_hand:
        mutants = by_hand(ROOT / "tools/wiring.toml", PACKAGE)
    else:
        mutants = sampled(arguments.module or MODULES, arguments.sample, arguments.seed)
    part, parts = map(int, arguments.shard.split("/"))
    done = {row["mutant"]: row for row in read(arguments.output)}
    rows = [done[one.name] for one in mutants[part - 1 :: parts] if one.name in done]
    preload()
    for one in mutants[part - 1 :: parts]:
        if one.name not in done:
            rows.append(run(one, arguments.cpu_seconds))
            print(f"{rows[-1]['outcome']:9} {rows[-1]['seconds']:6.1f} s  {one.name}", flush=True)
            if arguments.output is not None:
                with arguments.output.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print_count(rows)


def read(path: Path | None) -> list[dict[str, Any]]:
    """Returns the rows that an earlier run has left in a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path is not None and path.exists() else []


def sampled(patterns: Sequence[str], number: int, seed: int) -> list[Mutant]:
    """Draws mutants of some modules; each place where a module can be broken is as probable as any other."""
    paths = [path for pattern in patterns for path in sorted([PACKAGE / pattern, *(PACKAGE / pattern).glob("*.py")])]
    every = [one for path in paths if path.is_file() for one in mutants_of(path, PACKAGE, seed)]
    random.Random(seed).shuffle(every)
    return every[:number] if number else every


def preload() -> None:
    """Imports the libraries, once for all mutants; the package itself is imported by each."""
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(tempfile.gettempdir()) / "lookalike-mutants")
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def tests_of(module: str) -> list[str]:
    """Returns the test files that cover a module, and the module itself for its docstrings' examples."""
    covering = next(files for start, files in TESTS.items() if module.startswith(start))
    files = [*covering, *(() if module.startswith("baselines/") else ALSO)]
    return [f"src/lookalike/{module}", *(file for file in files if (ROOT / file).is_file())]


def run(mutant: Mutant, cpu_seconds: int) -> dict[str, Any]:
    """Runs the tests with one mutant, in a process of its own."""
    started, wall = time.monotonic(), 10 * cpu_seconds
    child = os.fork()
    if not child:
        _test(mutant, cpu_seconds)
    while (finished := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() - started > wall:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.05)
    status = finished[1]
    outcome = "timed out" if os.WIFSIGNALED(status) else "survived" if os.WEXITSTATUS(status) == 0 else "killed"
    row = {"mutant": mutant.name, "module": mutant.module, "operator": mutant.operator, "outcome": outcome}
    return {**row, "was": mutant.before, "is": mutant.after, "seconds": round(time.monotonic() - started, 1)}


def _test(mutant: Mutant, cpu_seconds: int) -> None:
    """Imports the broken module and tests it; never returns."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 5))
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    code = 2
    try:
        import pytest

        os.chdir(ROOT)
        sys.meta_path.insert(0, _Broken(mutant))
        options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        code = int(pytest.main([*options, *tests_of(mutant.module)]))
    finally:
        os._exit(code)


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
