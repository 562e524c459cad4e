"""Images that a model of digits, letters or stamps does not know: letters or digits, textures, photographs."""

from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.data import ImageArray, load_data
from lookalike.data.images import decode_image

_TEXTURES = ("brick", "grass", "gravel")  # of scikit-image's data, in the public domain


def strange_images(n: int, seed: int, *, without: str) -> dict[str, list[Image.Image]]:
    """Returns n images of each kind; textures only where scikit-image is installed.

    Photographs are crops of the two that scikit-learn has.

    Args:
        n: Number of images of each kind.
        seed: Seed of the choice.
        without: Data set that is not unfamiliar, ``"digits"`` or ``"glyphs"``.
    """
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng([seed, 0x5E])
    pictures_by_kind: dict[str, list[Image.Image]] = {}
    for name, kind in (("glyphs", "letters"), ("digits", "digits")):
        if name == without or (name == "digits" and without not in ("glyphs",)):
            continue
        samples = load_data(name).test
        assert isinstance(samples, ImageArray)  # noqa: S101 - both data sets are arrays
        rows = rng.permutation(len(samples))[:n]
        pictures_by_kind[kind] = [Image.fromarray(samples.images[row]) for row in rows]
    textures = _texture_files()
    if textures:
        pictures_by_kind["textures"] = _crops([decode_image(file).convert("L") for file in textures], n, rng)
    pictures_by_kind["photographs"] = _crops([Image.fromarray(image) for image in load_sample_images().images], n, rng)
    if without in ("digits", "glyphs"):
        pictures_by_kind["photographs"] = [picture.convert("L") for picture in pictures_by_kind["photographs"]]
    else:
        pictures_by_kind = {
            kind: [picture.convert("RGB") for picture in pictures] for kind, pictures in pictures_by_kind.items()
        }
    return pictures_by_kind


def _texture_files() -> list[Path]:
    """Returns the files of the textures; none without scikit-image."""
    from importlib.util import find_spec

    spec = find_spec("skimage")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [Path(folder) / "data" / f"{name}.png" for folder in folders for name in _TEXTURES]
    return [file for file in files if file.exists()]


def _crops(pictures: list[Image.Image], n: int, rng: np.random.Generator) -> list[Image.Image]:
    """Returns square crops of random size and place, from the pictures in turn."""
    crops = []
    for number in range(n):
        picture = pictures[number % len(pictures)]
        side = int(rng.integers(min(picture.size) // 8, min(picture.size) // 2))
        left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
        crops.append(picture.crop((left, top, left + side, top + side)))
    return crops
