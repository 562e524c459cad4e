"""Reads and writes saved folders: ``config.json``, ``model.safetensors`` and further files, each with a checksum.

``config.json`` holds the number of the format, the SHA-256 and the length of every other file, and its own SHA-256.
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
from lookalike._core.files import write_whole
from lookalike._core.fresh_folder import fresh_folder
from lookalike._core.names import valid_json
from lookalike._core.provenance import fingerprint_file, fingerprint_json
from lookalike._core.records import from_json, kind_of, one_line, parse_json, plain_json, read_bytes, shown
from lookalike._core.replacing import roll_back
from lookalike.data import Preprocessing
from lookalike.saved.tensor_file import read_header, read_tensors, write_tensors

CONFIG = "config.json"
TENSORS = "model.safetensors"
EDITS_JSON = "edits.json"  # the history of a model's edits, which ``lookalike.editing`` writes
FORMAT = 2  # 1 had no kind and no lengths of files, and called encoder.network "class"

_NOUNS = {"prototype-model": "model", "classifier": "classifier"}  # kinds of saved folders → nouns for messages


class Record(Protocol):
    """The content of ``config.json`` besides format and files: a frozen dataclass of plain values.

    Attributes:
        kind: ``"prototype-model"`` or ``"classifier"``.
        preprocessing: The preprocessing of its images, if known.
    """

    kind: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The preprocessing of images, if known."""


Saved = TypeVar("Saved", bound=Record)


@dataclass(frozen=True)
class _File:
    """The entry of a file in ``config.json``."""

    sha256: str
    bytes: int | None = None  # None in format 1


def write_saved(
    folder: str | Path,
    record: Record,
    tensors: Mapping[str, Tensor],
    files: Mapping[str, bytes],
    *,
    overwrite: bool = False,
    discard_edits: bool = False,
) -> None:
    """Writes a saved folder; it appears only when it is complete.

    Args:
        folder: The folder to write.
        record: The content of ``config.json``.
        tensors: The content of ``model.safetensors``.
        files: The content of further files by relative name.
        overwrite: Replace an existing folder.
        discard_edits: Replace it even if a history of edits is lost.

    Raises:
        LookalikeError: If the folder may not be replaced, or the record could not be read again.
    """
    content = _record_as_json(record)
    if EDITS_JSON not in files:
        check_no_edits(folder, discard=discard_edits)
    with fresh_folder(folder, marker=CONFIG, overwrite=overwrite) as new_folder:
        # safetensors refuses tensors that share memory
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_tensors(copies, new_folder / TENSORS)
        for name, data in files.items():
            _check_name(name)
            path = new_folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        file_entries = {
            name: {"bytes": (new_folder / name).stat().st_size, "sha256": fingerprint_file(new_folder / name)}
            for name in sorted([TENSORS, *files])
        }
        config = {"format": FORMAT, "kind": record.kind, **content, "files": file_entries}
        config["fingerprint"] = fingerprint_json(config)
        # lone surrogates, which stand for bytes of a file name that are no text, are written as escapes
        text = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")
        (new_folder / CONFIG).write_bytes(text)
        shutil.copymode(new_folder / CONFIG, new_folder / TENSORS)  # safetensors makes it readable by its owner only
        _flush_to_disk(new_folder / TENSORS)
        _flush_to_disk(new_folder / CONFIG)


def check_no_edits(folder: str | Path, *, discard: bool = False) -> None:
    """Checks that replacing a folder loses no history of edits.

    Args:
        folder: The folder that would be replaced; it need not exist.
        discard: Whether the user said that the history may be lost.

    Raises:
        LookalikeError: If it has a history that would be lost.
    """
    if not discard and (Path(folder) / EDITS_JSON).is_file():
        raise LookalikeError(
            f"{str(folder)!r} has a history of edits, which would be lost; write to another folder, or discard the "
            "history (--discard-edits of convert and calibrate, save(..., discard_edits=True))"
        )


