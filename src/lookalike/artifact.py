"""A model's folder on disk: tensors, JSON and pictures, written all at once, checked when read.

Nothing in it is ever executed. ``config.json`` holds a SHA-256 of every other file and of itself.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lookalike.errors import LookalikeError
from lookalike.names import json_text, valid_json
from lookalike.provenance import fingerprint_file, fingerprint_json

CONFIG = "config.json"
TENSORS = "model.safetensors"
FORMAT = 1


@contextmanager
def fresh_folder(target: str | Path, *, marker: str, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder beside the target that takes the target's place when the block ends well.

    If the block is left by any exception, Ctrl-C included, what was written is removed and the target is as before.

    Args:
        target: Where to.
        marker: A file that every such folder holds: only an empty folder or one with this file in it is replaced.
        overwrite: Whether to replace at all.

    Raises:
        LookalikeError: If the target may not be replaced, or its place cannot be written to.
    """
    check_replaceable(target, marker=marker, overwrite=overwrite)
    target = Path(target).resolve()
    aside = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.mkdir()
    except OSError as error:
        raise LookalikeError(f"cannot write to {str(target.parent)!r}: {error.strerror}") from error
    try:
        yield aside
        take_place(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def check_replaceable(target: str | Path, *, marker: str = CONFIG, overwrite: bool = False) -> None:
    """Sees to it that a folder may be written, before any work is done.

    Raises:
        LookalikeError: If it exists and ``overwrite`` is not set, or it is none that lookalike wrote.
    """
    place = Path(target).resolve()
    if not place.exists():
        return
    if not overwrite:
        raise LookalikeError(
            f"{str(target)!r} exists already; choose another place, or overwrite it (--overwrite, overwrite=True)"
        )
    if not place.is_dir():
        raise LookalikeError(f"{str(target)!r} is a file, not a folder")
    if Path.cwd().resolve().is_relative_to(place):
        raise LookalikeError(f"{str(target)!r} is the folder you are in; choose another place")
    if any(place.iterdir()) and not (place / marker).is_file():
        raise LookalikeError(
            f"{str(target)!r} is not overwritten: it holds files, and is no folder of this kind (it has no {marker!r})"
        )


def write_artifact(
    folder: str | Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    files: Mapping[str, bytes],
    *,
    overwrite: bool = False,
) -> None:
    """Writes a model's folder.

    Args:
        folder: Where to.
        config: JSON values.
        tensors: Written to ``model.safetensors``.
        files: Further files by their relative names.
        overwrite: Replace the folder if there is one.
    """
    from safetensors.torch import save_file

    # as it will be read: keys are texts, and all texts are valid
    config = valid_json(json.loads(json.dumps(dict(config), default=_plain)))
    with fresh_folder(folder, marker=CONFIG, overwrite=overwrite) as aside:
        # copies, as safetensors refuses tensors that share memory
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, aside / TENSORS)
        for name, content in files.items():
            path = aside / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        hashes = {name: fingerprint_file(aside / name) for name in sorted([TENSORS, *files])}
        whole = {"format": FORMAT, **config, "files": hashes}
        whole["fingerprint"] = fingerprint_json(whole)
        (aside / CONFIG).write_text(json_text(whole, indent=2, allow_nan=True) + "\n", encoding="utf-8")
        shutil.copymode(aside / CONFIG, aside / TENSORS)  # safetensors writes for its owner alone


def read_artifact(folder: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Reads a model's folder and checks every file against its fingerprint.

    Raises:
        LookalikeError: If it is no saved model, of a newer format, or a file is missing or altered; it names the file.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    if not folder.is_dir():
        raise LookalikeError(f"{str(folder)!r} is not a folder with a saved model")
    config = read_config(folder)
    used = [TENSORS, *(name for row in config.get("images") or [] for name in row)]
    unlisted = [name for name in used if name not in config["files"]]
    if unlisted:
        raise LookalikeError(f"the saved model in {str(folder)!r} has no fingerprint of {unlisted[0]!r}")
    for name, expected in config["files"].items():
        path = folder / name
        if path.is_symlink() or not path.resolve().is_relative_to(folder.resolve()):
            raise LookalikeError(f"the saved model in {str(folder)!r} names a file outside of it: {name!r}")
        if not path.is_file():
            raise LookalikeError(f"the saved model in {str(folder)!r} is incomplete: {name!r} is missing")
        if fingerprint_file(path) != expected:
            raise LookalikeError(f"{name!r} of the saved model in {str(folder)!r} was altered: its fingerprint differs")
    return config, load_file(folder / TENSORS)


def read_config(folder: str | Path) -> dict[str, Any]:
    """Reads a model's ``config.json`` alone; the other files are not looked at.

    Raises:
        LookalikeError: If there is none, it was altered, or it is of a newer format.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LookalikeError(f"{str(folder)!r} holds no saved model: {CONFIG!r} is missing") from None
    except (OSError, ValueError) as error:
        raise LookalikeError(f"cannot read {CONFIG!r} in {str(folder)!r}: {error}") from error
    if not isinstance(config, dict) or "files" not in config or "fingerprint" not in config:
        raise LookalikeError(f"{CONFIG!r} in {str(folder)!r} is not that of a saved lookalike model")
    if config.get("format") != FORMAT:
        raise LookalikeError(
            f"the saved model in {str(folder)!r} has format {config.get('format')}; this version reads {FORMAT}"
        )
    content = {key: value for key, value in config.items() if key != "fingerprint"}
    if fingerprint_json(content) != config["fingerprint"]:
        raise LookalikeError(f"{CONFIG!r} of the saved model in {str(folder)!r} was altered: its fingerprint differs")
    return config


def _plain(value: Any) -> Any:
    """Makes plain JSON of NumPy's numbers; anything else as text."""
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else str(value)


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names start with ``prefix.``, without it."""
    start = prefix + "."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def stack_images(folder: Path, names: list[list[str]]) -> Tensor:
    """Reads the pictures of each prototype as uint8 [P, M, H, W, C]."""
    import numpy as np
    from PIL import Image

    def read(name: str) -> np.ndarray:
        with Image.open(folder / name) as image:
            array = np.asarray(image)
        return array[..., None] if array.ndim == 2 else array

    return torch.from_numpy(np.stack([np.stack([read(name) for name in row]) for row in names]))


def encode_image(pixels: Tensor) -> bytes:
    """Returns a PNG file of uint8 pixels [H, W, C]."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    array = pixels.cpu().numpy()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(buffer, format="PNG", optimize=False)
    return buffer.getvalue()


def take_place(aside: Path, target: Path) -> None:
    """Puts a folder in a target's place; if that fails, the target is as before."""
    if not target.exists():
        os.rename(aside, target)  # noqa: PTH104 - one call, one rename
        return
    old = _set_aside(target)
    try:
        os.rename(aside, target)  # noqa: PTH104
    except OSError:
        os.rename(old, target)  # noqa: PTH104
        raise
    shutil.rmtree(old, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Removes a folder, if it is there; nobody finds half of it."""
    if folder.exists():
        shutil.rmtree(_set_aside(folder), ignore_errors=True)


def _set_aside(folder: Path) -> Path:
    old = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.old"
    os.rename(folder, old)  # noqa: PTH104 - one call, one rename
    return old
