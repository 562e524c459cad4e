"""Strict reading of JSON from any source: invalid JSON and values of another type are refused in one line.

A record is a frozen dataclass. ``from_json`` reads one from JSON values by its annotations: it checks the type of every
field, and reports unknown and missing fields.
"""

import dataclasses
import functools
import json
import os
import re
import reprlib
import stat
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from lookalike._core.errors import LookalikeError

# Limits for files that anyone may have made, so that none fills the memory or the stack
MOST_BYTES = 64 * 2**20
_MOST_VALUES = 4_000_000
_MOST_LEVELS = 100
_MOST_DIGITS = 40
_MOST_NAMED_FIELDS = 8  # of an object, in an error
_HALF_CHARACTER = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # lone surrogates, except those that stand for raw bytes
_TYPE_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def one_line(error: BaseException | str, longest: int = 300) -> str:
    """Returns an error's message as one line, of limited length."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}…"


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """Reads a regular file of bounded size.

    Raises:
        LookalikeError: If it is a link, a device or a folder, or larger than ``most``; the text is the reason alone.
        OSError: If it cannot be read.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise LookalikeError(f"it is {kind_of(status.st_mode)}, not a file")
    if status.st_size > most:
        raise LookalikeError(f"it has {status.st_size:,} bytes; at most {most:,} are read")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise LookalikeError(f"it has more than {most:,} bytes")
    return content


def kind_of(mode: int) -> str:
    """Returns the kind of a folder's entry, such as "a link", from its mode."""
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_json(
    path: str | Path, *, finite: bool = True, most_bytes: int = MOST_BYTES, most_values: int = _MOST_VALUES
) -> Any:
    """Reads a JSON file; see ``parse_json``.

    Args:
        path: The file.
        finite: Refuse NaN and infinite numbers.
        most_bytes: Size of the largest file that is read.
        most_values: Largest number of values in it.

    Raises:
        LookalikeError: If it is missing, not a regular file, too large or not strict JSON; the text has only
            the reason.
    """
    try:
        path = Path(os.path.realpath(path))  # users may name a file by a link
        return parse_json(read_bytes(path, most_bytes), finite=finite, most_values=most_values)
    except FileNotFoundError:
        raise LookalikeError("it does not exist") from None
    except (OSError, ValueError) as error:
        if isinstance(error, LookalikeError):
            raise
        raise LookalikeError(getattr(error, "strerror", None) or one_line(error)) from error


