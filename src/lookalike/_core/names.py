r"""Safe text from names of files, folders and classes, which anyone may have chosen.

A file's name is bytes. Python turns bytes that are not text into lone surrogates, which cannot be written to a file;
and a name may have newlines, terminal commands or characters that reverse the text. There are three safe forms:

* ``text_of`` returns valid Unicode, for class names and for everything that is written to a file: ``caf\xe9``
* ``visible`` returns one line that a screen shows as it is, for messages: ``a\nb``, ``\x1b[2J``
* ``name_key`` returns a key to compare names: it is the same for composed and decomposed letters
"""

import json
import os.path
import re
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import PurePath, PurePosixPath
from typing import Any
from urllib.parse import quote_from_bytes

_JOINERS = "\u200c\u200d"  # needed in Persian and Indic scripts and in emoji; they hide nothing
_INVISIBLE_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet takes such text for a formula
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|[nrt])")  # what ``visible`` writes
_FILE_NAME_BYTES = 120  # file systems take 255, and callers add prefixes and endings
_BYTES_SUFFIX = "_bytes"


def bytes_of(name: str) -> bytes:
    """Returns a name's bytes: UTF-8, and the original byte for each surrogate that stands for one."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half of a surrogate pair, which Windows allows in names
        return name.encode("utf-8", "surrogatepass")


def text_of(name: str) -> str:
    r"""Returns a name as valid Unicode, the same in every locale; bytes that are not UTF-8 become ``\xNN``.

    Example:
        >>> print(text_of(b"caf\xe9.png".decode("utf-8", "surrogateescape")))
        caf\xe9.png
    """
    return bytes_of(name).decode("utf-8", "backslashreplace") if has_surrogates(name) else name


def has_surrogates(name: str) -> bool:
    """Returns whether a text has surrogates, so that it is not valid Unicode."""
    if name.isascii():
        return False
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def visible(text: str, keep: str = "") -> str:
    r"""Escapes all characters of a text that a screen would obey or hide, or cannot show.

    Args:
        text: Any text.
        keep: Characters to leave as they are, such as newlines.

    Example:
        >>> print(visible("red\x1b[31m\nor not"))
        red\x1b[31m\nor not
    """
    text = text_of(text)
    if text.isprintable():
        return text
    return "".join(
        character
        if character in keep or _is_visible(character)
        else _SHORT_ESCAPES.get(character) or _escape(character)
        for character in text
    )


def spreadsheet_cell(value: Any) -> Any:
    """Returns a value for a cell of a CSV file: "" for None; text that a spreadsheet would run gets an apostrophe."""
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_BEGINS) else value


def name_key(name: str) -> str:
    """Returns a key to compare names by: é has the same key as one character and as a letter with an accent."""
    return unicodedata.normalize("NFC", text_of(name))


def file_name(name: str) -> str:
    """Returns a name for any file system: letters, digits, ``-``, ``_``, dots inside; at most 120 bytes."""
    text = unicodedata.normalize("NFC", text_of(name))
    characters = [
        character if character in "-_." or unicodedata.category(character)[0] in "LMN" else "_" for character in text
    ]
    text = "".join(characters).encode()[:_FILE_NAME_BYTES].decode(errors="ignore").strip(".")
    try:
        text.encode(sys.getfilesystemencoding())
    except UnicodeEncodeError:
        text = "".join(character if character.isascii() else "_" for character in text)
    return text or "_"


def telling_name(name: str | None) -> str | None:
    r"""Returns a file's name as a screen can show it; None if it tells a reader nothing.

    That is a name without letters and digits, or one of which more is escaped than can be shown.

    Example:
        >>> telling_name("ants/17.png"), telling_name("ants/ \x07.png"), telling_name("\x01a\x02.png")
        ('ants/17.png', None, None)
    """
    shown = visible(name or "")
    readable, n_escapes = _ESCAPE.subn("", PurePosixPath(shown).stem)
    if not any(character.isalnum() for character in readable) or n_escapes > len(readable):
        return None
    return shown


def without_common_folder(names: Sequence[str]) -> list[str]:
    """Leaves out the folder that all names of files begin with.

    Example:
        >>> without_common_folder(["images/train/ant/1.png", "images/train/bee/2.png"])
        ['ant/1.png', 'bee/2.png']
    """
    folders = {str(PurePath(name).parent) for name in names}
    if not folders or len({PurePath(folder).is_absolute() for folder in folders}) > 1:
        return list(names)
    common = os.path.commonpath(folders)
    if len(folders) == 1:  # all in one folder: its own name may be the class
        common = str(PurePath(common).parent)
    if common in ("", "."):
        return list(names)
    prefix = common if common.endswith(os.sep) else common + os.sep
    return [name.removeprefix(prefix) for name in names]


def valid_json(value: Any) -> Any:
    r"""Makes every text in a JSON value valid Unicode, without loss of information.

    An invalid text, ``"file": "caf\\xe9.png"``, gets a second entry with its bytes, percent-encoded as in a URL:
    ``"file_bytes": "caf%E9.png"``. For a list of texts, the second entry is a list, with null for each valid text.
    """
    if isinstance(value, str):
        return text_of(value)
    if isinstance(value, list | tuple):
        return [valid_json(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    valid: dict[Any, Any] = {}
    for key, item in value.items():
        name = text_of(key) if isinstance(key, str) else key
        valid[name] = valid_json(item)
        if isinstance(item, str) and has_surrogates(item):
            valid[f"{name}{_BYTES_SUFFIX}"] = _percent(item)
        elif isinstance(item, list | tuple) and any(
            isinstance(element, str) and has_surrogates(element) for element in item
        ):
            valid[f"{name}{_BYTES_SUFFIX}"] = [
                _percent(element) if isinstance(element, str) and has_surrogates(element) else None for element in item
            ]
    return valid


def json_text(value: Any, *, indent: int | None = None, allow_nan: bool = False, **options: Any) -> str:
    r"""Returns JSON that can be written to any file and shown on any screen: invisible characters become ``\uNNNN``.

    Args:
        value: Values that JSON can represent. Texts need not be valid Unicode; see ``valid_json``.
        indent: Spaces per level; None writes one line.
        allow_nan: Write NaN and infinities, which other readers of JSON may refuse.
        **options: Options of ``json.dumps``.

    Raises:
        ValueError: If there is a NaN or an infinity, and ``allow_nan`` is False.
    """
    options.setdefault("ensure_ascii", False)
    text = json.dumps(valid_json(value), indent=indent, allow_nan=allow_nan, **options)
    if text.isprintable():
        return text
    return "".join(
        character if character == "\n" or _is_visible(character) else json.dumps(character)[1:-1] for character in text
    )


def _is_visible(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in _INVISIBLE_CATEGORIES


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _percent(name: str) -> str:
    return quote_from_bytes(bytes_of(name))
