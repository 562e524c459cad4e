"""A saved folder on disk: ``config.json``, ``model.safetensors`` and further files, with a checksum of each.

``config.json`` holds the format's number, the SHA-256 and the length of every other file, and a SHA-256 of itself.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.fresh_folder import fresh_folder
from lookalike._core.names import valid_json
from lookalike._core.provenance import fingerprint_file, fingerprint_json
from lookalike._core.records import from_json, kind_of, one_line, parse_json, plain_json, read_bytes, shown
from lookalike._core.replacing import roll_back
from lookalike.data import Preprocessing
from lookalike.saved.tensor_file import read_header, read_tensors, write_tensors

CONFIG = "config.json"
TENSORS = "model.safetensors"
FORMAT = 2  # 1 had no kind and no lengths of files, and called encoder.network "class"

_WORDS = {"prototype-model": "model", "classifier": "classifier"}  # kinds of saved folders → what errors call them


class Record(Protocol):
    """What a saved folder says of itself: a frozen dataclass of plain values.

    Attributes:
        kind: ``"prototype-model"`` or ``"classifier"``.
        preprocessing: What its images go through, where that is known.
    """

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What images go through."""


Saved = TypeVar("Saved", bound=Record)


@dataclass(frozen=True)
class _File:
    """What ``config.json`` says of a file."""

    sha256: str
    bytes: int | None = None  # format 1 did not tell


