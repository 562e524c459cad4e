"""EmbeddingStore: the embeddings of a data set, in memory or in a folder."""

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lookalike._core import checks
from lookalike._core.display import as_html
from lookalike._core.errors import LookalikeError
from lookalike._core.files import drop_pages, read_rows
from lookalike._core.fresh_folder import fresh_folder
from lookalike._core.records import from_json, one_line, shown
from lookalike._core.wording import counted
from lookalike._core.working_folder import read_record, write_record, writing_to

META = "embeddings.json"
_MAX_CLASSES = 2**24  # largest plausible label of a file without class names; arrays are allocated by it
_ROWS_AT_ONCE = 8_192  # read
_CELLS_AT_ONCE = 32_000_000  # rows × dimensions written by grouped_by_class


@dataclass
class EmbeddingStore:
    """The embeddings of a data set.

    Attributes:
        embeddings: [N, D], float32 or float16; memory-mapped if they are in a folder.
        labels: [N], int64.
        indices: Number of each row's sample in the data [N], int64.
        predictions: Class that the black box predicts for each row [N], from the same pass; None without a head.
        class_names: The data's class names, by label, or None.
        skipped: Error messages of the samples that could not be read.
        info: Fingerprints of weights, data and transform, the precision and its effect, and versions.
        folder: Folder of the embeddings; None in memory.
        checksum: CRC-32 of the embeddings' bytes when they were written; None in memory.
    """

    embeddings: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    predictions: np.ndarray | None = None
    class_names: list[str] | None = None
    skipped: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    checksum: int | None = None

    def __post_init__(self) -> None:
        self._not_finite: np.ndarray | None = None
        if not isinstance(self.embeddings, np.ndarray) or self.embeddings.ndim != 2:
            raise checks.unfit("embeddings", self.embeddings, "an array [N, D]")
        if self.embeddings.dtype.kind != "f":
            raise checks.unfit("embeddings", self.embeddings, "an array of floating-point numbers")
        for name in ("labels", "indices", "predictions"):
            values = getattr(self, name)
            if values is None and name == "predictions":
                continue
            if (
                not isinstance(values, np.ndarray)
                or values.shape != (len(self.embeddings),)
                or values.dtype.kind not in "iu"
            ):
                raise checks.unfit(name, values, f"an array of {len(self.embeddings)} whole numbers")
        if len(self.labels) and int(self.labels.min()) < 0:
            raise LookalikeError(f"labels must not be negative; there is a {int(self.labels.min())}")
        if self.class_names is not None:
            checks.names("class_names", self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def next_index(self) -> int:
        """A number above those of all samples of the data, also of those that could not be read."""
        return max(len(self) + len(self.skipped), int(self.indices.max(initial=-1)) + 1)

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else f"in {str(self.folder)!r}"
        n_classes = len(np.unique(self.labels)) if self.class_names is None else len(self.class_names)
        return (
            f"EmbeddingStore({len(self):,} × {self.embeddings.shape[1]} {self.embeddings.dtype}, "
            f"{n_classes} classes, {where})"
        )

    def _repr_html_(self) -> str:
        """Shows the store's facts in a notebook."""
        facts = {
            "embeddings": f"{len(self):,} × {self.embeddings.shape[1]}, {self.embeddings.dtype}",
            "classes": "not named" if self.class_names is None else ", ".join(self.class_names[:20]),
            "left out": f"{counted(len(self.skipped), 'sample')} that could not be read",
            "where": "in memory" if self.folder is None else self.folder,
        }
        return as_html("Embedding store", facts=facts)

    @classmethod
    def open(cls, folder: str | Path) -> "EmbeddingStore":
        """Opens a folder that ``embed(..., folder=…)`` wrote; the embeddings are memory-mapped.

        It checks sizes, types and the checksums of all arrays but the embeddings. Those may be many gigabytes; their
        checksum is checked when all of them are read: by ``check``, a conversion and ``embed(..., resume=True)``.

        Raises:
            LookalikeError: If the folder holds no embeddings, or a file is missing, damaged or does not fit the others.
        """
        folder = Path(folder)
        try:
            meta: _Meta = from_json(_Meta, read_record(folder / META), META)
            arrays = {name: _open_array(folder / f"{name}.npy") for name in meta.arrays}
        except LookalikeError as error:
            raise LookalikeError(f"{str(folder)!r} holds no complete embeddings: {error}") from error
        # The record gives the number of rows: a file that was cut off, or is of another pass, has a different one.
        lengths = {name: len(array) for name, array in arrays.items()}
        if set(lengths.values()) != {meta.rows}:
            raise LookalikeError(f"the embeddings in {str(folder)!r} are damaged: {lengths} rows, not {meta.rows}")
        store = cls(
            embeddings=arrays["embeddings"],
            labels=np.array(arrays["labels"]),
            indices=np.array(arrays["indices"]),
            predictions=np.array(arrays["predictions"]) if "predictions" in arrays else None,
            class_names=meta.class_names,
            skipped=meta.skipped,
            info=meta.info,
            folder=folder,
            checksum=meta.checksums["embeddings"].crc32 if "embeddings" in meta.checksums else None,
        )
        _check_arrays(store)
        for name, expected in meta.checksums.items():
            array = arrays[name]
            fits = (array.dtype.str, list(array.shape)) == (expected.dtype, expected.shape) and array.flags.c_contiguous
            if not fits or (name != "embeddings" and crc32_of(getattr(store, name)) != expected.crc32):
                raise LookalikeError(
                    f"the embeddings in {str(folder)!r} are damaged: {f'{name}.npy'!r} does not fit its checksum"
                )
        return store

    def check(self) -> np.ndarray:
        """Reads all embeddings once, and checks their checksum if they are in a folder.

        Returns:
            Indices of the rows with NaN or infinite values, ascending.

        Raises:
            LookalikeError: If the file was changed or damaged after it was written.
        """
        if self._not_finite is not None:
            return self._not_finite
        crc, not_finite_rows = 0, [np.arange(0)]
        for rows in self.parts():
            block = self.embeddings[rows]
            crc = crc if self.checksum is None else crc32_of(block, crc)
            not_finite_rows.append(rows.start + np.flatnonzero(~np.isfinite(block).all(1)))
        not_finite = np.concatenate(not_finite_rows)
        if self.checksum is not None:  # the result is cached for files only, as arrays in memory may change
            if crc != self.checksum:
                raise LookalikeError(
                    f"the embeddings in {str(self.folder)!r} are damaged: 'embeddings.npy' does not fit its checksum; "
                    "embed the data again"
                )
            self._not_finite = not_finite
        return not_finite

    def fingerprint(self) -> str:
        """Returns a text that depends on the embeddings and labels alone, and changes whenever one of them does."""
        crc = self.checksum
        if crc is None:
            crc = 0
            for rows in self.parts():
                crc = crc32_of(self.embeddings[rows], crc)
        kind = f"{self.embeddings.dtype.str}:{self.embeddings.shape}"
        return f"{kind}:{crc:08x}:{crc32_of(self.labels):08x}"

    @property
    def n_classes(self) -> int:
        """Number of classes K: the largest label plus one, or the number of class names if that is larger."""
        return max(int(self.labels.max(initial=-1)) + 1, len(self.class_names or ()))

    def parts(self, rows: int | None = None) -> Iterator[slice]:
        """Yields slices that cover all rows, in order; after each, a memory map's pages are dropped from RAM.

        Args:
            rows: Number of rows per slice; None takes 8,192.
        """
        step = _ROWS_AT_ONCE if rows is None else rows
        for start in range(0, len(self), step):
            yield slice(start, min(start + step, len(self)))
            self.let_go()

    def rows_of_class(self, k: int) -> np.ndarray:
        """Returns the rows of a class, ascending [n_k]; in a store that is grouped by class they are contiguous."""
        return self._by_class[self._starts[k] : self._starts[k + 1]]

    def of_class(self, k: int) -> np.ndarray:
        """Returns a copy of the embeddings of a class [n_k, D]; reads no other class."""
        return self.take(self.rows_of_class(k))

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Returns a copy of the embeddings of some rows [n, D], in the order of ``rows``."""
        return read_rows(self.embeddings, rows)

    def grouped_by_class(self, folder: str | Path, *, overwrite: bool = False) -> "EmbeddingStore":
        """Writes the same embeddings to another folder, sorted by class, so that each class is read contiguously.

        ``indices`` still gives the number of each row's sample in the data.

        Args:
            folder: The new folder.
            overwrite: Replace the folder if it exists.
        """
        order = self._by_class
        arrays = {"labels": self.labels, "indices": self.indices, "predictions": self.predictions}
        sorted_arrays = {name: array[order] for name, array in arrays.items() if array is not None}
        info = {**self.info, "grouped_by_class": True}
        self.check()
        with (
            fresh_folder(folder, marker=META, overwrite=overwrite) as new_folder,
            writing_to(Path(folder), "nothing is lost"),
        ):
            crc = self._write_rows(order, new_folder / "embeddings.npy")
            for name, array in sorted_arrays.items():
                np.save(new_folder / f"{name}.npy", array)
            checksums = {name: Checksum.of(array) for name, array in sorted_arrays.items()}
            checksums["embeddings"] = Checksum(self.embeddings.dtype.str, list(self.embeddings.shape), crc)
            names = ["embeddings", *sorted_arrays]
            write_meta(new_folder, names, len(self), self.class_names, self.skipped, info, checksums=checksums)
        return EmbeddingStore.open(folder)

    def _write_rows(self, order: np.ndarray, path: Path) -> int:
        """Writes the embeddings' rows in the given order; returns their CRC-32."""
        step, crc = max(1, _CELLS_AT_ONCE // max(1, self.embeddings.shape[1])), 0
        target = np.lib.format.open_memmap(path, "w+", self.embeddings.dtype, self.embeddings.shape)
        for start in range(0, len(order), step):
            block = self.take(order[start : start + step])
            target[start : start + step] = block
            crc = crc32_of(block, crc)
            target.flush()
            drop_pages(target)
        return crc

    def let_go(self) -> None:
        """Drops a memory map's pages from RAM; does nothing to ordinary arrays."""
        drop_pages(self.embeddings)

    @cached_property
    def _by_class(self) -> np.ndarray:
        return np.argsort(self.labels, kind="stable")

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(np.bincount(self.labels, minlength=self.n_classes))])


