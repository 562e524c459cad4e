"""Checks of arguments. Each returns the value, or raises an error with the argument, its value and the allowed values.

A boolean does not pass as a number, nor a text as a sequence.
"""

import math
import numbers
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike._core.wording import did_you_mean

T = TypeVar("T")

_LONGEST_REPR = 60  # characters of a value in a message
_LARGEST_SEED = 2**32 - 1  # NumPy and scikit-learn take no larger ones
_ROUNDING = 1e-3  # of probabilities in half precision


def whole_number(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Checks a whole number, also one of NumPy's, and returns it as an int.

    Example:
        >>> whole_number("batch_size", 0, least=1)
        Traceback (most recent call last):
        ...
        lookalike._core.errors.LookalikeError: batch_size must be a whole number of at least 1, not 0
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or (least is not None and value < least) or (most is not None and value > most):
        raise unfit(name, value, "a whole number" + _bounds(least, most))
    return int(value)


def number(
    name: str,
    value: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> float:
    """Checks a finite number within bounds, and returns it as a float. ``above`` and ``below`` exclude the bound.

    Example:
        >>> number("keep", float("nan"), above=0, below=1)
        Traceback (most recent call last):
        ...
        lookalike._core.errors.LookalikeError: keep must be a number above 0 and below 1, not nan
    """
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool | np.bool_)
    if (
        not is_real
        or not math.isfinite(value)
        or (least is not None and value < least)
        or (most is not None and value > most)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        raise unfit(name, value, "a number" + _bounds(least, most, above, below))
    return float(value)


def seed(name: str, value: Any) -> int:
    """Checks a seed: a whole number from 0 to 2³² − 1, the range of NumPy and scikit-learn."""
    return whole_number(name, value, 0, _LARGEST_SEED)


def flag(name: str, value: Any) -> bool:
    """Checks True or False; other values such as 0 and 1 are refused."""
    if not isinstance(value, bool | np.bool_):
        raise unfit(name, value, "True or False")
    return bool(value)


def progress(name: str, value: Any) -> Any:
    """Checks the option for progress bars: True, False, None, or the function that moves a bar."""
    return value if value is None or callable(value) else flag(name, value)


def optional(check: Callable[..., T], name: str, value: Any, *bounds: Any) -> T | None:
    """Returns None unchanged, and checks any other value."""
    return None if value is None else check(name, value, *bounds)


def field(instance: object, name: str, check: Callable[..., Any], *bounds: Any, optional: bool = False) -> None:
    """Checks a field of a dataclass, also of a frozen one, and keeps what the check returns, such as NumPy's 3 as 3."""
    value = getattr(instance, name)
    if value is not None or not optional:
        object.__setattr__(instance, name, check(name, value, *bounds))


def one_of(name: str, value: T, options: Collection[str]) -> T:
    """Checks that a value is one of a few texts.

    Example:
        >>> one_of("scope", "x", ("class", "all"))
        Traceback (most recent call last):
        ...
        lookalike._core.errors.LookalikeError: scope must be 'class' or 'all', not 'x'
    """
    if not isinstance(value, str) or value not in options:
        *first_options, last = (repr(option) for option in options)
        raise unfit(name, value, f"{', '.join(first_options)} or {last}" if first_options else last)
    return value


def instance(name: str, value: T, types: type | tuple[type, ...], expected: str) -> T:
    """Checks the type of a value. ``expected`` describes the type in the message."""
    if not isinstance(value, types):
        raise unfit(name, value, expected)
    return value


def model(name: str, value: T) -> T:
    """Checks that a value is a network."""
    return instance(name, value, nn.Module, "a torch.nn.Module")


def text(name: str, value: str) -> str:
    """Checks that a value is a text and not empty."""
    if not isinstance(value, str) or not value:
        raise unfit(name, value, "a text that is not empty")
    return value


def output_key(name: str, value: str | int | None) -> str | int | None:
    """Checks the key or position of a network's output, or None."""
    if value is None or isinstance(value, str):
        return value
    return whole_number(name, value, 0)


def path(name: str, value: str | os.PathLike[str]) -> Path:
    """Checks the name of a file or folder, and returns it as a path."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value) or "\0" in str(os.fspath(value)):
        raise unfit(name, value, "the name of a file or folder")
    return Path(value)


def names(name: str, value: Sequence[str], count: int | None = None) -> list[str]:
    """Checks a sequence of texts, and returns it as a list.

    Args:
        name: Name of the argument.
        value: Sequence of texts; a single text is refused.
        count: Number of texts that there must be.
    """
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        raise unfit(name, value, "a list of texts")
    listed = list(value)
    not_texts = [item for item in listed if not isinstance(item, str)]
    if not_texts:
        raise LookalikeError(f"{name} must hold texts, not {shown(not_texts[0])}")
    if count is not None and len(listed) != count:
        raise LookalikeError(f"{name} must hold {count} texts; there are {len(listed)}")
    return [str(item) for item in listed]


def mapping(name: str, value: Any) -> Mapping[str, Any]:
    """Checks that a value is a mapping with texts as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise unfit(name, value, "a mapping from texts to values")
    return value


def tensor(
    name: str, value: Any, shape: Sequence[int | str] | None = None, *, kind: str | None = None, empty: bool = True
) -> Tensor:
    """Checks shape and type of a tensor. Arrays and lists of numbers become tensors.

    Args:
        name: Name of the argument.
        value: A tensor, an array, or numbers in lists.
        shape: Size of each axis. A letter stands for any size; axes with the same letter must have the same size.
        kind: ``"number"`` for real numbers, ``"whole"`` for whole ones (not booleans); None takes any type.
        empty: The tensor may have no entries.
    """
    try:
        converted = value if isinstance(value, Tensor) else torch.as_tensor(_as_numbers(value))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise unfit(name, value, _describe_tensor(shape, kind)) from None
    # The first axis with a letter sets the letter's size; later axes with the letter must have the same.
    sizes: dict[str, int] = {}
    fits = shape is None or (
        converted.ndim == len(shape)
        and all(
            size == (sizes.setdefault(axis, size) if isinstance(axis, str) else axis)
            for axis, size in zip(shape, converted.shape, strict=True)
        )
    )
    if kind is not None and (converted.is_complex() or converted.dtype == torch.bool):
        fits = False
    # An empty list has become float32, but fits any kind.
    if kind == "whole" and converted.is_floating_point() and converted.numel():
        fits = False
    if not fits:
        raise unfit(name, converted, _describe_tensor(shape, kind))
    if not empty and not converted.numel():
        raise LookalikeError(f"{name} must not be empty; it has the shape {tuple(converted.shape)}")
    return converted


def finite(name: str, value: Tensor) -> Tensor:
    """Checks that a tensor has neither NaN nor infinite values; returns it."""
    if value.is_floating_point() and not bool(value.isfinite().all()):
        raise LookalikeError(f"{name} must not have NaN or infinite values")
    return value


def probabilities(name: str, value: Tensor) -> Tensor:
    """Checks that the values of a tensor lie in [0, 1], but for rounding; returns them cut off there.

    Example:
        >>> probabilities("confidences", torch.tensor([0.5, 99.0]))
        Traceback (most recent call last):
        ...
        lookalike._core.errors.LookalikeError: confidences must be probabilities, from 0 to 1, not 99
    """
    outside = finite(name, value)[(value < -_ROUNDING) | (value > 1 + _ROUNDING)]
    if len(outside):
        raise LookalikeError(f"{name} must be probabilities, from 0 to 1, not {float(outside[0]):.4g}")
    return value.clamp(0, 1)


def array(name: str, value: Any, shape: Sequence[int | str], kind: str = "number") -> np.ndarray:
    """Checks an array of numbers; see ``tensor``."""
    return tensor(name, value, shape, kind=kind).detach().cpu().numpy()


def labels_of(name: str, value: Any, names: Sequence[str], count: int | str = "P") -> np.ndarray:
    """Checks labels: an array of whole numbers, each the index of a class name."""
    return class_indices(name, value, len(names), (count,)).cpu().numpy()


def points(name: str, value: Any) -> np.ndarray:
    """Checks at least one point [n, D]. Returns an array of finite real numbers in float32 or float64."""
    array = tensor(name, value, ("n", "D"), kind="number").detach().cpu()
    if not array.numel():
        raise LookalikeError(f"{name} must not be empty; it has the shape {tuple(array.shape)}")
    if not bool(array.isfinite().all()):
        raise LookalikeError(f"{name} must be finite; there are NaN or infinite values")
    if isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float64):
        return value
    return (array if array.dtype in (torch.float32, torch.float64) else array.float()).numpy()


def class_indices(
    name: str, value: Any, n_classes: int, shape: Sequence[int | str] = ("N",), what: str = "class"
) -> Tensor:
    """Checks whole numbers from 0 to ``n_classes`` − 1, and returns them as an int64 tensor.

    Example:
        >>> class_indices("target", [0, 3], 3)
        Traceback (most recent call last):
        ...
        lookalike._core.errors.LookalikeError: target 3 is no class; there are 0 to 2
    """
    indices = tensor(name, value, shape, kind="whole").long()
    invalid = indices[(indices < 0) | (indices >= n_classes)]
    if len(invalid):
        allowed = f"0 to {n_classes - 1}" if n_classes > 1 else "only 0" if n_classes else "none"
        raise LookalikeError(f"{name} {int(invalid[0])} is no {what}; there are {allowed}")
    return indices


def unfit(name: str, value: Any, expected: str) -> LookalikeError:
    """Returns the error for a value that an argument does not take."""
    return LookalikeError(f"{name} must be {expected}, not {shown(value)}")


def shown(value: Any) -> str:
    """Describes a value of any type in a few words, for a message.

    Example:
        >>> shown(torch.zeros(2, 3)), shown("x"), shown(nn.ReLU())
        ('a float32 tensor of shape (2, 3)', "'x'", 'a ReLU')
    """
    if isinstance(value, Tensor):
        return f"a {str(value.dtype).removeprefix('torch.')} tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray) and value.ndim:
        return f"a {value.dtype} array of shape {value.shape}"
    if value is None or isinstance(value, str | bytes | bool | numbers.Number | np.generic | tuple | list | dict | set):
        text = repr(value.item() if isinstance(value, np.generic) else value)
        return text if len(text) <= _LONGEST_REPR else f"{text[:_LONGEST_REPR]}…"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def _as_numbers(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype.kind not in "biufc":
        raise TypeError(array.dtype)
    if not array.size:
        return array.astype(np.float32)
    return array if array.flags.writeable and array.dtype.isnative else np.array(array, array.dtype.newbyteorder("="))


def _describe_tensor(shape: Sequence[int | str] | None, kind: str | None) -> str:
    kind_text = {None: "a tensor", "number": "a tensor of numbers", "whole": "a tensor of whole numbers"}[kind]
    if shape is None:
        return kind_text
    if not shape:
        return {"whole": "a whole number", "number": "a number"}.get(kind or "", kind_text)
    return f"{kind_text} [{', '.join(map(str, shape))}]"


def _bounds(least: float | None, most: float | None, above: float | None = None, below: float | None = None) -> str:
    if least is not None and most is not None:
        return f" from {least} to {most}"
    bounds = [
        f"{words} {bound}"
        for words, bound in (("of at least", least), ("above", above), ("of at most", most), ("below", below))
        if bound is not None
    ]
    return " " + " and ".join(bounds) if bounds else ""


def option_names(function: str, options: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Refuses options that a function does not take, as Python does.

    Raises:
        TypeError: If there is one. The message suggests the option with the most similar spelling.

    Example:
        >>> option_names("convert", {"clusterer": "kmeans"}, ["clusterer", "n_init"])
    """
    for name in options:
        if name not in allowed:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{did_you_mean(name, allowed)}")
