"""Provenance of a result: versions, machine, and fingerprints of weights, data and files."""

import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

_PACKAGES = ("lookalike", "torch", "torchvision", "numpy", "scikit-learn", "faiss-cpu", "timm", "transformers")


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this package and of the packages that its results depend on."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    package_versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            package_versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return package_versions


def machine() -> str:
    """Returns the processor's name and the number of torch's threads."""
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"


@functools.cache
def processor() -> str:
    """Returns the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


class Digest(Protocol):
    """A hash that takes its input piece by piece, such as those of ``hashlib`` and ``xxhash``."""

    def update(self, data: Any, /) -> None:
        """Adds bytes."""


def add_tensors(digest: Digest, tensors: Mapping[str, Tensor]) -> None:
    """Adds names, types, shapes and values of tensors to a hash; order and device do not matter."""
    for name in sorted(tensors):
        if not isinstance(tensors[name], Tensor):  # a module's extra state may be any object
            digest.update(f"{name}:{tensors[name]!r};".encode())
            continue
        if tensors[name].layout is not torch.strided:
            sparse = tensors[name].detach().to_sparse_coo().coalesce()
            add_tensors(digest, {f"{name}.indices": sparse.indices(), f"{name}.values": sparse.values()})
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")


def add_array(digest: Digest, array: np.ndarray[Any, Any]) -> None:
    """Adds an array's type, shape and values to a hash."""
    digest.update(f"{array.dtype}:{array.shape};".encode())
    digest.update(np.ascontiguousarray(array).data)


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Returns a SHA-256 of names, types, shapes and values; order and device do not matter."""
    digest = hashlib.sha256()
    add_tensors(digest, tensors)
    return digest.hexdigest()


def fingerprint_array(array: np.ndarray[Any, Any]) -> str:
    """Returns a SHA-256 of an array's type, shape and values."""
    digest = hashlib.sha256()
    add_array(digest, array)
    return digest.hexdigest()


def canonical_json(value: Any) -> bytes:
    """Returns a JSON value as text that does not depend on the order of its keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def fingerprint_json(value: Any) -> str:
    """Returns a SHA-256 of a JSON value; the order of its keys does not matter."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def fingerprint_file(path: Path) -> str:
    """Returns a SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