def crc32_of(array: np.ndarray, start: int = 0) -> int:
    """Returns the CRC-32 of an array's bytes; ``start`` is the CRC-32 of the bytes before them, if there are any."""
    return zlib.crc32(np.ascontiguousarray(array).data.cast("B"), start) if array.size else start


@dataclass(frozen=True)
class Checksum:
    """Type, shape and CRC-32 of an array when it was written.

    Attributes:
        dtype: NumPy's name of the type.
        shape: Shape of the array.
        crc32: CRC-32 of the array's bytes, without the file's header.
    """

    dtype: str
    shape: list[int]
    crc32: int

    @classmethod
    def of(cls, array: np.ndarray) -> "Checksum":
        """Returns the checksum of an array."""
        return cls(array.dtype.str, list(array.shape), crc32_of(array))


@dataclass(frozen=True)
class _Meta:
    """Content of ``embeddings.json``."""

    arrays: list[str]
    rows: int
    class_names: list[str] | None
    skipped: list[str]
    info: dict[str, Any]
    checksums: dict[str, Checksum] = field(default_factory=dict)

    def __post_init__(self) -> None:
        required, optional = ("embeddings", "labels", "indices"), ("predictions",)
        unknown = [name for name in self.arrays if name not in required + optional]
        missing = [name for name in required if name not in self.arrays]
        if unknown or missing:
            raise LookalikeError(f"arrays has {shown(unknown[0])}" if unknown else f"arrays lacks {missing[0]!r}")
        if self.checksums and set(self.checksums) != set(self.arrays):
            raise LookalikeError("checksums must be those of the arrays")


