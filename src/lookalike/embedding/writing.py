"""Where embeddings go as they are made: into memory, or into a folder whose journal outlives any interruption."""

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
from lookalike.embedding.key import other_than
from lookalike.embedding.store import META, Checksum, EmbeddingStore, write_meta

JOURNAL = "journal.jsonl"
_CRC = "crc32"  # of a line of the journal, without this entry

Parts = Mapping[str, np.ndarray]
Skipped = Mapping[int, str]


class Sink(Protocol):
    """Takes embeddings, batch by batch."""

    @property
    def start(self) -> int:
        """How many samples of the data are done already."""

    @property
    def broken(self) -> list[int]:
        """Which samples' embeddings were not finite."""

    @property
    def skipped(self) -> dict[int, str]:
        """Why samples could not be read, by number, as far as it was told."""

    @property
    def notes(self) -> dict[str, Any]:
        """What was noted, also by the pass that is taken up."""

    def note(self, values: dict[str, Any]) -> None:
        """Notes how the embeddings are made."""

    def discard(self) -> None:
        """Lets go of everything."""

    def add(self, parts: Parts, read: int, skipped: Skipped, broken: list[int]) -> None:
        """Takes a batch.

        Args:
            parts: ``embeddings``, ``labels``, ``indices`` and perhaps ``predictions``, with equally many rows.
            read: How many samples of the data have been read with it.
            skipped: Why some of them could not be, by number.
            broken: Which of them have embeddings that are not finite.
        """

    def close(self, class_names: list[str] | None, skipped: Skipped, info: dict[str, Any]) -> EmbeddingStore | None:
        """Returns what was taken; None if there was nothing."""


class Memory:
    """Collects batches in memory."""

    start = 0

    def __init__(self) -> None:
        self.broken: list[int] = []
        self.skipped: dict[int, str] = {}
        self.notes: dict[str, Any] = {}
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, parts: Parts, read: int, skipped: Skipped, broken: list[int]) -> None:  # noqa: ARG002
        """Takes a batch."""
        self.broken += broken
        for name, part in parts.items():
            self._parts.setdefault(name, []).append(part)

    def note(self, values: dict[str, Any]) -> None:
        """Notes how the embeddings are made."""
        self.notes |= values

    def discard(self) -> None:
        """Lets go of everything."""
        self._parts.clear()

    def close(self, class_names: list[str] | None, skipped: Skipped, info: dict[str, Any]) -> EmbeddingStore | None:
        """Returns what was taken; None if there was nothing."""
        if not self._parts:
            return None
        arrays: dict[str, Any] = {name: np.concatenate(parts) for name, parts in self._parts.items()}
        return EmbeddingStore(**arrays, class_names=class_names, skipped=_messages(skipped), info=info)