def write_saved(
    folder: str | Path,
    record: Record,
    tensors: Mapping[str, Tensor],
    files: Mapping[str, bytes],
    *,
    overwrite: bool = False,
) -> None:
    """Writes a saved folder; it appears only when it is complete.

    Args:
        folder: Where to.
        record: What it says of itself.
        tensors: Written to ``model.safetensors``.
        files: Further files by their relative names.
        overwrite: Replace the folder if there is one.

    Raises:
        LookalikeError: If the folder may not be replaced, or what would be written could not be read again.
    """
    content = _plain_record(record)
    with fresh_folder(folder, marker=CONFIG, overwrite=overwrite) as aside:
        # copies, as safetensors refuses tensors that share memory
        write_tensors({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, aside / TENSORS)
        for name, data in files.items():
            _check_name(name)
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        listed = {
            name: {"bytes": (aside / name).stat().st_size, "sha256": fingerprint_file(aside / name)}
            for name in sorted([TENSORS, *files])
        }
        whole = {"format": FORMAT, "kind": record.kind, **content, "files": listed}
        whole["fingerprint"] = fingerprint_json(whole)
        # half a character, which stands for a raw byte of a name, is written as its escape
        text = (json.dumps(whole, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        (aside / CONFIG).write_bytes(text)
        shutil.copymode(aside / CONFIG, aside / TENSORS)  # safetensors writes for its owner alone
        _flush(aside / TENSORS)
        _flush(aside / CONFIG)


def _plain_record(record: Record) -> dict[str, Any]:
    """Returns a record as JSON values, checked as when it is read.

    Raises:
        LookalikeError: If it could not be read again.
    """
    values = {**asdict(record), "preprocessing": record.preprocessing.to_dict() if record.preprocessing else None}
    plain: dict[str, Any] = valid_json(plain_json(values))
    what = _WORDS[record.kind]
    try:
        from_json(type(record), plain, what)
    except LookalikeError as error:
        raise LookalikeError(f"the {what} cannot be saved: {error}") from error
    return plain


def read_saved(folder: str | Path, kind: type[Saved]) -> tuple[Saved, dict[str, Tensor]]:
    """Reads a saved folder, which may come from anyone.

    Args:
        folder: What ``write_saved`` wrote.
        kind: The class of the record.

    Returns:
        What it says of itself, and its tensors by their names, of which only the file was checked.

    Raises:
        LookalikeError: If it is no saved folder, of the other kind or of a later format, or a file is missing, altered
            or damaged; it names the file.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if config["kind"] != kind.kind:
        raise LookalikeError(f"{str(folder)!r} holds a saved {_WORDS[config['kind']]}, not a {_WORDS[kind.kind]}")
    what = _WORDS[kind.kind]
    content = {name: value for name, value in config.items() if name not in ("format", "kind", "files", "fingerprint")}
    with refusing(f"the saved {what} in {str(folder)!r} cannot be used"):
        record = from_json(kind, content, CONFIG)
        files = from_json(dict[str, _File], config["files"], f"{CONFIG}.files")
        _check_listed(files, [name for row in getattr(record, "images", None) or [] for name in row])
    for name, file in files.items():
        _check_file(folder, name, file, what)
    with refusing(f"{TENSORS!r} of the saved {what} in {str(folder)!r} is damaged"):
        read_header(folder / TENSORS)
        return record, read_tensors(folder / TENSORS)


def kind_of_folder(folder: str | Path) -> str | None:
    """Returns what a folder holds, ``"prototype-model"`` or ``"classifier"``; None if it is no saved folder.

    Only ``config.json`` is looked at.
    """
    try:
        return str(_read_config(Path(folder))["kind"])
    except LookalikeError:
        return None


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """Returns how a saved model or classifier was made; only ``config.json`` is looked at.

    Raises:
        LookalikeError: If there is none, it was altered, or it is of a later format.
    """
    provenance = _read_config(Path(folder)).get("provenance")
    return provenance if isinstance(provenance, dict) else {}


class refusing:  # noqa: N801 - used as a function
    """A context that puts what is wrong before the reason why."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, LookalikeError | OSError):
            raise LookalikeError(f"{self.what}: {one_line(error)}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    """Reads ``config.json`` as the newest format has it, with a known kind."""
    try:
        roll_back(folder)
        is_folder = folder.is_dir()
    except (OSError, ValueError):  # of a name that no folder can have
        is_folder = False
    if not is_folder:
        raise LookalikeError(f"{str(folder)!r} is not a folder with a saved model")
    what = f"{CONFIG!r} in {str(folder)!r}"
    try:
        config: Any = parse_json(read_bytes(folder / CONFIG))
    except FileNotFoundError:
        raise LookalikeError(f"{str(folder)!r} holds no saved model: {CONFIG!r} is missing") from None
    except (OSError, LookalikeError) as error:
        raise LookalikeError(f"cannot read {what}: {one_line(getattr(error, 'strerror', None) or error)}") from error
    if not isinstance(config, dict) or not {"format", "files", "fingerprint"} <= set(config):
        raise LookalikeError(f"{what} is not that of a saved lookalike model")
    number = config["format"]
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise LookalikeError(f"{what} has no known format: {shown(number)}")
    content = {key: value for key, value in config.items() if key != "fingerprint"}
    altered = fingerprint_json(content) != config["fingerprint"]
    if number > FORMAT:
        raise LookalikeError(
            f"the saved model in {str(folder)!r} was written by a later version of lookalike{' or altered' * altered} "
            f"(it has format {number}; this version reads up to {FORMAT}); update lookalike"
        )
    if altered:
        raise LookalikeError(f"{CONFIG!r} of the saved model in {str(folder)!r} was altered: its fingerprint differs")
    if number == 1:
        config = _from_format_1(config)
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in _WORDS:
        raise LookalikeError(f"{what} has the unknown kind {shown(kind)}; there are: {', '.join(_WORDS)}")
    return dict(config)


def _from_format_1(config: dict[str, Any]) -> dict[str, Any]:
    encoder, files = config.get("encoder"), config["files"]
    if isinstance(encoder, dict) and "class" in encoder:
        encoder = {**{key: value for key, value in encoder.items() if key != "class"}, "network": encoder["class"]}
    if isinstance(files, dict):
        files = {name: {"sha256": value} for name, value in files.items()}
    return {**config, "kind": config.get("kind", "prototype-model"), "encoder": encoder, "files": files}


def _check_listed(files: Mapping[str, _File], pictures: list[str]) -> None:
    for name in files:
        _check_name(name)
    unlisted = [name for name in (TENSORS, *pictures) if name not in files]
    if unlisted:
        raise LookalikeError(f"it has no fingerprint of {shown(unlisted[0])}")


def _check_name(name: str) -> None:
    """Checks that a file's name stays within its folder, on any system."""
    steps = name.split("/")
    if name == CONFIG or any(step in ("", ".", "..") for step in steps) or any(c in name for c in "\0\\:"):
        raise LookalikeError(f"it names a file outside of it, or none: {shown(name)}")


def _check_file(folder: Path, name: str, file: _File, what: str) -> None:
    saved = f"the saved {what} in {str(folder)!r}"
    try:
        for parent in list(Path(name).parents)[:-1]:
            if (folder / parent).is_symlink():
                raise LookalikeError(f"{saved} names a file outside of it: {name!r} is behind a link")
        status = (folder / name).lstat()
        if kind_of(status.st_mode) != "a file":
            raise LookalikeError(f"{name!r} of {saved} is {kind_of(status.st_mode)}, not a file")
        if file.bytes is not None and status.st_size != file.bytes:
            raise LookalikeError(
                f"{name!r} of {saved} was altered: it has {status.st_size:,} bytes, not {file.bytes:,}"
            )
        if fingerprint_file(folder / name) != file.sha256:
            raise LookalikeError(f"{name!r} of {saved} was altered: its fingerprint differs")
    except (FileNotFoundError, NotADirectoryError):
        raise LookalikeError(f"{saved} is incomplete: {name!r} is missing") from None
    except OSError as error:
        raise LookalikeError(f"{shown(name)} of {saved} cannot be read: {error.strerror}") from error


def _flush(path: Path) -> None:
    """Sees a file safely on the disk, so that a power failure after the replacement does not lose it."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
