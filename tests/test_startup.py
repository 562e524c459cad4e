"""Commands import torch without garbage collections; a module of that name stands for it here."""

import gc
import os
import signal
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


def test_ctrl_c_while_torch_is_imported_ends_the_process_whatever_a_module_catches(tmp_path):
    (tmp_path / "torchvision.py").write_text("")
    (tmp_path / "torch.py").write_text(
        "import time\ntry:\n    print('importing', flush=True)\n    time.sleep(30)\nexcept BaseException:\n    pass\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(
            [sys.executable, "-c", IMPORTED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        printed, error = process.communicate(timeout=20)
        if number == signal.SIGINT:
            assert (process.returncode, printed, error) == (-number, "", "")
        else:  # Python has no handler of its own for it: the command line sets one
            assert process.returncode == -number


def test_handlers_of_signals_are_as_before_after_the_import(tmp_path):
    (tmp_path / "torch.py").write_text("import signal\nprint(signal.getsignal(signal.SIGINT) is signal.SIG_DFL)")
    code = (
        "import signal\nfrom lookalike._core.startup import import_torch\n"
        "if {ignored}: signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "import_torch()\nprint(signal.getsignal(signal.SIGINT) is before)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    for ignored, printed in ((False, ["True", "True"]), (True, ["False", "True"])):
        command = [sys.executable, "-c", code.format(ignored=ignored)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (result.stdout.split(), result.stderr) == (printed, "")
