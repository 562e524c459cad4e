"""Close-ups: views of photographs that are free for any use, from the package scikit-image. Nothing is downloaded.

Each photograph is one class. Its views are windows that overlap; every second one is for testing, mirrored. So training
and test views show the same things: enough to see what explanations of photographs look like, and no measure of a
classifier.
The files are read where they are installed; the package itself is not imported.
"""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from lookalike._core.errors import LookalikeError
from lookalike.data.bundle import DATASETS, DataBundle, DatasetEntry, ImageArray, Split
from lookalike.data.images import read_image
from lookalike.data.preprocessing import Preprocessing

# class → file, and who made it. All are CC0 or in the public domain, by the documentation of skimage.data.
PHOTOGRAPHS: dict[str, tuple[str, str]] = {
    "astronaut": ("astronaut.png", "Eileen Collins, NASA; public domain"),
    "cat": ("chelsea.png", "Stéfan van der Walt; CC0"),
    "coffee": ("coffee.png", "Rachel Michetti; CC0"),
    "galaxies": ("hubble_deep_field.jpg", "NASA; public domain"),
    "retina": ("retina.jpg", "Mikael Häggström 2014; CC0"),
    "rocket": ("rocket.jpg", "SpaceX; public domain"),
}
_WINDOW = 0.6  # side of a view, of the photograph's shorter side
_STEP = 0.2  # between views, of the same
_MOST = 5  # views side by side
_SIDE = 224
_NOTE = "test views are mirrored windows of the same photographs: their accuracy is no measure of a classifier"


def load_closeups(preprocessing: Preprocessing | None = None) -> DataBundle:
    """Loads views of six photographs: which photograph does a view come from?

    Args:
        preprocessing: How the images are prepared; None is 224×224 with ImageNet's normalisation.

    Raises:
        LookalikeError: If scikit-image is not installed, or lacks a photograph.
    """
    preprocessing = preprocessing or Preprocessing.square(_SIDE)
    folder = _folder()
    views: list[np.ndarray] = []
    labels: list[int] = []
    for label, (file, _) in enumerate(PHOTOGRAPHS.values()):
        of_photograph = _views_of(read_image(folder / file).convert("RGB"))
        views += of_photograph
        labels += [label] * len(of_photograph)
    images, y = np.stack(views), np.array(labels)
    names = list(PHOTOGRAPHS)
    train = ImageArray(images[::2], y[::2], names, preprocessing)
    test = ImageArray(np.ascontiguousarray(images[1::2, :, ::-1]), y[1::2], names, preprocessing)
    return DataBundle("closeups", train, test, names, preprocessing, (_NOTE,), split=Split("parts"))


def _folder() -> Path:
    package = importlib.util.find_spec("skimage")
    folders = (
        [] if package is None else [Path(location) / "data" for location in package.submodule_search_locations or ()]
    )
    if not folders:
        raise LookalikeError("'closeups' is made of photographs in scikit-image: pip install scikit-image")
    missing = [file for file, _ in PHOTOGRAPHS.values() if not (folders[0] / file).is_file()]
    if missing:
        raise LookalikeError(f"scikit-image has no {missing[0]!r} in {str(folders[0])!r}; install a newer version")
    return folders[0]


def _views_of(photograph: Image.Image) -> list[np.ndarray]:
    """Returns square windows of a photograph, row by row, each resized to 224 × 224."""
    shorter = min(photograph.size)
    side, step = round(_WINDOW * shorter), round(_STEP * shorter)
    columns = min((photograph.width - side) // step + 1, _MOST)
    rows = min((photograph.height - side) // step + 1, _MOST)
    corners = [(column * step, row * step) for row in range(rows) for column in range(columns)]
    windows = [photograph.crop((left, top, left + side, top + side)) for left, top in corners]
    return [np.asarray(window.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)) for window in windows]


DATASETS.register("closeups")(
    DatasetEntry("views of six photographs that are free for any use (in scikit-image; extra: demo)", load_closeups)
)
