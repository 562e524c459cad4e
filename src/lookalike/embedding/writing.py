"""Sinks for embeddings: memory, or a folder with a journal, so that no interruption loses finished batches."""

import json
import os
import re
import zlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.fresh_folder import check_replaceable
from lookalike._core.records import from_json
from lookalike._core.replacing import remove_folder, replace_folder
from lookalike._core.working_folder import clean, is_foreign, writing_to
from lookalike.embedding.key import key_differences
from lookalike.embedding.store import META, Checksum, EmbeddingStore, write_meta

JOURNAL = "journal.jsonl"
_PART = ".part"  # ending of the folder of unfinished embeddings
_CRC = "crc32"  # key of the checksum of a journal line, computed without this entry

Arrays = Mapping[str, np.ndarray]
Skipped = Mapping[int, str]


class Sink(Protocol):
    """Collects embeddings, batch by batch."""

    @property
    def start(self) -> int:
        """Number of samples of the data that are done."""

    @property
    def not_finite(self) -> list[int]:
        """Numbers of the samples whose embeddings were not finite."""

    @property
    def skipped(self) -> dict[int, str]:
        """Error messages of the samples that could not be read, by number."""

    @property
    def notes(self) -> dict[str, Any]:
        """All notes, including those of the pass that is resumed."""

    def note(self, values: dict[str, Any]) -> None:
        """Notes how the embeddings are computed, such as their precision."""

    def discard(self) -> None:
        """Discards everything."""

    def add(self, arrays: Arrays, read: int, skipped: Skipped, not_finite: list[int]) -> None:
        """Adds a batch.

        Args:
            arrays: ``embeddings``, ``labels``, ``indices`` and perhaps ``predictions``, with the same number of rows.
            read: Number of samples of the data read so far, this batch included.
            skipped: Error messages of the samples that could not be read so far, by number.
            not_finite: Numbers of this batch's samples whose embeddings are not finite.
        """

    def close(self, class_names: list[str] | None, skipped: Skipped, info: dict[str, Any]) -> EmbeddingStore | None:
        """Returns the collected embeddings; None if there are none."""


class MemorySink:
    """Collects batches in memory; see ``Sink``."""

    start = 0

    def __init__(self) -> None:
        self.not_finite: list[int] = []
        self.skipped: dict[int, str] = {}
        self.notes: dict[str, Any] = {}
        self._batches: dict[str, list[np.ndarray]] = {}

    def add(self, arrays: Arrays, read: int, skipped: Skipped, not_finite: list[int]) -> None:  # noqa: ARG002
        """Adds a batch."""
        self.not_finite += not_finite
        for name, array in arrays.items():
            self._batches.setdefault(name, []).append(array)

    def note(self, values: dict[str, Any]) -> None:
        """Notes how the embeddings are computed, such as their precision."""
        self.notes |= values

    def discard(self) -> None:
        """Discards everything."""
        self._batches.clear()

    def close(self, class_names: list[str] | None, skipped: Skipped, info: dict[str, Any]) -> EmbeddingStore | None:
        """Returns the collected embeddings; None if there are none."""
        if not self._batches:
            return None
        arrays: dict[str, Any] = {name: np.concatenate(batches) for name, batches in self._batches.items()}
        return EmbeddingStore(**arrays, class_names=class_names, skipped=_messages_in_order(skipped), info=info)


