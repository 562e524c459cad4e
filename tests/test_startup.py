"""Commands import torch without garbage collections; a module of that name stands for it here."""

import gc
import os
import subprocess
import sys

from lookalike._core.startup import import_torch

IMPORTED = """
import gc, sys
from lookalike._core.startup import import_torch

try:
    import_torch()
except ImportError:
    print("failed")
print(gc.isenabled(), gc.get_freeze_count() > 1000)
"""


def run(folder, **stubs):
    for name, text in stubs.items():
        (folder / f"{name}.py").write_text(text)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    result = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, env=environment)
    return result.stdout.split(), result.stderr


def test_nothing_is_collected_during_the_import_and_all_of_it_is_set_aside(tmp_path):
    printed, error = run(tmp_path, torch="import gc; print(gc.isenabled())", torchvision="")
    assert (printed, error) == (["False", "True", "True"], "")


def test_the_collector_works_again_if_the_import_fails(tmp_path):
    printed, error = run(tmp_path, torch="raise ImportError")
    assert (printed, error) == (["failed", "True", "True"], "")


def test_a_process_that_has_torch_is_left_alone():
    assert "torch" in sys.modules or __import__("torch")
    n_frozen = gc.get_freeze_count()
    import_torch()
    assert gc.isenabled()
    assert gc.get_freeze_count() == n_frozen
