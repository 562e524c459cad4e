"""Registry, progress, provenance, errors and the package's public names."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import lookalike
from lookalike._core.errors import BrokenImageError, LookalikeError
from lookalike._core.progress import progress_bar
from lookalike._core.provenance import fingerprint_array, fingerprint_json, fingerprint_tensors, versions
from lookalike._core.registry import Registry
from tests.processes import Started


def test_a_name_is_taken_once_and_found_by_pattern():
    registry: Registry[int] = Registry("number")
    registry.register("one")(1)
    registry.register("two")(2)
    with pytest.raises(LookalikeError, match="the number 'one' is registered already"):
        registry.register("one")
    assert registry.names("t*") == ["two"]
    assert (list(registry), len(registry), "one" in registry) == (["one", "two"], 2, True)
    with pytest.raises(LookalikeError, match="no number is called 'xyz'; there are: one, two"):
        registry["xyz"]


def test_the_bar_is_silent_unless_asked_for(capsys):
    for enabled in (None, False):
        with progress_bar("Working", 3, enabled) as advance:
            advance()
    assert capsys.readouterr() == ("", "")
    with progress_bar("Working", 3, True) as advance:
        advance(2)
    output = capsys.readouterr()
    assert output.out == ""


def test_fingerprints_depend_on_values_types_and_names_and_on_nothing_else():
    tensors = {"a": torch.ones(2), "b": torch.zeros(0), "c": torch.tensor(1)}
    assert fingerprint_tensors(tensors) == fingerprint_tensors(dict(reversed(tensors.items())))
    for change in ({"a": torch.zeros(2)}, {"a": torch.ones(2).double()}, {"a": torch.ones(1, 2)}, {"d": torch.ones(1)}):
        assert fingerprint_tensors(tensors | change) != fingerprint_tensors(tensors)
    assert fingerprint_tensors({"a": torch.eye(3).T[::2]}) == fingerprint_tensors({"a": torch.eye(3)[::2].contiguous()})
    assert fingerprint_tensors({"a": torch.ones(2).bfloat16()}) != fingerprint_tensors({"a": torch.ones(2).half()})
    assert fingerprint_json({"a": 1, "b": 2}) == fingerprint_json({"b": 2, "a": 1})
    assert fingerprint_array(np.eye(2)) != fingerprint_array(np.eye(2, dtype=np.float32))


def test_versions_name_this_package():
    assert versions()["lookalike"] == lookalike.__version__


def test_errors_survive_the_way_back_from_a_worker():
    error = pickle.loads(pickle.dumps(BrokenImageError("a.png", "truncated")))
    assert (error.path, str(error)) == ("a.png", "cannot read the image 'a.png': truncated")


def test_public_names_exist_and_importing_the_package_imports_no_torch():
    for name in lookalike.__all__:
        assert getattr(lookalike, name) is not None
    assert set(dir(lookalike)) >= {"convert", "load", "explain"}
    with pytest.raises(AttributeError, match="no attribute 'KMeks'"):
        _ = lookalike.KMeks
    code = "import sys, lookalike, lookalike.cli; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


SHORT_USE = """
import sys, torch
from PIL import Image
from lookalike import convert, explain
from lookalike.data import Preprocessing
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
net.append(torch.nn.Linear(4, 2))
pixels = torch.rand(8, 3, 12, 12)
sem = convert(net, (pixels, [0, 1] * 4), 1, progress=False, preprocessing=Preprocessing.square(12))
sem.predict(Image.new("RGB", (20, 16)))
explain(sem, pixels[:1], relevance=True)
print([name for name in ("torchvision", "torch._dynamo", "sympy", "sklearn", "matplotlib") if name in sys.modules])
"""


def test_a_short_use_imports_no_more_than_it_needs():
    """Each of these takes as long to import as a prediction takes."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SHORT_USE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_ray_the_way_out_is_told():
    told = Started(convert_without_ray).finish()
    assert told.startswith("LookalikeError")
    assert "pip install 'ray[data]'" in told


def convert_without_ray():
    sys.modules["ray"] = None
    from torch import nn

    from lookalike import convert
    from lookalike.conversion.on_ray import Ray

    try:
        convert(nn.Linear(2, 2), ([[0.0, 1.0]], [0]), backend=Ray(), working_folder="x")
    except ValueError as error:
        print(type(error).__name__, error)  # noqa: T201


def test_a_registered_class_is_called_what_it_is_registered_as():
    """What a saved folder says of a class is what it is found by later."""
    registry: Registry[type] = Registry("kind")

    @registry.register("one")
    class First:
        name = "another"

    assert First.name == "one"
    with pytest.raises(LookalikeError, match="First is registered already, as 'one'"):
        registry.register("two")(First)
    assert list(registry) == ["one"]

    @registry.register("three")
    class Second(First):
        pass

    assert (First.name, Second.name) == ("one", "three")


def test_it_is_imported_where_there_are_no_forks():
    """As on Windows."""
    before = "import os, random, logging, threading, torch, torchvision, sklearn.cluster"  # they know their systems
    code = f"{before}; del os.register_at_fork; from lookalike import convert, explain"
    subprocess.run([sys.executable, "-c", code], check=True)
