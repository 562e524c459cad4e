"""Images that a model of digits, letters or stamps does not know: letters or digits, textures, photographs."""

from pathlib import Path

import numpy as np
from PIL import Image

from lookalike.data import ImageArray, load_data
from lookalike.data.images import decode_image

# of scikit-image's data: in the public domain, or CC0
_TEXTURES = ("brick.png", "grass.png", "gravel.png")
_PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg")


def strange_images(n: int, seed: int, *, without: str) -> dict[str, list[Image.Image]]:
    """Returns n images of each kind; textures, and most of the photographs, only where scikit-image is installed.

    Textures and photographs are crops, of the two photographs that scikit-learn has and of six of scikit-image. The one
    of a flower is left out for the stamps, which have flowers.

    Args:
        n: Number of images of each kind.
        seed: Seed of the choice.
        without: Data set that is not unfamiliar: ``"digits"``, ``"glyphs"`` or ``"stamps"``.
    """
    from sklearn.datasets import load_sample_image

    rng = np.random.default_rng([seed, 0x5E])
    mode = "L" if without in ("digits", "glyphs") else "RGB"
    pictures_by_kind = {}
    kind, dataset = ("digits", "digits") if without == "glyphs" else ("letters", "glyphs")
    samples = load_data(dataset).test
    assert isinstance(samples, ImageArray)  # both data sets are arrays
    pictures_by_kind[kind] = [Image.fromarray(samples.images[row]) for row in rng.permutation(len(samples))[:n]]
    textures = _installed(_TEXTURES)
    if textures:
        pictures_by_kind["textures"] = _crops(textures, n, rng)
    names = ("china.jpg",) if without == "stamps" else ("china.jpg", "flower.jpg")
    photographs = [*(Image.fromarray(load_sample_image(name)) for name in names), *_installed(_PHOTOGRAPHS)]
    pictures_by_kind["photographs"] = _crops(photographs, n, rng)
    return {kind: [picture.convert(mode) for picture in pictures] for kind, pictures in pictures_by_kind.items()}


def _installed(names: tuple[str, ...]) -> list[Image.Image]:
    """Returns pictures of scikit-image's data; none without scikit-image, which is not imported."""
    from importlib.util import find_spec

    spec = find_spec("skimage")
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    files = [Path(folder) / "data" / name for folder in folders for name in names]
    return [decode_image(file) for file in files if file.exists()]


def _crops(pictures: list[Image.Image], n: int, rng: np.random.Generator) -> list[Image.Image]:
    """Returns square crops of random size and place, from the pictures in turn."""
    crops = []
    for number in range(n):
        picture = pictures[number % len(pictures)]
        side = int(rng.integers(min(picture.size) // 8, min(picture.size) // 2))
        left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
        crops.append(picture.crop((left, top, left + side, top + side)))
    return crops