class JournalSink:
    """Appends batches to ``.npy`` files in a folder beside the target, and a line per batch to a journal.

    The journal, ``journal.jsonl``, begins with the key; notes and batches follow:

        {"key": {…}, "crc32": …}
        {"notes": {"precision": …}, "crc32": …}
        {"read": 256, "rows": 256, "arrays": {…}, "checksums": {"embeddings": …, …}, "crc32": …}
        {"read": 512, "rows": 512, "checksums": {…}, "crc32": …}

    A batch counts as done once its line is written. When a pass is resumed, everything after the last intact line whose
    checksums fit the files is cut off. At the end the folder is moved to the target.

    Args:
        target: Folder of the finished embeddings.
        key: What the embeddings depend on, as plain JSON; see ``embedding_key``.
        resume: Continue an interrupted pass.
        overwrite: Start again, and replace the target at the end.

    Attributes:
        folder: Folder of the unfinished embeddings: the target's name followed by ``.part``.
        start: Number of samples of the data that are done.
        skipped: Error messages of the samples that could not be read, by number.
        not_finite: Numbers of the samples whose embeddings were not finite.
        notes: How the embeddings are computed.

    Raises:
        LookalikeError: If there are embeddings and neither ``resume`` nor ``overwrite`` is set, or the unfinished ones
            have another key; the message names the difference.
    """

    def __init__(self, target: str | Path, key: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        self.target = Path(target).resolve()
        if self.target.name.endswith(_PART):
            raise LookalikeError(f"{str(target)!r} ends as unfinished embeddings do ({_PART}); choose another name")
        self.folder = _unfinished(self.target)
        self.overwrite = overwrite
        self.key = key
        self.start = 0
        self.skipped: dict[int, str] = {}
        self.not_finite: list[int] = []
        self.notes: dict[str, Any] = {}
        self._n_rows = 0
        self._formats: dict[str, dict[str, Any]] = {}  # type and shape of a row, by array; see _ArrayFormat
        self._files: dict[str, Any] = {}
        self._crc: dict[str, int] = {}  # of all rows so far, by array
        check_replaceable(target, marker=META, overwrite=overwrite)
        clean(self.folder)
        remove_journal(self.target)
        has_journal = (self.folder / JOURNAL).is_file()
        if not has_journal and (self.folder / META).is_file():
            # Replaced embeddings: they were moved here, and the process was killed before it could remove them.
            remove_folder(self.folder)
        # A journal without a batch is no work that could be lost: a pass that stopped before its first one.
        if has_journal and not resume and not overwrite and _has_batches(self.folder / JOURNAL):
            raise LookalikeError(
                f"{str(self.folder)!r} holds unfinished embeddings: continue with them (resume=True), or start again "
                "(overwrite=True)"
            )
        if not has_journal and is_foreign(self.folder):
            raise LookalikeError(f"{str(self.folder)!r} is in the way: it holds files, and no unfinished embeddings")
        if has_journal and resume and not overwrite:
            self._resume()
        else:
            remove_folder(self.folder)
            self._begin()

    @staticmethod
    def key_of(target: str | Path) -> dict[str, Any]:
        """Returns the key of the unfinished embeddings of a target; empty if there are none that can be read."""
        journal = _unfinished(Path(target).resolve()) / JOURNAL
        lines = _intact_lines(journal) if journal.is_file() else []
        key = lines[0].get("key") if lines else None
        return key if isinstance(key, dict) else {}

    def add(self, arrays: Arrays, read: int, skipped: Skipped, not_finite: list[int]) -> None:
        """Adds a batch.

        Raises:
            LookalikeError: If the disk is full; the batches before this one are safe.
        """
        line: dict[str, Any] = {"read": read, "rows": self._n_rows + len(arrays["labels"])}
        # The first batch fixes the arrays and their types; a resumed pass reads them from its line.
        if not self._formats:
            line["arrays"] = self._formats = {
                name: {"dtype": np.lib.format.dtype_to_descr(array.dtype), "row": list(array.shape[1:])}
                for name, array in arrays.items()
            }
        with self._naming_write_errors():
            if not self._files:
                self._open_files()
            # First the files, then the line: a kill in between leaves rows that no line counts, which _resume cuts off.
            line["checksums"] = {name: self._append(name, array) for name, array in arrays.items()}
            newly_skipped = {str(index): message for index, message in skipped.items() if index not in self.skipped}
            line |= {"skipped": newly_skipped} if newly_skipped else {}
            line |= {"broken": not_finite} if not_finite else {}
            self._write_line(line)
        for name, array in arrays.items():
            self._crc[name] = zlib.crc32(_bytes_of(array), self._crc.get(name, 0))
        self._n_rows = line["rows"]
        self.start = read
        self.skipped |= skipped
        self.not_finite += not_finite

    def note(self, values: dict[str, Any]) -> None:
        """Notes how the embeddings are computed, such as their precision."""
        self.notes |= values
        with self._naming_write_errors():
            self._write_line({"notes": values})

    def close(self, class_names: list[str] | None, skipped: Skipped, info: dict[str, Any]) -> EmbeddingStore | None:
        """Completes the files' headers, moves the folder to the target, and opens it."""
        if not self._n_rows:
            self._journal.close()
            remove_folder(self.folder)
            return None
        checksums = {
            name: Checksum(array_format["dtype"], [self._n_rows, *array_format["row"]], self._crc[name])
            for name, array_format in self._formats.items()
        }
        names, messages = list(self._formats), _messages_in_order({**self.skipped, **skipped})
        with self._naming_write_errors():
            if not self._files:
                self._open_files()
            for name, file in self._files.items():
                file.seek(0)
                file.write(_header(self._formats[name], self._n_rows))
                os.fsync(file.fileno())
                file.close()
            self._journal.close()
            write_meta(self.folder, names, self._n_rows, class_names, messages, info, checksums=checksums)
            replace_folder(self.folder, self.target, replace=self.overwrite)
            remove_journal(self.target)
        return EmbeddingStore.open(self.target)

    def release(self) -> None:
        """Closes the files, from which the pass can be resumed."""
        for file in (self._journal, *self._files.values()):
            file.close()

    def discard(self) -> None:
        """Removes the folder of unfinished embeddings."""
        remove_folder(self.folder)

    def _begin(self) -> None:
        with writing_to(self.folder, "nothing was done yet"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._journal = (self.folder / JOURNAL).open("wb", buffering=0)
            self._write_line({"key": self.key})

    def _resume(self) -> None:
        """Reads the journal, checks it against the files, and cuts off what does not fit."""
        lines = _intact_lines(self.folder / JOURNAL)
        stored_key = lines[0].get("key") if lines else None
        if not isinstance(stored_key, dict):
            if _n_lines(self.folder / JOURNAL) > 1:
                warn_of(f"the journal in {str(self.folder)!r} is damaged; all samples are embedded again")
            remove_folder(self.folder)
            self._begin()
            return
        notes = (line["notes"] for line in lines if isinstance(line.get("notes"), dict))
        used_precision = next((values.get("precision") for values in notes), None)
        different = key_differences(stored_key, self.key, used_precision)
        if different:
            raise LookalikeError(
                f"{str(self.folder)!r} holds unfinished embeddings made with other {different}: "
                "give what they were made with, remove it, or choose another place (embed also takes overwrite=True)"
            )
        n_valid = 1 + self._replay(lines[1:])
        n_lost = _n_lines(self.folder / JOURNAL) - n_valid
        if n_lost > 0:
            warn_of(f"{n_lost} batches in {str(self.folder)!r} do not fit their checksums; they are embedded again")
        if not self._n_rows:
            self._formats = {}
        length = sum(len(line["raw"]) for line in lines[:n_valid])
        self._journal = (self.folder / JOURNAL).open("r+b", buffering=0)
        self._journal.truncate(length)
        self._journal.seek(length)

    def _replay(self, lines: list[dict[str, Any]]) -> int:
        """Restores the state from the journal's notes and batches; returns the number of lines that fit the files."""
        for n_valid, line in enumerate(lines):
            if isinstance(line.get("notes"), dict):
                self.notes |= line["notes"]
                continue
            if not _is_batch(line) or not (self._formats or line.get("arrays")):
                return n_valid
            self._formats = self._formats or line["arrays"]
            if not self._fits_files(line):
                return n_valid
            self._n_rows, self.start = line["rows"], line["read"]
            self.skipped |= {int(index): message for index, message in line.get("skipped", {}).items()}
            self.not_finite += line.get("broken", [])
        return len(lines)

    def _fits_files(self, line: dict[str, Any]) -> bool:
        """Says whether the files contain the batch of a journal line; if so, advances the checksums over it."""
        if set(line["checksums"]) != set(self._formats) or line["rows"] < self._n_rows:
            return False
        crc_with_batch = dict(self._crc)
        for name, expected in line["checksums"].items():
            row_bytes = _row_bytes(self._formats[name])
            try:
                with (self.folder / f"{name}.npy").open("rb") as file:
                    file.seek(len(_header(self._formats[name], 0)) + self._n_rows * row_bytes)
                    content = file.read((line["rows"] - self._n_rows) * row_bytes)
            except OSError:
                return False
            if zlib.crc32(content) != expected:
                return False
            crc_with_batch[name] = zlib.crc32(content, crc_with_batch.get(name, 0))
        self._crc = crc_with_batch
        return True

    def _write_line(self, line: dict[str, Any]) -> None:
        content = json.dumps(line)
        with_checksum = {**line, _CRC: zlib.crc32(content.encode())}
        _write_all(self._journal, (json.dumps(with_checksum) + "\n").encode())

    def _open_files(self) -> None:
        """Creates the ``.npy`` files, or cuts existing ones off after the last valid row."""
        for name, array_format in self._formats.items():
            path, header = self.folder / f"{name}.npy", _header(array_format, 0)
            file = path.open("r+b" if self._n_rows else "w+b", buffering=0)
            self._files[name] = file
            if not self._n_rows:
                _write_all(file, header)
            file.truncate(len(header) + self._n_rows * _row_bytes(array_format))
            file.seek(0, os.SEEK_END)

    def _append(self, name: str, array: np.ndarray) -> int:
        """Writes a batch's array behind the valid rows of its file; returns the batch's CRC-32."""
        file, content = self._files[name], _bytes_of(array)
        file.seek(len(_header(self._formats[name], 0)) + self._n_rows * _row_bytes(self._formats[name]))
        _write_all(file, content)
        return zlib.crc32(content)

    def _naming_write_errors(self) -> AbstractContextManager[None]:
        return writing_to(self.folder, f"{self._n_rows:,} rows are safe")


def _unfinished(target: Path) -> Path:
    """Returns the folder of a target's unfinished embeddings."""
    return target.with_name(f"{target.name}{_PART}")


def remove_journal(folder: Path) -> None:
    """Removes the journal from finished embeddings.

    It is removed after they were moved to the target: a process that is killed before that can still be resumed.
    """
    (folder / JOURNAL).unlink(missing_ok=True)


@dataclass(frozen=True)
class _ArrayFormat:
    """Type of an array, and shape of one of its rows, in the journal."""

    dtype: str
    row: list[int]

    def __post_init__(self) -> None:
        if not re.fullmatch("[<>|=][fiu][1248]", self.dtype) or not all(0 <= n < 2**31 for n in self.row):
            raise LookalikeError(f"no array is {self.dtype!r} {self.row}")


@dataclass(frozen=True)
class _BatchLine:
    """A journal line about a batch."""

    read: int
    rows: int
    checksums: dict[str, int]
    arrays: dict[str, _ArrayFormat] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    broken: list[int] = field(default_factory=list)


def _is_batch(line: Mapping[str, Any]) -> bool:
    """Says whether a journal line is one that ``add`` wrote."""
    try:
        from_json(_BatchLine, {name: value for name, value in line.items() if name != "raw"}, JOURNAL)
    except LookalikeError:
        return False
    return all(index.isdecimal() for index in line.get("skipped", {}))


def _messages_in_order(skipped: Skipped) -> list[str]:
    return [skipped[index] for index in sorted(skipped)]


def _header(array_format: Mapping[str, Any], rows: int) -> bytes:
    """Returns an ``.npy`` header. NumPy reserves space for the number of rows, so its length is always the same."""
    from io import BytesIO

    buffer = BytesIO()
    header = {"shape": (rows, *array_format["row"]), "fortran_order": False, "descr": array_format["dtype"]}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).data.cast("B") if array.size else memoryview(b"")


def _row_bytes(array_format: Mapping[str, Any]) -> int:
    return int(np.dtype(array_format["dtype"]).itemsize * np.prod(array_format["row"], dtype=np.int64))


def _write_all(file: Any, content: bytes | memoryview) -> None:
    """Writes all bytes to an unbuffered file, whose ``write`` may write only some of them."""
    unwritten = memoryview(content)
    while len(unwritten):
        unwritten = unwritten[file.write(unwritten) :]


def _has_batches(journal: Path) -> bool:
    return any("checksums" in line for line in _intact_lines(journal))


def _n_lines(path: Path) -> int:
    """Returns the number of complete lines of a journal; a line that was cut off by a kill does not count."""
    return path.read_bytes().count(b"\n")


def _intact_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a journal up to the first damaged line; the key ``raw`` of each line has its bytes."""
    lines: list[dict[str, Any]] = []
    for raw in path.read_bytes().splitlines(keepends=True):
        try:
            line = json.loads(raw)
            checksum = line.pop(_CRC)
            fits = raw.endswith(b"\n") and zlib.crc32(json.dumps(line).encode()) == checksum
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            break
        if not fits:
            break
        lines.append({**line, "raw": raw})
    return lines
