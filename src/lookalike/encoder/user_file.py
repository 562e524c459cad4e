"""Builds networks with a function in a user's own file."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import xxhash
from torch import nn

from lookalike._core.errors import LookalikeError
from lookalike.data import Preprocessing
from lookalike.data.transforms import read_preprocessing

_NEIGHBOURS: dict[str, tuple[Path, ModuleType]] = {}  # modules that files were read with, by name, and their folders


def read_function(spec: str) -> Callable[..., Any]:
    """Returns the function that ``path/to/file.py:function`` names; this runs the file.

    Raises:
        LookalikeError: If there is no such file or function, or the file cannot be imported.
    """
    path_text, _, function_name = spec.rpartition(":")
    path = Path(path_text).resolve()
    if not path.is_file():
        raise LookalikeError(f"{path_text!r} does not exist")
    module_name = f"_lookalike_user_{path.stem}_{xxhash.xxh3_64_hexdigest(os.fsencode(path))}"
    module_spec = importlib.util.spec_from_file_location(module_name, path)
    if module_spec is None or module_spec.loader is None:
        raise LookalikeError(f"{path_text!r} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    _forget_other_neighbours(path.parent)
    known = set(sys.modules)
    sys.modules[module_name] = module  # where data classes look for it
    sys.path.insert(0, str(path.parent))  # so that the file can import its neighbours
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit):
            raise LookalikeError(
                f"{path_text!r} ends the program when it is imported; put what it runs as a script below "
                "if __name__ == '__main__'"
            ) from error
        raise LookalikeError(f"{path_text!r} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
        # not to be found by name: then other processes get its functions and classes by value, as they cannot import it
        del sys.modules[module_name]
        _remember_neighbours(path.parent, set(sys.modules) - known)
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if not callable(function):
        raise LookalikeError(f"{path_text!r} has no function {function_name!r}")
    return function


def _remember_neighbours(folder: Path, names: set[str]) -> None:
    """Remembers which modules were imported from beside a file."""
    for name in names:
        file = getattr(sys.modules.get(name.partition(".")[0]), "__file__", None)
        if file is None:
            continue
        beside = Path(file).parent if Path(file).name != "__init__.py" else Path(file).parent.parent
        if beside == folder:
            _NEIGHBOURS[name] = folder, sys.modules[name]


def _forget_other_neighbours(folder: Path) -> None:
    """Forgets modules beside files that were read before, where this folder has modules of the same names."""
    for name, (other, module) in list(_NEIGHBOURS.items()):
        top = name.partition(".")[0]
        has_own = (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file()
        if other != folder and has_own and sys.modules.get(name) is module:
            del sys.modules[name], _NEIGHBOURS[name]


def call_function(spec: str, function: Any, args: dict[str, Any]) -> tuple[nn.Module, Preprocessing | None]:
    """Calls a user's function that returns a network, or a network and its preprocessing.

    The preprocessing is a ``Preprocessing``, or of another library, see ``read_preprocessing``.

    Raises:
        LookalikeError: If it fails or returns something else, or the preprocessing has a step that cannot be read.
    """
    try:
        result = function(**args)
    except Exception as error:
        raise LookalikeError(f"{spec} failed: {type(error).__name__}: {error}") from error
    model, preprocessing = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if isinstance(model, nn.Module) and not isinstance(preprocessing, Preprocessing | None):
        try:
            preprocessing = read_preprocessing(preprocessing)
        except LookalikeError as error:
            raise LookalikeError(
                f"{spec} returned {_type_names(result)}; a torch.nn.Module may come with its preprocessing, but this "
                f"one cannot be read: {error}"
            ) from error
    if not isinstance(model, nn.Module):
        raise LookalikeError(
            f"{spec} returned {_type_names(result)}; it must return a torch.nn.Module, or one and its preprocessing"
        )
    return model, preprocessing


def _type_names(result: Any) -> str:
    if isinstance(result, tuple):
        return f"({', '.join(type(element).__name__ for element in result)})"
    return type(result).__name__
