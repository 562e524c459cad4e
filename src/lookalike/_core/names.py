r"""Names from outside as text: file names, folder names and class names, which anyone may have chosen.

A file's name is bytes. Python reads bytes that are not text as lone surrogates, which no writer takes; and a name may
hold newlines, terminal commands or signs that turn the direction of the text. Three forms are used:

* ``text_of`` is valid Unicode, for class names and for whatever is written to a file: ``caf\xe9``
* ``visible`` is one line that a screen shows as it is, for messages: ``a\nb``, ``\x1b[2J``
* ``name_key`` is what two names are compared by: the same letters, however they are composed
"""

import json
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_from_bytes

_JOINERS = "\u200c\u200d"  # of Persian and Indic scripts and of emoji; they hide nothing
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_FILE_NAME_BYTES = 120
_BYTES = "_bytes"


def bytes_of(name: str) -> bytes:
    """Returns a name's bytes: UTF-8, and where Python could not read a byte as text, that byte."""
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, as Windows allows it
        return name.encode("utf-8", "surrogatepass")


def text_of(name: str) -> str:
    r"""Returns a name as valid Unicode, the same in every locale: bytes that are not UTF-8 become ``\xNN``.

    Example:
        >>> print(text_of(b"caf\xe9.png".decode("utf-8", "surrogateescape")))
        caf\xe9.png
    """
    return bytes_of(name).decode("utf-8", "backslashreplace") if has_surrogates(name) else name


def has_surrogates(name: str) -> bool:
    """Says whether a text is not valid Unicode."""
    if name.isascii():
        return False
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def visible(text: str, keep: str = "") -> str:
    r"""Returns a text in which everything that a screen would obey, hide or not show is written out.

    Args:
        text: Any text.
        keep: Signs that stay, e.g. newlines.

    Example:
        >>> print(visible("red\x1b[31m\nor not"))
        red\x1b[31m\nor not
    """
    text = text_of(text)
    if text.isprintable():
        return text
    return "".join(sign if sign in keep or _is_seen(sign) else _SHORT.get(sign) or _escape(sign) for sign in text)


def name_key(name: str) -> str:
    """Returns what a name is compared by: é is é, as one character or as a letter with an accent."""
    return unicodedata.normalize("NFC", text_of(name))


def file_name(name: str) -> str:
    """Returns a name that every file system takes: letters, digits, ``-``, ``_``, dots inside, of at most 120 bytes."""
    text = unicodedata.normalize("NFC", text_of(name))
    signs = [sign if sign in "-_." or unicodedata.category(sign)[0] in "LMN" else "_" for sign in text]
    text = "".join(signs).encode()[:_FILE_NAME_BYTES].decode(errors="ignore").strip(".")
    try:
        text.encode(sys.getfilesystemencoding())
    except UnicodeEncodeError:
        text = "".join(sign if sign.isascii() else "_" for sign in text)
    return text or "_"


def valid_json(value: Any) -> Any:
    r"""Returns a JSON value in which every text is valid Unicode, and nothing is lost.

    Beside a text that was not, ``"file": "caf\\xe9.png"``, stand its bytes, percent-encoded as in an address:
    ``"file_bytes": "caf%E9.png"``; beside a list of texts, a list of those, with null for each valid text.
    """
    if isinstance(value, str):
        return text_of(value)
    if isinstance(value, list | tuple):
        return [valid_json(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    written: dict[Any, Any] = {}
    for key, item in value.items():
        name = text_of(key) if isinstance(key, str) else key
        written[name] = valid_json(item)
        if isinstance(item, str) and has_surrogates(item):
            written[f"{name}{_BYTES}"] = _percent(item)
        elif isinstance(item, list | tuple) and any(isinstance(one, str) and has_surrogates(one) for one in item):
            written[f"{name}{_BYTES}"] = [
                _percent(one) if isinstance(one, str) and has_surrogates(one) else None for one in item
            ]
    return written


def json_text(value: Any, *, indent: int | None = None, allow_nan: bool = False, **options: Any) -> str:
    r"""Returns JSON that any file and any screen takes: what is not seen is written as ``\uNNNN``.

    Args:
        value: Plain values; texts need not be valid (see ``valid_json``).
        indent: Spaces per level; None is one line.
        allow_nan: Write NaN and infinities, which other readers of JSON may refuse.
        **options: For ``json.dumps``.

    Raises:
        ValueError: If there is a NaN or an infinity, and ``allow_nan`` is False.
    """
    options.setdefault("ensure_ascii", False)
    text = json.dumps(valid_json(value), indent=indent, allow_nan=allow_nan, **options)
    if text.isprintable():
        return text
    return "".join(sign if sign == "\n" or _is_seen(sign) else json.dumps(sign)[1:-1] for sign in text)


def _is_seen(sign: str) -> bool:
    return sign in _JOINERS or unicodedata.category(sign) not in _UNSEEN


def _escape(sign: str) -> str:
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _percent(name: str) -> str:
    return quote_from_bytes(bytes_of(name))