def parse_json(content: bytes, *, finite: bool = True, most_values: int = _MOST_VALUES) -> Any:
    """Parses JSON in UTF-8.

    Args:
        content: Content of a file.
        finite: Refuse NaN and infinite numbers.
        most_values: Largest number of values.

    Raises:
        LookalikeError: If it is not JSON, repeats a key, is nested too deeply, has numbers that are too large or text
            that is not valid Unicode; the text is the reason alone.
    """
    # Counting brackets and commas bounds the number of values before any of them takes memory.
    if sum(map(content.count, b"[{,")) > most_values:
        raise LookalikeError(f"it has more than {most_values:,} values")
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_parse_object,
            parse_int=_parse_integer,
            parse_float=functools.partial(_parse_float, finite=finite),
            parse_constant=_refuse_constant if finite else float,
        )
    except UnicodeDecodeError as error:
        raise LookalikeError(f"it is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise LookalikeError("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise LookalikeError(f"it is not JSON: {error.msg} in line {error.lineno}") from None
    _check_texts_and_depth(value)
    return value


def from_json(kind: Any, value: Any, where: str) -> Any:
    """Reads a value of an annotated type from JSON values.

    Args:
        kind: A type: a dataclass, ``str``, ``int | None``, ``list[str]``, ``tuple[float, float]``, ``Literal[...]`` …
        value: Result of ``parse_json``.
        where: Name of the value in messages.

    Returns:
        The value. Lists become tuples and objects become dataclasses if the type asks for them.

    Raises:
        LookalikeError: If the value is not of that type; the text has its name, the value and the type.

    Example:
        >>> from_json(tuple[int, int] | None, [3, 4], "size")
        (3, 4)
        >>> from_json(list[str], ["a", 1], "class_names")
        Traceback (most recent call last):
        ...
        lookalike._core.errors.LookalikeError: class_names[1] must be text, not 1
    """
    if kind is Any:
        return value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(kind, arguments, value, where)
    if origin is Literal:
        if not any(value == item and type(value) is type(item) for item in arguments):
            _refuse(kind, value, where)
        return value
    if origin in (list, tuple):
        return _read_sequence(kind, origin, arguments, value, where)
    if origin in (dict, Mapping) or kind is dict:
        if not isinstance(value, dict):
            _refuse(kind, value, where)
        value_kind = arguments[1] if arguments else Any
        return {key: from_json(value_kind, item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, where)
    # JSON has one kind of number: 1 is a float, too. True is an int in Python, but not in JSON.
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        _refuse(kind, value, where)
    if kind is int and abs(value) >= 2**63:
        _refuse(kind, value, where)
    return value


def plain_json(value: Any) -> Any:
    """Converts a value to what JSON can represent: NumPy's numbers become Python's, NaN null, other objects text."""

    def plain(unknown: Any) -> Any:
        return unknown.item() if hasattr(unknown, "item") and getattr(unknown, "ndim", 0) == 0 else str(unknown)

    return json.loads(json.dumps(value, default=plain), parse_constant=lambda _: None)


def shown(value: Any) -> str:
    """Returns a value as text for a message, of limited length."""
    return one_line(_SHORT_REPR.repr(value), 80)


_SHORT_REPR = reprlib.Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = 60


def _read_union(kind: Any, members: tuple[Any, ...], value: Any, where: str) -> Any:
    """Reads a value of one of several types: the first that fits."""
    if value is None and type(None) in members:
        return None
    alternatives = [member for member in members if member is not type(None)]
    if len(alternatives) == 1:
        return from_json(alternatives[0], value, where)
    for member in alternatives:
        try:
            return from_json(member, value, where)
        except LookalikeError:
            continue
    return _refuse(kind, value, where)


def _read_sequence(kind: Any, origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """Reads a list or tuple, whose items have one type, or one type each."""
    if not isinstance(value, list | tuple):
        _refuse(kind, value, where)
    if origin is tuple and arguments[-1] is not ...:
        if len(value) != len(arguments):
            _refuse(kind, value, where)
        item_kinds: typing.Iterable[Any] = arguments
    else:
        item_kinds = [arguments[0]] * len(value)
    return origin(
        from_json(item_kind, item, f"{where}[{i}]")
        for i, (item_kind, item) in enumerate(zip(item_kinds, value, strict=True))
    )


def _read_dataclass(kind: Any, value: Any, where: str) -> Any:
    """Reads a dataclass from an object: no unknown entries, and all fields without a default."""
    if not isinstance(value, dict):
        raise LookalikeError(f"{where} must be an object, not {shown(value)}")
    hints, fields = typing.get_type_hints(kind), {field.name: field for field in dataclasses.fields(kind)}
    unknown = [key for key in value if key not in fields]
    if unknown:
        few = f"; it has {', '.join(fields)}" if len(fields) <= _MOST_NAMED_FIELDS else ""
        raise LookalikeError(f"{where} has an unknown entry {shown(unknown[0])}{few}")
    missing = [
        name
        for name, field in fields.items()
        if name not in value and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise LookalikeError(f"{where} has no entry {missing[0]!r}")
    values = {name: from_json(hints[name], entry, f"{where}.{name}") for name, entry in value.items()}
    try:
        return kind(**values)
    except LookalikeError as error:
        raise LookalikeError(f"{where}: {error}") from error


def _refuse(kind: Any, value: Any, where: str) -> NoReturn:
    raise LookalikeError(f"{where} must be {_describe_type(kind)}, not {shown(value)}")


def _describe_type(kind: Any) -> str:
    """Describes a type in words for a message."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe_type(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(repr(argument) for argument in arguments)
    if origin is tuple and arguments[-1] is not ...:
        return f"a list of {len(arguments)}"
    if origin in (list, tuple):
        return "a list"
    if dataclasses.is_dataclass(kind) or origin in (dict, Mapping) or kind is dict:
        return "an object"
    return _TYPE_NAMES.get(kind, str(kind))


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys_seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in keys_seen or keys_seen.add(key))  # type: ignore[func-returns-value]
        raise LookalikeError(f"it repeats the entry {shown(repeated)}")
    return value


def _parse_integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise LookalikeError(f"it has a number of {len(text)} digits")
    return int(text)


def _parse_float(text: str, *, finite: bool) -> float:
    value = float(text)
    if finite and value in (float("inf"), -float("inf")):
        raise LookalikeError(f"it has a number that is too large: {shown(text)}")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise LookalikeError(f"it has the number {text}, which JSON does not know")


def _check_texts_and_depth(value: Any) -> None:
    """Checks a parsed value without recursion, as deep nesting would exhaust the stack."""
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > _MOST_LEVELS:
            raise LookalikeError("it is nested too deeply")
        if isinstance(item, dict):
            waiting.extend((key, depth) for key in item)
            waiting.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list):
            waiting.extend((child, depth + 1) for child in item)
        elif isinstance(item, str) and not item.isascii() and _HALF_CHARACTER.search(item):
            raise LookalikeError(f"it has text that is not valid Unicode: {shown(item)}")
