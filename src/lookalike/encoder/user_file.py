"""Builds networks with a function in a user's own file."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from lookalike._core.errors import LookalikeError
from lookalike.data import Preprocessing


def read_function(spec: str) -> Callable[..., Any]:
    """Returns the function that ``path/to/file.py:function`` names; this runs the file.

    Raises:
        LookalikeError: If there is no such file or function, or the file cannot be imported.
    """
    path_text, _, function_name = spec.rpartition(":")
    path = Path(path_text).resolve()
    if not path.is_file():
        raise LookalikeError(f"{path_text!r} does not exist")
    module_spec = importlib.util.spec_from_file_location(f"_lookalike_user_{path.stem}", path)
    if module_spec is None or module_spec.loader is None:
        raise LookalikeError(f"{path_text!r} is not a Python file")
    module = importlib.util.module_from_spec(module_spec)
    sys.path.insert(0, str(path.parent))  # so that the file can import its neighbours
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise LookalikeError(f"{path_text!r} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.parent))
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if not callable(function):
        raise LookalikeError(f"{path_text!r} has no function {function_name!r}")
    return function


def call_function(spec: str, function: Any, args: dict[str, Any]) -> tuple[nn.Module, Preprocessing | None]:
    """Calls a user's function that returns a network, or a network and its ``Preprocessing``.

    Raises:
        LookalikeError: If it fails or returns something else.
    """
    try:
        result = function(**args)
    except Exception as error:
        raise LookalikeError(f"{spec} failed: {type(error).__name__}: {error}") from error
    model, preprocessing = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(model, nn.Module) or not isinstance(preprocessing, Preprocessing | None):
        raise LookalikeError(
            f"{spec} returned {_type_names(result)}; it must return a torch.nn.Module, or one and its Preprocessing"
        )
    return model, preprocessing


def _type_names(result: Any) -> str:
    if isinstance(result, tuple):
        return f"({', '.join(type(element).__name__ for element in result)})"
    return type(result).__name__