def _record_as_json(record: Record) -> dict[str, Any]:
    """Returns a record as JSON values, after checking that it can be read again.

    Raises:
        LookalikeError: If it cannot be read again.
    """
    values = {**asdict(record), "preprocessing": record.preprocessing.to_dict() if record.preprocessing else None}
    plain: dict[str, Any] = valid_json(plain_json(values))
    noun = _NOUNS[record.kind]
    try:
        from_json(type(record), plain, noun)
    except LookalikeError as error:
        raise LookalikeError(f"the {noun} cannot be saved: {error}") from error
    return plain


def read_saved(folder: str | Path, kind: type[Saved]) -> tuple[Saved, dict[str, Tensor]]:
    """Reads a saved folder, which may come from anyone.

    Args:
        folder: A folder that ``write_saved`` wrote.
        kind: The class of the record.

    Returns:
        The record, and the tensors by name; shapes and values of the tensors are not checked.

    Raises:
        LookalikeError: If it is no saved folder, of the other kind or of a later format, or a file is missing, altered
            or damaged; the message names the file.
    """
    folder = Path(folder)
    config = _read_config(folder)
    if config["kind"] != kind.kind:
        raise LookalikeError(f"{str(folder)!r} holds a saved {_NOUNS[config['kind']]}, not a {_NOUNS[kind.kind]}")
    noun = _NOUNS[kind.kind]
    content = {name: value for name, value in config.items() if name not in ("format", "kind", "files", "fingerprint")}
    with refusing(f"the saved {noun} in {str(folder)!r} cannot be used"):
        record = from_json(kind, content, CONFIG)
        files = from_json(dict[str, _File], config["files"], f"{CONFIG}.files")
        _check_listed(files, [name for row in getattr(record, "images", None) or [] for name in row])
    for name, file in files.items():
        _check_file(folder, name, file, noun)
    with refusing(f"{TENSORS!r} of the saved {noun} in {str(folder)!r} is damaged"):
        read_header(folder / TENSORS)
        return record, read_tensors(folder / TENSORS)


def kind_of_folder(folder: str | Path) -> str | None:
    """Returns the kind of a saved folder, ``"prototype-model"`` or ``"classifier"``; None if it is none.

    Reads only ``config.json``.
    """
    try:
        return str(_read_config(Path(folder))["kind"])
    except LookalikeError:
        return None


def read_provenance(folder: str | Path) -> dict[str, Any]:
    """Returns the options, seeds and versions of a saved model or classifier; reads only ``config.json``.

    Raises:
        LookalikeError: If there is no ``config.json``, it was altered, or it is of a later format.
    """
    provenance = _read_config(Path(folder)).get("provenance")
    return provenance if isinstance(provenance, dict) else {}


def read_spec_of_own_network(folder: str | Path) -> dict[str, Any] | None:
    """Returns the spec of a saved prototype model's network if the user's own code built it, else None.

    Reads only ``config.json``.

    Raises:
        LookalikeError: If there is no ``config.json``, it was altered, or it is of a later format.
    """
    encoder = _read_config(Path(folder)).get("encoder")
    spec = encoder.get("spec") if isinstance(encoder, dict) else None
    is_own = isinstance(spec, dict) and spec.get("source") == "file" and isinstance(spec.get("args"), dict)
    return spec if is_own else None


def listed_files(folder: str | Path) -> dict[str, int | None]:
    """Returns the names that ``config.json`` lists, each within the folder, and the files' sizes in bytes, if known.

    Raises:
        LookalikeError: If there is no ``config.json``, it was altered, or a name leads outside of the folder.
    """
    files = from_json(dict[str, _File], _read_config(Path(folder))["files"], f"{CONFIG}.files")
    with refusing(f"the saved model in {str(folder)!r} cannot be used"):
        _check_listed(files, [])
    return {name: file.bytes for name, file in files.items()}


