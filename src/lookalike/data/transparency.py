"""Transparent pixels: lays pictures on a colour, and finds pictures whose transparency is dropped.

The colours stored under transparent pixels are arbitrary: a picture may show a cat on nothing and hold a torn or black
background there. A network sees these colours if the transparency is dropped.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lookalike._core.errors import BrokenImageError, warn_of
from lookalike._core.names import visible
from lookalike.data.images import decode_image, opened_image
from lookalike.data.samples import whole_data_set
from lookalike.data.statistics import evenly_spread

TRANSPARENCIES = ("dropped", "white", "black")
REMARK_ON_TRANSPARENCY = "it has transparent pixels, and the model sees the arbitrary colours stored under them"
_COLOURS = {"white": (255, 255, 255, 255), "black": (0, 0, 0, 255)}
_WAY_OUT = "convert with --transparency white or black (Preprocessing(transparency=...)) if it was trained so"
_MAX_HEADERS = 10_000  # files, evenly spread, whose headers are searched for transparency
_MAX_DECODED = 500  # files, evenly spread, whose pixels are read if their headers allow transparency
_WITHOUT_ALPHA = (".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm")


def laid_on(image: Image.Image, transparency: str) -> Image.Image:
    """Shows a picture with transparency on a background of ``"white"`` or ``"black"``; ``"dropped"`` changes nothing.

    Example:
        >>> glass = Image.new("RGBA", (1, 1), (200, 100, 50, 0))
        >>> laid_on(glass, "white").getpixel((0, 0)), laid_on(glass, "dropped").getpixel((0, 0))
        ((255, 255, 255, 255), (200, 100, 50, 0))
    """
    if transparency not in _COLOURS:
        return image
    image = _with_plain_alpha(image)
    if not _allows_transparency(image):
        return image
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, _COLOURS[transparency]), layer)


def is_transparent(image: Any) -> bool:
    """Says whether a picture, or an array uint8 [H, W, 4], has a pixel that is not fully opaque.

    A picture that cannot be decoded is not: whoever reads it refuses it.
    """
    if isinstance(image, np.ndarray):
        return (
            image.dtype == np.uint8 and image.ndim == 3 and image.shape[-1] == 4 and bool((image[..., 3] < 255).any())
        )
    try:
        image = _with_plain_alpha(image)
        if not _allows_transparency(image):
            return False
        with_alpha = image if image.mode in ("LA", "RGBA") else image.convert("RGBA")
        return bool(with_alpha.getchannel("A").getextrema()[0] < 255)
    except Exception:  # decoders raise errors of any type on damaged files
        return False


@dataclass
class TransparentImages:
    """Counts images whose transparent pixels are dropped, as they are read.

    Attributes:
        n_read: Number of images that were looked at.
        n_transparent: Number of those with transparent pixels.
        example: The name of the first of them, if it has one.
    """

    n_read: int = 0
    n_transparent: int = 0
    example: str | None = None

    def look_at(self, image: Any, name: str | None = None) -> bool:
        """Counts one image; says whether it has transparent pixels."""
        found = is_transparent(image)
        self.n_read += 1
        self.n_transparent += found
        if found and self.example is None:
            self.example = name
        return found

    def sentence(self, what: str = "", of_total: int | None = None) -> str | None:
        """Returns one line about the images, None if there is none.

        Args:
            what: Name of the data, such as ``"training"``.
            of_total: Number of images, if not all were looked at.
        """
        if not self.n_transparent:
            return None
        example = "" if self.example is None else f", such as '{visible(self.example)}'"
        only = f" (of {of_total:,})" if of_total is not None and of_total > self.n_read else ""
        have = "has" if self.n_transparent == 1 else "have"
        number = f"{self.n_transparent:,} of {self.n_read:,} {what} images"
        counted = f"{' '.join(number.split())}{only}" if self.n_read > 1 else f"the {what} image".replace("  ", " ")
        return (
            f"{counted} {have} transparent pixels{example}: the network sees the arbitrary colours under them; "
            f"{_WAY_OUT}"
        )


def warn_of_transparency(data: Any, what: str) -> None:
    """Warns once of the transparent pixels that are dropped in image files.

    The headers of up to 10,000 files and the pixels of up to 500 are read, evenly spread over the data.

    Args:
        data: A data set of image files (``ImageFiles``, torchvision's ``ImageFolder``); other data are ignored, and so
            are those whose preprocessing lays pictures on a colour.
        what: Name of the data in the warning, such as ``"training"``; may be empty.

    Warns:
        LookalikeWarning: With the number of such images.
    """
    files, drops = _files_of(data)
    if not drops:
        return
    candidates = [
        files[int(row)]
        for row in evenly_spread(len(files), _MAX_HEADERS)
        if _header_allows_transparency(files[int(row)])
    ]
    shown = evenly_spread(len(candidates), _MAX_DECODED)
    n_opaque = min(len(files), _MAX_HEADERS) - len(candidates)
    # where not all candidates are decoded, as many of the others count as belong to those
    found = TransparentImages(n_read=round(n_opaque * len(shown) / len(candidates)) if candidates else n_opaque)
    for row in shown:
        file = candidates[int(row)]
        try:
            found.look_at(decode_image(file, large_images=True), str(file))
        except BrokenImageError:
            continue
    sentence = found.sentence(what, len(files))
    if sentence is not None:
        warn_of(sentence)


def _with_plain_alpha(image: Image.Image) -> Image.Image:
    """Undoes premultiplied alpha, where colours are stored multiplied by their opacity."""
    return image.convert(f"{image.mode[:-1]}A") if image.mode in ("La", "RGBa") else image


def _allows_transparency(image: Image.Image) -> bool:
    return "A" in image.getbands() or "a" in image.getbands() or image.info.get("transparency") is not None


def _header_allows_transparency(file: Path) -> bool:
    if file.suffix.lower() in _WITHOUT_ALPHA:
        return False
    try:
        with opened_image(file) as image:
            return _allows_transparency(image)
    except BrokenImageError:
        return False


def _files_of(data: Any) -> tuple[list[Path], bool]:
    """Returns a data set's image files, and whether their transparency is dropped."""
    data, rows = whole_data_set(data)
    files = getattr(data, "files", None)
    if not isinstance(files, list):
        listed = getattr(data, "imgs", None)  # torchvision's ImageFolder, whose loader drops transparency
        files = [Path(pair[0]) for pair in listed] if isinstance(listed, list) else []
    drops = getattr(getattr(data, "transform", None), "transparency", "dropped") == "dropped"
    if not files:
        return [], False
    return files if rows is None else [files[int(row)] for row in rows], drops