class Journalled:
    """Appends batches to ``.npy`` files in a folder beside the target, and a line to a journal after each.

    A batch counts once its line is there. Whatever comes after the last whole line that fits the files, by its
    checksums, is cut off when the work is taken up again. The folder takes the target's place at the end.

    Args:
        target: Where the embeddings will be.
        key: What they depend on, as plain JSON.
        resume: Go on with what is there.
        overwrite: Start anew, and replace what is there at the end.

    Attributes:
        folder: Where they are until then: the target's name with ``.part`` behind it.
        start: How many samples of the data are done.
        skipped: Why samples could not be read, by number.
        broken: Which samples' embeddings were not finite.
        notes: How the embeddings are made.

    Raises:
        LookalikeError: If there is something, and neither ``resume`` nor ``overwrite``; or if it depends on something
            else, which it names.
    """

    def __init__(self, target: str | Path, key: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        self.target = Path(target).resolve()
        self.folder = self.target.with_name(f"{self.target.name}.part")
        self.overwrite = overwrite
        self.key = key
        self.start = 0
        self.skipped: dict[int, str] = {}
        self.broken: list[int] = []
        self.notes: dict[str, Any] = {}
        self._rows = 0
        self._arrays: dict[str, dict[str, Any]] = {}
        self._files: dict[str, Any] = {}
        self._crc: dict[str, int] = {}  # of each file's rows so far
        check_replaceable(target, marker=META, overwrite=overwrite)
        clean(self.folder)
        finish(self.target)
        found = (self.folder / JOURNAL).is_file()
        if not found and (self.folder / META).is_file():  # the old ones, if a kill came before they were removed
            remove_folder(self.folder)
        if found and not resume and not overwrite and _has_rows(self.folder / JOURNAL):
            raise LookalikeError(
                f"{str(self.folder)!r} holds unfinished embeddings: go on with them (resume=True), or start anew "
                "(overwrite=True)"
            )
        if not found and is_foreign(self.folder):
            raise LookalikeError(f"{str(self.folder)!r} is in the way: it holds files, and no unfinished embeddings")
        if found and resume and not overwrite:
            self._take_up()
        else:
            remove_folder(self.folder)
            self._begin()

    def add(self, parts: Parts, read: int, skipped: Skipped, broken: list[int]) -> None:
        """Takes a batch.

        Raises:
            LookalikeError: If the disk is full; what was taken before is safe.
        """
        line: dict[str, Any] = {"read": read, "rows": self._rows + len(parts["labels"])}
        if not self._arrays:
            line["arrays"] = self._arrays = {
                name: {"dtype": np.lib.format.dtype_to_descr(part.dtype), "row": list(part.shape[1:])}
                for name, part in parts.items()
            }
        with self._writing():
            if not self._files:
                self._open()
            line["checksums"] = {name: self._append(name, part) for name, part in parts.items()}
            new = {str(index): message for index, message in skipped.items() if index not in self.skipped}
            line |= {"skipped": new} if new else {}
            line |= {"broken": broken} if broken else {}
            self._write(line)
        for name, part in parts.items():
            self._crc[name] = zlib.crc32(_bytes_of(part), self._crc.get(name, 0))
        self._rows = line["rows"]
        self.start = read
        self.skipped |= skipped
        self.broken += broken

    def note(self, values: dict[str, Any]) -> None:
        """Notes how the embeddings are made."""
        self.notes |= values
        with self._writing():
            self._write({"notes": values})

    def close(self, class_names: list[str] | None, skipped: Skipped, info: dict[str, Any]) -> EmbeddingStore | None:
        """Completes the files' headers, puts the folder in the target's place, and opens it."""
        if not self._rows:
            self._journal.close()
            remove_folder(self.folder)
            return None
        checksums = {
            name: Checksum(described["dtype"], [self._rows, *described["row"]], self._crc[name])
            for name, described in self._arrays.items()
        }
        names, messages = list(self._arrays), _messages({**self.skipped, **skipped})
        with self._writing():
            if not self._files:
                self._open()
            for name, file in self._files.items():
                file.seek(0)
                file.write(_header(self._arrays[name], self._rows))
                os.fsync(file.fileno())
                file.close()
            self._journal.close()
            write_meta(self.folder, names, self._rows, class_names, messages, info, checksums=checksums)
            replace_folder(self.folder, self.target, replace=self.overwrite)
            finish(self.target)
        return EmbeddingStore.open(self.target)

    def release(self) -> None:
        """Closes the files; the pass goes on from them when it is taken up again."""
        for file in (self._journal, *self._files.values()):
            file.close()

    def discard(self) -> None:
        """Removes what was taken."""
        remove_folder(self.folder)

    def _begin(self) -> None:
        with writing_to(self.folder, "nothing was done yet"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._journal = (self.folder / JOURNAL).open("wb", buffering=0)
            self._write({"key": self.key})

    def _take_up(self) -> None:
        lines = _whole_lines(self.folder / JOURNAL)
        held = lines[0].get("key") if lines else None
        if not isinstance(held, dict):
            if _n_lines(self.folder / JOURNAL) > 1:
                warn_of(f"the journal in {str(self.folder)!r} is damaged; all samples are embedded again")
            remove_folder(self.folder)
            self._begin()
            return
        chosen = next((line["notes"].get("precision") for line in lines if isinstance(line.get("notes"), dict)), None)
        differing = other_than(held, self.key, chosen)
        if differing:
            raise LookalikeError(
                f"{str(self.folder)!r} holds unfinished embeddings made with other {differing}: "
                "start anew (overwrite=True), remove it, or give what they were made with"
            )
        kept = 1
        for line in lines[1:]:
            if isinstance(line.get("notes"), dict):
                self.notes |= line["notes"]
                kept += 1
                continue
            if not _is_batch(line) or not (self._arrays or line.get("arrays")):
                break
            self._arrays = self._arrays or line["arrays"]
            if not self._fits(line):
                break
            kept += 1
            self._rows, self.start = line["rows"], line["read"]
            self.skipped |= {int(index): message for index, message in line.get("skipped", {}).items()}
            self.broken += line.get("broken", [])
        lost = _n_lines(self.folder / JOURNAL) - kept
        if lost > 0:
            warn_of(f"{lost} batches in {str(self.folder)!r} do not fit their checksums; they are embedded again")
        if not self._rows:
            self._arrays = {}
        length = sum(len(line["raw"]) for line in lines[:kept])
        self._journal = (self.folder / JOURNAL).open("r+b", buffering=0)
        self._journal.truncate(length)
        self._journal.seek(length)

    def _fits(self, line: dict[str, Any]) -> bool:
        """Whether the files hold what a line of the journal says."""
        if set(line["checksums"]) != set(self._arrays) or line["rows"] < self._rows:
            return False
        running = dict(self._crc)
        for name, expected in line["checksums"].items():
            width = _row_bytes(self._arrays[name])
            try:
                with (self.folder / f"{name}.npy").open("rb") as file:
                    file.seek(len(_header(self._arrays[name], 0)) + self._rows * width)
                    content = file.read((line["rows"] - self._rows) * width)
            except OSError:
                return False
            if zlib.crc32(content) != expected:
                return False
            running[name] = zlib.crc32(content, running.get(name, 0))
        self._crc = running
        return True

    def _write(self, line: dict[str, Any]) -> None:
        content = json.dumps(line)
        checked = {**line, _CRC: zlib.crc32(content.encode())}
        _write_all(self._journal, (json.dumps(checked) + "\n").encode())

    def _open(self) -> None:
        for name, described in self._arrays.items():
            path, header = self.folder / f"{name}.npy", _header(described, 0)
            file = path.open("r+b" if self._rows else "w+b", buffering=0)
            self._files[name] = file
            if not self._rows:
                _write_all(file, header)
            file.truncate(len(header) + self._rows * _row_bytes(described))
            file.seek(0, os.SEEK_END)

    def _append(self, name: str, part: np.ndarray) -> int:
        file, content = self._files[name], _bytes_of(part)
        file.seek(len(_header(self._arrays[name], 0)) + self._rows * _row_bytes(self._arrays[name]))
        _write_all(file, content)
        return zlib.crc32(content)

    def _writing(self) -> AbstractContextManager[None]:
        return writing_to(self.folder, f"{self._rows:,} rows are safe")


def finish(folder: Path) -> None:
    """Removes the journal from complete embeddings: it stays until they are in place, so that no kill costs them."""
    (folder / JOURNAL).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Array:
    """What the journal says of an array."""

    dtype: str
    row: list[int]

    def __post_init__(self) -> None:
        if not re.fullmatch("[<>|=][fiu][1248]", self.dtype) or not all(0 <= n < 2**31 for n in self.row):
            raise LookalikeError(f"no array is {self.dtype!r} {self.row}")


@dataclass(frozen=True)
class _Batch:
    """A line of the journal, for a batch."""

    read: int
    rows: int
    checksums: dict[str, int]
    arrays: dict[str, _Array] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    broken: list[int] = field(default_factory=list)


def _is_batch(line: Mapping[str, Any]) -> bool:
    """Says whether a line of the journal is one that ``add`` wrote."""
    try:
        from_json(_Batch, {name: value for name, value in line.items() if name != "raw"}, JOURNAL)
    except LookalikeError:
        return False
    return all(index.isdecimal() for index in line.get("skipped", {}))


def _messages(skipped: Skipped) -> list[str]:
    return [skipped[index] for index in sorted(skipped)]


def _header(described: Mapping[str, Any], rows: int) -> bytes:
    """Returns an ``.npy`` header; NumPy leaves room in it for the number of rows to grow, so its length stays."""
    from io import BytesIO

    buffer = BytesIO()
    header = {"shape": (rows, *described["row"]), "fortran_order": False, "descr": described["dtype"]}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


def _bytes_of(part: np.ndarray) -> memoryview:
    return np.ascontiguousarray(part).data.cast("B") if part.size else memoryview(b"")


def _row_bytes(described: Mapping[str, Any]) -> int:
    return int(np.dtype(described["dtype"]).itemsize * np.prod(described["row"], dtype=np.int64))


def _write_all(file: Any, content: bytes | memoryview) -> None:
    """Writes all bytes to an unbuffered file, which may take fewer at a time."""
    rest = memoryview(content)
    while len(rest):
        rest = rest[file.write(rest) :]


def _has_rows(journal: Path) -> bool:
    return any("checksums" in line for line in _whole_lines(journal))


def _n_lines(path: Path) -> int:
    """Returns how many lines of a journal end; what a kill left of another one does not count."""
    return path.read_bytes().count(b"\n")


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a journal up to the first line that is not as it was written; each line also has itself as ``raw``."""
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