def _open_array(path: Path) -> np.ndarray:
    """Memory-maps an ``.npy`` file; nothing in it is executed."""
    if not path.is_file():  # opening a pipe would block for ever
        raise LookalikeError(f"{path.name!r} is missing, or no file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy parses the header as Python text, which may raise errors of any type
        raise LookalikeError(f"{path.name!r} cannot be read: {one_line(error)}") from error
    if not isinstance(array, np.ndarray) or array.ndim < 1:
        raise LookalikeError(f"{path.name!r} holds no array with rows")
    return array


def _check_arrays(store: EmbeddingStore) -> None:
    """Checks types, shapes and the range of labels, because later steps allocate memory by the largest label.

    Raises:
        LookalikeError: If an array is impossible; the message names it.
    """
    where = f"the embeddings in {str(store.folder)!r} are damaged"
    if store.embeddings.ndim != 2 or store.embeddings.dtype.kind != "f":
        raise LookalikeError(f"{where}: 'embeddings' must be numbers [N, D], not {shown(store.embeddings.shape)}")
    n_classes = len(store.class_names) if store.class_names is not None else _MAX_CLASSES
    for name, bound in (("labels", n_classes), ("indices", None), ("predictions", _MAX_CLASSES)):
        array = getattr(store, name)
        if array is None:
            continue
        if array.shape != (len(store),) or array.dtype.kind not in "iu":
            raise LookalikeError(f"{where}: {name!r} must be whole numbers [N], not {array.dtype} {array.shape}")
        if len(array) and (int(array.min()) < 0 or (bound is not None and int(array.max()) >= bound)):
            raise LookalikeError(f"{where}: {name!r} has {int(array.min())} to {int(array.max())}, which is impossible")


def write_meta(
    folder: Path,
    arrays: list[str],
    rows: int,
    class_names: list[str] | None,
    skipped: list[str],
    info: dict[str, Any],
    *,
    checksums: Mapping[str, Checksum] | None = None,
) -> None:
    """Writes ``embeddings.json``; a folder without it holds no complete embeddings."""
    meta = {"arrays": arrays, "rows": rows, "class_names": class_names, "skipped": skipped, "info": info}
    described = {name: asdict(checksums[name]) for name in arrays} if checksums else {}
    write_record(folder / META, {**meta, "checksums": described})
