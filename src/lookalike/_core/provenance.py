"""Where a result comes from: versions, the machine, and fingerprints of weights, data and files."""

import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

_PACKAGES = ("lookalike", "torch", "torchvision", "numpy", "scikit-learn", "faiss-cpu", "timm", "transformers")


def versions() -> dict[str, str]:
    """Returns the versions of Python, of this package and of those that its results depend on."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Names the processor, and how many of its threads torch uses."""
    threads = torch.get_num_threads()
    return f"{processor()}, {threads} thread{'s' if threads > 1 else ''}"


@functools.cache
def processor() -> str:
    """Names the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def fingerprint_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Returns a SHA-256 of names, types, shapes and values, whatever the order or the device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if not isinstance(tensors[name], Tensor):  # an extra state of the model's own
            digest.update(f"{name}:{tensors[name]!r};".encode())
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()


def fingerprint_array(array: np.ndarray[Any, Any]) -> str:
    """Returns a SHA-256 of an array's type, shape and values."""
    digest = hashlib.sha256(f"{array.dtype}:{array.shape};".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def fingerprint_json(value: Any) -> str:
    """Returns a SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fingerprint_file(path: Path) -> str:
    """Returns a SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
