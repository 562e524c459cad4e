"""Breaks the code in one place at a time and tells which breaks no test notices, by cosmic-ray's operators.

    pip install cosmic-ray                             # in any environment that sees the project's packages
    python tools/mutants.py --sample 400               # a sample of all mutants, by a seed
    python tools/mutants.py --sample 400 --shard 1/2   # the first half of that sample; join the files with cat
    python tools/mutants.py --module metrics/verdict.py --sample 0   # all of one module
    python tools/mutants.py --wiring --sample 60       # of the modules that pass values from part to part
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

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src/lookalike"
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from tools.mutations import Mutant, by_hand, mutant_at, places_of  # noqa: E402

METRICS = ("card", "metrics", "divergence", "faithfulness", "prototypes", "robustness", "class_order", "data_check")
MEASURES = (
    "budget", "calibration", "controls", "ends", "measures_on_the_card", "findings", "familiarity", "sanity",
    "standard_measures", "localisation", "prototype_stability", "scale", "what_is_refused",
)  # fmt: skip
OF_PASSES = ("plain_pass", "recorded_maps", "joined_relu", "references", "reading_back", "what_is_refused")
TESTS: dict[str, Sequence[str]] = {  # the quickest first: a mutant is done with at the first test that fails
    "metrics/budget.py": ["tests/metrics/test_budget.py"],
    "metrics/verdict.py": [
        "tests/metrics/test_findings.py", "tests/metrics/test_familiarity.py", "tests/cli/test_evaluate.py",
    ],
    "metrics/findings.py": ["tests/metrics/test_findings.py", "tests/metrics/test_familiarity.py"],
    "metrics/": [
        *(f"tests/metrics/test_{name}.py" for name in (*METRICS, *MEASURES, "evaluation")), "tests/model/test_doubt.py",
    ],
    "relevance/": [
        "tests/relevance/test_wiring.py", "tests/relevance/test_maps.py", "tests/relevance/test_rules.py",
        "tests/relevance/test_engine.py",
        "tests/relevance/test_zennit.py", "tests/relevance/test_dependence.py", "tests/relevance/test_prp.py",
        *(f"tests/relevance/test_{name}.py" for name in OF_PASSES),
    ],
    "explanation.py": ["tests/test_explanation_fields.py", "tests/test_explanation.py"],
    "conversion/clustering.py": ["tests/conversion/test_clustering.py"],
    "conversion/out_of_core.py": ["tests/conversion/test_out_of_core.py"],
    "conversion/update.py": ["tests/conversion/test_update.py"],
    "conversion/cluster_folder.py": ["tests/conversion/test_distributed.py"],
    "conversion/options.py": ["tests/conversion/test_given.py", "tests/conversion/test_convert.py"],
    "conversion/patches.py": ["tests/conversion/test_patches.py"],
    "conversion/advice.py": ["tests/conversion/test_advice.py", "tests/conversion/test_many_divisions.py"],
    "conversion/many_divisions.py": ["tests/conversion/test_many_divisions.py"],
    "conversion/of_head.py": ["tests/conversion/test_of_head.py"],
    "conversion/temperature.py": ["tests/conversion/test_temperature.py"],
    "conversion/": [
        "tests/model/test_prototypes.py", "tests/conversion/test_update.py", "tests/conversion/test_out_of_core.py",
        "tests/model/test_model.py", "tests/conversion/test_convert.py",
    ],
    "model/likeness.py": ["tests/test_explanation_fields.py", "tests/test_explanation.py"],
    "model/prototypes.py": [
        "tests/model/test_prototypes.py", "tests/test_explanation_fields.py", "tests/conversion/test_update.py",
    ],
    "report/": [f"tests/report/test_{name}.py" for name in ("report", "reliance", "weakness", "duplicates", "parts")],
    "cli/app.py": ["tests/cli/test_options.py", "tests/cli/test_names.py", "tests/cli/test_commands.py"],
    "cli/audit.py": ["tests/audit/test_audit.py"],
    "cli/calibrate.py": ["tests/cli/test_options.py", "tests/cli/test_doubt.py"],
    "cli/console.py": [f"tests/cli/test_{name}.py" for name in ("demo_output", "options", "names", "commands")],
    "cli/convert.py": [f"tests/cli/test_{name}.py" for name in ("options", "commands", "parts", "preprocessing")],
    "cli/demo.py": ["tests/cli/test_demo_output.py", "tests/cli/test_options.py", "tests/demo/test_demo.py"],
    "cli/edit.py": ["tests/editing/test_edit_command.py", "tests/studio/test_studio.py"],
    "cli/evaluate.py": ["tests/cli/test_options.py", "tests/cli/test_evaluate.py"],
    "cli/explain.py": [f"tests/cli/test_{name}.py" for name in ("options", "commands", "parts", "pictures")],
    "cli/export.py": ["tests/export/test_file.py"],
    "cli/predict.py": [f"tests/cli/test_{name}.py" for name in ("csv", "commands", "doubt")],
    "cli/preprocessing.py": [f"tests/cli/test_{name}.py" for name in ("options", "preprocessing", "first_day")],
    "cli/reproduce.py": ["tests/cli/test_options.py", "tests/cli/test_train.py"],
    "cli/studio.py": ["tests/studio/test_studio.py"],
    "cli/train.py": ["tests/cli/test_options.py", "tests/baselines/test_children.py", "tests/cli/test_train.py"],
    "cli/watch.py": ["tests/cli/test_doubt.py"],
    "cli/": [f"tests/cli/test_{name}.py" for name in ("options", "commands", "folders", "pictures")],
    "baselines/": [f"tests/baselines/test_{name}.py" for name in ("losses", "steps", "training")],
}  # fmt: skip
SLOW = (
    "tests/metrics/test_evaluation.py", "tests/relevance/test_zennit.py", "tests/relevance/test_prp.py",
    "tests/relevance/test_dependence.py", "tests/test_untouched.py", "tests/test_arguments.py",
    "tests/conversion/test_convert.py", "tests/baselines/test_training.py", "tests/cli/test_train.py",
    "tests/demo/test_demo.py",
)  # fmt: skip
ALSO = ("tests/test_untouched.py", "tests/test_arguments.py")  # what every module's tests end with
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
    parser.add_argument("--cpu-seconds", type=int, default=120, help="the most processor time of a mutant's tests")
    parser.add_argument("--output", type=Path, help="JSON lines; mutants that are in it are not run again")
    parser.add_argument("--quick", action="store_true", help="leave the slow tests out; what survives can be run again")
    parser.add_argument("--trust", action="store_true", help="do not first run the tests without any mutant")
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
    rows, sound = [], set()
    preload()
    for one in mutants[part - 1 :: parts]:
        row = known.get(one.name)
        if row is None or (row["outcome"] == "survived" and row["quick"] and not arguments.quick):
            if group_of(one.module) not in sound and not arguments.trust:
                check_unbroken(one.module, arguments.cpu_seconds, arguments.quick)
                sound.add(group_of(one.module))
            row = run(one, arguments.cpu_seconds, arguments.quick)
            print(f"{row['outcome']:9} {row['seconds']:6.1f} s  {one.name}", flush=True)
            if arguments.output is not None:
                with arguments.output.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        rows.append(row)
    print_count(rows)


def check_unbroken(module: str, cpu_seconds: int, quick: bool) -> None:
    """Runs a module's tests with the module as it is: tests that fail anyway say nothing."""
    text = (PACKAGE / module).read_text(encoding="utf-8")
    row = run(Mutant(f"{module}: as it is", module, "none", "", "", text), cpu_seconds, quick)
    print(f"{row['outcome']:9} {row['seconds']:6.1f} s  {row['mutant']}", flush=True)
    if row["outcome"] != "survived":
        sys.exit(f"the tests of {module} fail without any mutant: {' '.join(tests_of(module, quick))}")


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


