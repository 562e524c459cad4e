"""JSON from anywhere, read strictly: what is no valid JSON, or not of the declared type, is refused in one line.

A record is a frozen dataclass. ``from_json`` reads one from JSON values by its annotations: every field is checked for
its type, unknown and missing fields are named.
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

_MOST_BYTES = 64 * 2**20
_MOST_VALUES = 4_000_000
_DEEPEST = 100
_MOST_DIGITS = 40
_NO_TEXT = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # half a character; the rest of the range stands for raw bytes
_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def one_line(error: BaseException | str, longest: int = 300) -> str:
    """Returns an error's message as one line, cut off where it is long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}…"


def read_bytes(path: Path, most: int = _MOST_BYTES) -> bytes:
    """Reads a regular file of bounded size.

    Raises:
        LookalikeError: If it is a link, a device or a folder, or larger than ``most``; the reason alone.
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
    """Says what an entry of a folder is, given its mode."""
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe"}
    return kinds.get(stat.S_IFMT(mode), "a device")


def read_json(path: str | Path, *, finite: bool = True) -> Any:
    """Reads a JSON file; see ``parse_json``.

    Raises:
        LookalikeError: If it is missing, no regular file, too large or no strict JSON; the reason alone.
    """
    try:
        path = Path(os.path.realpath(path))  # whoever names a file may name it by a link
        return parse_json(read_bytes(path), finite=finite)
    except FileNotFoundError:
        raise LookalikeError("it does not exist") from None
    except (OSError, ValueError) as error:
        if isinstance(error, LookalikeError):
            raise
        raise LookalikeError(getattr(error, "strerror", None) or one_line(error)) from error


def parse_json(content: bytes, *, finite: bool = True) -> Any:
    """Parses JSON in UTF-8.

    Args:
        content: The bytes of a file.
        finite: Refuse NaN and infinite numbers.

    Raises:
        LookalikeError: If it is no JSON, repeats a key, is nested too deeply, has numbers that are too large, or text
            that is none; the reason alone.
    """
    if sum(map(content.count, b"[{,")) > _MOST_VALUES:
        raise LookalikeError(f"it has more than {_MOST_VALUES:,} values")
    try:
        value = json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=functools.partial(_float, finite=finite),
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
        value: What ``parse_json`` returned.
        where: What the value is called in messages.

    Returns:
        The value, with lists as tuples and objects as dataclasses where the type says so.

    Raises:
        LookalikeError: If the value is not of that type; it names the place, the value and the type.

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
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _of_union(kind, parts, value, where)
    if origin is Literal:
        if not any(value == one and type(value) is type(one) for one in parts):
            _refuse(kind, value, where)
        return value
    if origin in (list, tuple):
        return _of_sequence(kind, origin, parts, value, where)
    if origin in (dict, Mapping) or kind is dict:
        if not isinstance(value, dict):
            _refuse(kind, value, where)
        content = parts[1] if parts else Any
        return {key: from_json(content, one, f"{where}.{key}") for key, one in value.items()}
    if dataclasses.is_dataclass(kind):
        return _of_record(kind, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        _refuse(kind, value, where)
    if kind is int and abs(value) >= 2**63:
        _refuse(kind, value, where)
    return value


def plain_json(value: Any) -> Any:
    """Returns a value as it would be read back from JSON: NumPy's numbers as Python's, NaN as null, others as text."""

    def plain(other: Any) -> Any:
        return other.item() if hasattr(other, "item") and getattr(other, "ndim", 0) == 0 else str(other)

    return json.loads(json.dumps(value, default=plain), parse_constant=lambda _: None)


def shown(value: Any) -> str:
    """Returns a value for a message, cut off where it is long."""
    return one_line(_SHORT.repr(value), 80)


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def _of_union(kind: Any, parts: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in parts:
        return None
    others = [one for one in parts if one is not type(None)]
    if len(others) == 1:
        return from_json(others[0], value, where)
    for one in others:
        try:
            return from_json(one, value, where)
        except LookalikeError:
            continue
    return _refuse(kind, value, where)


def _of_sequence(kind: Any, origin: Any, parts: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list | tuple):
        _refuse(kind, value, where)
    if origin is tuple and parts[-1] is not ...:
        if len(value) != len(parts):
            _refuse(kind, value, where)
        kinds: typing.Iterable[Any] = parts
    else:
        kinds = [parts[0]] * len(value)
    return origin(from_json(one, v, f"{where}[{i}]") for i, (one, v) in enumerate(zip(kinds, value, strict=True)))


def _of_record(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise LookalikeError(f"{where} must be an object, not {shown(value)}")
    hints, fields = typing.get_type_hints(kind), {field.name: field for field in dataclasses.fields(kind)}
    unknown = [key for key in value if key not in fields]
    if unknown:
        raise LookalikeError(f"{where} has an unknown entry {shown(unknown[0])}")
    missing = [
        name
        for name, field in fields.items()
        if name not in value and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise LookalikeError(f"{where} has no entry {missing[0]!r}")
    read = {name: from_json(hints[name], one, f"{where}.{name}") for name, one in value.items()}
    try:
        return kind(**read)
    except LookalikeError as error:
        raise LookalikeError(f"{where}: {error}") from error


def _refuse(kind: Any, value: Any, where: str) -> NoReturn:
    raise LookalikeError(f"{where} must be {_described(kind)}, not {shown(value)}")


def _described(kind: Any) -> str:
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(one) for one in parts)
    if origin is Literal:
        return " or ".join(repr(one) for one in parts)
    if origin is tuple and parts[-1] is not ...:
        return f"a list of {len(parts)}"
    if origin in (list, tuple):
        return "a list"
    if dataclasses.is_dataclass(kind) or origin in (dict, Mapping) or kind is dict:
        return "an object"
    return _NAMES.get(kind, str(kind))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise LookalikeError(f"it repeats the entry {shown(repeated)}")
    return value


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise LookalikeError(f"it has a number of {len(text)} digits")
    return int(text)


def _float(text: str, *, finite: bool) -> float:
    value = float(text)
    if finite and value in (float("inf"), -float("inf")):
        raise LookalikeError(f"it has a number that is too large: {shown(text)}")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise LookalikeError(f"it has the number {text}, which JSON does not know")


def _check_texts_and_depth(value: Any) -> None:
    waiting = [(value, 0)]
    while waiting:
        one, depth = waiting.pop()
        if depth > _DEEPEST:
            raise LookalikeError("it is nested too deeply")
        if isinstance(one, dict):
            waiting.extend((key, depth) for key in one)
            waiting.extend((inner, depth + 1) for inner in one.values())
        elif isinstance(one, list):
            waiting.extend((inner, depth + 1) for inner in one)
        elif isinstance(one, str) and not one.isascii() and _NO_TEXT.search(one):
            raise LookalikeError(f"it has text that is none: {shown(one)}")
