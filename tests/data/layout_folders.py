"""Folders of tiny images for the tests of layouts."""

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def _png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


PNG = _png()


def make_folder(root: Path, *paths: str) -> Path:
    """Makes a folder of files: those that end in a slash are folders, the others PNG images, whatever their suffix."""
    root.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if path.endswith("/"):
            (root / path).mkdir(parents=True)
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(PNG)
    return root


def images(prefix: str, classes: Iterable[str] = ("ant", "bee"), number: int = 2) -> list[str]:
    """Returns the paths of a few images of each class."""
    return [f"{prefix}{name}/{i}.png" for name in classes for i in range(number)]