def group_of(module: str) -> str:
    """Returns which of the groups of ``TESTS`` a module is in."""
    return next(start for start in TESTS if module.startswith(start))


def tests_of(module: str, quick: bool) -> list[str]:
    """Returns the test files that cover a module, and the module itself for its docstrings' examples."""
    files = [*TESTS[group_of(module)], *(() if module.startswith("baselines/") else ALSO)]
    files = [file for file in files if (ROOT / file).is_file() and not (quick and file in SLOW)]
    return [*files, f"src/lookalike/{module}"]


def run(mutant: Mutant, cpu_seconds: int, quick: bool) -> dict[str, Any]:
    """Runs the tests with one mutant, in a process of its own."""
    started, wall = time.monotonic(), 10 * cpu_seconds
    child = os.fork()
    if not child:
        _test(mutant, cpu_seconds, quick)
    while (finished := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() - started > wall:
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.05)
    status = finished[1]
    outcome = "timed out" if os.WIFSIGNALED(status) else "survived" if os.WEXITSTATUS(status) == 0 else "killed"
    row = {"mutant": mutant.name, "module": mutant.module, "operator": mutant.operator, "outcome": outcome}
    row["quick"] = quick
    return {**row, "was": mutant.before, "is": mutant.after, "seconds": round(time.monotonic() - started, 1)}


def _test(mutant: Mutant, cpu_seconds: int, quick: bool) -> None:
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
        code = int(pytest.main([*options, *tests_of(mutant.module, quick)]))
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
