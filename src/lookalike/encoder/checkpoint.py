"""Reads checkpoints of any kind: sets of weights, and plain values beside them."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from lookalike._core.errors import LookalikeError, first_line, listing
from lookalike._core.files import path_as_text
from lookalike.encoder.contents import TOP, plain_values, weights_in
from lookalike.encoder.formats import Format, recognise, refusal
from lookalike.encoder.inert import DamagedFileError, UnreadTensor
from lookalike.encoder.torch_files import TorchFile, open_pickle, open_zip

_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(\.\w+)")
_COMMON_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_COMMON_NAMES = ("model.safetensors", "pytorch_model.bin", "model.pth", "model.pt")
_SUFFIXES = frozenset({".safetensors", ".bin", ".pth", ".pt", ".ckpt"})
_UNREADABLE = (KeyError, TypeError, ValueError, RuntimeError, OverflowError, MemoryError, OSError, AttributeError)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
        path: The file or folder.
        weights: Sets of weights by their path in the file, such as ``"model.ema"``, or ``"."`` for the top; each maps
            names to tensors. Numbers are read from the file when they are used.
        metadata: Plain values beside the weights: texts, numbers, lists, dictionaries; objects as dictionaries of their
            attributes.
        unread: Tensors that cannot be read: for each set, their kinds by name.
        is_ordered: Whether the tensors are in the order of the network that was saved; safetensors sorts them.
    """

    path: Path
    weights: dict[str, dict[str, Tensor]]
    metadata: dict[str, Any] = field(default_factory=dict)
    unread: dict[str, dict[str, str]] = field(default_factory=dict)
    is_ordered: bool = True


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Reads a checkpoint without running any code in it.

    The first bytes decide the kind, not the suffix: safetensors; files of ``torch.save``, including those before
    torch 1.6, with state dicts, training states or whole networks; other pickles; an index of shards
    (``*.index.json``); a folder of any of them.

    Raises:
        LookalikeError: If it is missing or damaged, its kind is not supported, or it holds no weights.
    """
    path = Path(path)
    kind = recognise(path)
    if kind is Format.FOLDER:
        files = _weight_files(path)
        return (
            read_checkpoint(files[0])
            if len(files) == 1
            else Checkpoint(path, {TOP: _merge_shards(files)}, is_ordered=False)
        )
    if kind is Format.INDEX:
        return _read_index(path)
    if kind is Format.SAFETENSORS:
        return _read_safetensors(path)
    try:
        torch_file = open_zip(path) if kind is Format.ZIP else open_pickle(path)
        return _read_torch_file(path, torch_file)
    except DamagedFileError as error:
        raise LookalikeError(f"cannot read the weights file {str(path)!r}: {error}") from error
    except LookalikeError:
        raise
    except _UNREADABLE as error:
        raise refusal(path, f"is damaged ({type(error).__name__})", "get or copy it again") from error


def _read_torch_file(path: Path, torch_file: TorchFile) -> Checkpoint:
    """Separates weights, tensors that cannot be read, and plain values."""
    sets = weights_in(torch_file.content)
    unread = {
        key: {name: tensor.kind for name, tensor in tensors.items() if isinstance(tensor, UnreadTensor)}
        for key, tensors in sets.items()
    }
    unread = {key: kinds for key, kinds in unread.items() if kinds}
    weights = {
        key: {
            name: torch_file.tensor(tensor) for name, tensor in tensors.items() if not isinstance(tensor, UnreadTensor)
        }
        for key, tensors in sets.items()
    }
    weights = {key: tensors for key, tensors in weights.items() if tensors}
    if not weights and unread:
        raise unread_refusal(path, next(iter(unread.values())))
    if not weights:
        content = torch_file.content
        kind = f"a {type(content).__name__}" if isinstance(content, dict | list) else "an object"
        raise LookalikeError(f"the weights file {str(path)!r} holds no state dict, but {kind}")
    return Checkpoint(path, weights, plain_values(torch_file.content), unread)


def unread_refusal(path: Path, kinds: dict[str, str]) -> LookalikeError:
    """Returns the error for a file with tensors that cannot be read, such as quantised ones.

    Args:
        path: The file.
        kinds: The kind of each of these tensors, by name.
    """
    listed = listing([f"{name} ({kind})" for name, kind in kinds.items()], 4)
    return LookalikeError(
        f"the weights file {str(path)!r} holds tensors that are not plain numbers: {listed}; save a state_dict() "
        "of dense floating-point tensors, as before quantisation or conversion"
    )


def _read_safetensors(path: Path) -> Checkpoint:
    from safetensors import SafetensorError, safe_open

    try:
        with path_as_text(path) as text, safe_open(text, framework="pt") as file:
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
            metadata = dict(file.metadata() or {})
    except (SafetensorError, *_UNREADABLE) as error:
        reason = first_line(error)
        raise LookalikeError(f"cannot read the weights file {str(path)!r}: it is damaged ({reason[:120]})") from error
    if not tensors:
        raise LookalikeError(f"the weights file {str(path)!r} holds no tensors")
    return Checkpoint(path, {TOP: tensors}, metadata, is_ordered=False)


def _read_index(path: Path) -> Checkpoint:
    """Reads weights that are split over the files that an index lists."""
    shard_of = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    if not shard_of or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise LookalikeError(f"the index of shards {str(path)!r} is damaged: get it again")
    shards = sorted(set(shard_of.values()))
    outside = [shard for shard in shards if Path(shard).name != shard or shard in ("", ".", "..") or "\0" in shard]
    if outside:
        raise LookalikeError(f"the index of shards {str(path)!r} names a file outside of its folder: {outside[0]!r}")
    files = [path.parent / shard for shard in shards]
    _check_shards(path, files)
    tensors = _merge_shards(files)
    missing = [name for name in shard_of if name not in tensors]
    if missing:
        raise LookalikeError(f"the shards of {str(path)!r} lack {missing[0]!r} and {len(missing) - 1} more weights")
    return Checkpoint(path, {TOP: {name: tensors[name] for name in shard_of}}, is_ordered=False)


def _check_shards(path: Path, files: list[Path]) -> None:
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise LookalikeError(
            f"of {len(files)} shards of {str(path)!r} {len(missing)} are missing: {listing(missing, 3)}; "
            "get them too, into the same folder"
        )


def _merge_shards(files: list[Path]) -> dict[str, Tensor]:
    """Returns the weights of several files as one set."""
    tensors: dict[str, Tensor] = {}
    for file in files:
        if recognise(file) not in (Format.SAFETENSORS, Format.ZIP, Format.PICKLE):
            raise LookalikeError(f"the shard {str(file)!r} is an index itself: give the folder of the files of weights")
        sets = read_checkpoint(file).weights
        if len(sets) > 1:
            raise LookalikeError(f"the shard {str(file)!r} holds {len(sets)} sets of weights; shards hold one")
        tensors |= next(iter(sets.values()))
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    """Finds the weights in a folder: one file, the index of shards, or all shards of one series.

    Raises:
        LookalikeError: If there are no weights, or several files that may be meant.
    """
    try:
        names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise LookalikeError(f"cannot read the folder {str(folder)!r}: {error.strerror or error}") from error
    indices = [name for name in names if name.endswith(".index.json")]
    for name in (*_COMMON_INDICES, *indices[: len(indices) == 1], *_COMMON_NAMES):
        if name in names:
            return [folder / name]
    files = [name for name in names if Path(name).suffix in _SUFFIXES]
    if len(files) == 1:
        return [folder / files[0]]
    shards = [match for name in files if (match := _SHARD.fullmatch(name))]
    series = {(match[1], match[3], match[4]) for match in shards}
    if len(series) == 1 and len(shards) == len(files) > 0:
        stem, total, suffix = next(iter(series))
        expected = [folder / f"{stem}-{n:05d}-of-{total}{suffix}" for n in range(1, min(int(total), 10_000) + 1)]
        _check_shards(folder, expected)
        return expected
    raise _no_weights_in(folder, names, files)


def _no_weights_in(folder: Path, names: list[str], files: list[str]) -> LookalikeError:
    """Returns the error for a folder without weights, or with several files of weights.

    Args:
        folder: The folder.
        names: The names of all its files.
        files: Those with a suffix of weights.
    """
    if any(name.endswith(".distcp") for name in names):
        problem, way_out = (
            "is a distributed checkpoint of torch",
            ("make one file of it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save"),
        )
    elif "saved_model.pb" in names:
        problem, way_out = "is a TensorFlow SavedModel", "convert the network to PyTorch and give its state_dict()"
    elif "data.pkl" in names:
        problem, way_out = "is an unpacked file of torch.save", "give the file itself"
    elif "config.json" in names and not files:
        problem, way_out = "holds no weights", "get the file of weights too"
    else:
        listed = ", ".join(files[:4]) + (" …" if len(files) > 4 else "")
        problem = f"holds {len(files)} files of weights ({listed})" if files else "holds no file of weights"
        way_out = "give one file"
    return LookalikeError(f"cannot read weights from the folder {str(folder)!r}: it {problem}; {way_out}")