def without_checksum(folder: Path, name: str) -> None:
    """Removes a file from those that ``config.json`` checks, so that people may edit it."""
    config = _read_config(folder)
    files = {key: value for key, value in config["files"].items() if key != name}
    config = {key: value for key, value in config.items() if key != "fingerprint"} | {"files": files}
    config["fingerprint"] = fingerprint_json(config)
    write_whole(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


class refusing:  # noqa: N801 - used as a function
    """A context manager that turns errors into a ``LookalikeError`` whose message starts with ``problem``."""

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, LookalikeError | OSError):
            raise LookalikeError(f"{self.problem}: {one_line(error)}") from error


def _read_config(folder: Path) -> dict[str, Any]:
    """Reads ``config.json``, checks its format and fingerprint, and converts it to the newest format."""
    try:
        roll_back(folder)
        is_folder = folder.is_dir()
    except (OSError, ValueError):  # the name cannot be a folder's
        is_folder = False
    if not is_folder:
        raise LookalikeError(f"{str(folder)!r} is not a folder with a saved model")
    source = f"{CONFIG!r} in {str(folder)!r}"
    try:
        config: Any = parse_json(read_bytes(folder / CONFIG))
    except FileNotFoundError:
        raise LookalikeError(f"{str(folder)!r} holds no saved model: {CONFIG!r} is missing") from None
    except (OSError, LookalikeError) as error:
        raise LookalikeError(f"cannot read {source}: {one_line(getattr(error, 'strerror', None) or error)}") from error
    if not isinstance(config, dict) or not {"format", "files", "fingerprint"} <= set(config):
        raise LookalikeError(f"{source} is not that of a saved lookalike model")
    format_number = config["format"]
    if not isinstance(format_number, int) or isinstance(format_number, bool) or format_number < 1:
        raise LookalikeError(f"{source} has no known format: {shown(format_number)}")
    without_fingerprint = {key: value for key, value in config.items() if key != "fingerprint"}
    altered = fingerprint_json(without_fingerprint) != config["fingerprint"]
    if format_number > FORMAT:
        raise LookalikeError(
            f"the saved model in {str(folder)!r} was written by a later version of lookalike{' or altered' * altered} "
            f"(it has format {format_number}; this version reads up to {FORMAT}); update lookalike"
        )
    if altered:
        raise LookalikeError(f"{CONFIG!r} of the saved model in {str(folder)!r} was altered: its fingerprint differs")
    if format_number == 1:
        config = _upgrade_format_1(config)
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in _NOUNS:
        raise LookalikeError(f"{source} has the unknown kind {shown(kind)}; there are: {', '.join(_NOUNS)}")
    return dict(config)


def _upgrade_format_1(config: dict[str, Any]) -> dict[str, Any]:
    """Converts ``config.json`` of format 1 to format 2."""
    encoder, files = config.get("encoder"), config["files"]
    if isinstance(encoder, dict) and "class" in encoder:
        encoder = {**{key: value for key, value in encoder.items() if key != "class"}, "network": encoder["class"]}
    if isinstance(files, dict):
        files = {name: {"sha256": value} for name, value in files.items()}
    return {**config, "kind": config.get("kind", "prototype-model"), "encoder": encoder, "files": files}


def _check_listed(files: Mapping[str, _File], pictures: list[str]) -> None:
    """Checks that the tensors and all pictures have a checksum, and that no name leads outside of the folder."""
    for name in files:
        _check_name(name)
    unlisted = [name for name in (TENSORS, *pictures) if name not in files]
    if unlisted:
        raise LookalikeError(f"it has no fingerprint of {shown(unlisted[0])}")


def _check_name(name: str) -> None:
    """Checks that a file's name stays within its folder, on any operating system."""
    segments = name.split("/")
    if name == CONFIG or any(segment in ("", ".", "..") for segment in segments) or any(c in name for c in "\0\\:"):
        raise LookalikeError(f"it names a file outside of it, or none: {shown(name)}")


def _check_file(folder: Path, name: str, file: _File, noun: str) -> None:
    """Checks that a file is there, inside the folder, and has its length and checksum."""
    saved = f"the saved {noun} in {str(folder)!r}"
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


def _flush_to_disk(path: Path) -> None:
    """Forces a file to the disk, so that a power failure after the folder was replaced does not lose it."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
