"""Glyphs: letters rendered from real fonts, with attributes read from the fonts' own tables.

A small stand-in for CelebA that needs no download: binary attributes that are unbalanced and correlated, as in real
data.
"""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import with_log_level
from lookalike.data.bundle import DATASETS, Attributes, DataBundle, DatasetEntry, ImageArray
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import channel_statistics

LETTERS = "ABCDEFGHIJ"
SIDE = 32  # pixels
_CANVAS_SIDE = 128  # pixels; letters are drawn at this size and then reduced to SIDE
_IMAGES_PER_CLASS = 500  # roughly, if the number of copies is not given
_TEST_SHARE = 0.25
_EMBEDDED = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10")

Tables = Any  # fontTools' TTFont


def _os2(font: Tables, name: str) -> int:
    return int(getattr(font["OS/2"], name, 0) or 0) if "OS/2" in font else 0


def _panose(font: Tables, name: str) -> int:
    return int(getattr(font["OS/2"].panose, name)) if "OS/2" in font and getattr(font["OS/2"], "panose", None) else 0


def _family_class(font: Tables) -> int:
    return (_os2(font, "sFamilyClass") >> 8) & 0xFF


def _is_monospaced(font: Tables) -> bool:
    """Whether all letters have the same width; it is measured, as the tables often lack the declaration."""
    glyphs = font.getBestCmap()
    return len({font["hmtx"][glyphs[ord(letter)]][0] for letter in LETTERS + "il"}) == 1


def _units(font: Tables) -> int:
    return int(font["head"].unitsPerEm) if "head" in font else 1000


# Codes of the OpenType specification: weight 400 and width 5 are normal; PANOSE bSerifStyle 2…10 are
# serifs, 11…15 sans serifs; IBM family classes 1…5 and 7 are serifs, 8 sans serifs, 9 ornamental, 10 scripts.
ATTRIBUTES: dict[str, Callable[[Tables], bool]] = {
    "bold": lambda f: _os2(f, "usWeightClass") >= 600 or ("head" in f and bool(f["head"].macStyle & 1)),
    "light": lambda f: 0 < _os2(f, "usWeightClass") <= 300,
    "italic": lambda f: ("post" in f and f["post"].italicAngle != 0) or ("head" in f and bool(f["head"].macStyle & 2)),
    "monospaced": _is_monospaced,
    "serif": lambda f: (
        (_panose(f, "bFamilyType") == 2 and 2 <= _panose(f, "bSerifStyle") <= 10)
        or _family_class(f) in (1, 2, 3, 4, 5, 7)
    ),
    "sans serif": lambda f: (
        (_panose(f, "bFamilyType") == 2 and 11 <= _panose(f, "bSerifStyle") <= 15) or _family_class(f) == 8
    ),
    "condensed": lambda f: 0 < _os2(f, "usWidthClass") <= 4 or _panose(f, "bProportion") in (6, 8),
    "wide": lambda f: _os2(f, "usWidthClass") >= 6 or _panose(f, "bProportion") in (5, 7),
    "script": lambda f: _panose(f, "bFamilyType") == 3 or _family_class(f) == 10,
    "decorative": lambda f: _panose(f, "bFamilyType") == 4 or _family_class(f) == 9,
    "high contrast": lambda f: _panose(f, "bFamilyType") == 2 and _panose(f, "bContrast") >= 6,
    "tall capitals": lambda f: _os2(f, "sCapHeight") > 0.7 * _units(f),
    "large x-height": lambda f: 0 < 0.72 * _os2(f, "sCapHeight") < _os2(f, "sxHeight"),
    "broad letters": lambda f: _os2(f, "xAvgCharWidth") > 0.55 * _units(f),
}


@dataclass(frozen=True)
class _Font:
    path: Path
    family: str
    attributes: tuple[bool, ...]


def load_glyphs(
    preprocessing: Preprocessing | None = None, *, fonts: str | Path | None = None, copies: int | None = None
) -> DataBundle:
    """Renders the letters A to J from every font of a folder, 32×32 grey, white on black; the same at each call.

    A quarter of the font families forms the test part, so that no family is in both parts.

    Args:
        preprocessing: How the images are prepared for the network; None keeps their size and normalises them by the
            training part's mean and standard deviation.
        fonts: A folder with ``.ttf`` and ``.otf`` files at any depth; None takes ``$LOOKALIKE_FONTS``, else the text
            fonts that are included in matplotlib.
        copies: Number of images per letter and font, each slightly shifted, turned and scaled but the first; None
            draws about 500 images per letter, and each font at least once.

    Raises:
        LookalikeError: If the folder does not exist, or has fewer than two font families with these letters.
    """
    checks.optional(checks.instance, "preprocessing", preprocessing, Preprocessing, "a Preprocessing")
    checks.optional(checks.path, "fonts", fonts)
    copies = checks.optional(checks.whole_number, "copies", copies, 1)
    folder = fonts if fonts is not None else os.environ.get("LOOKALIKE_FONTS") or None
    usable_fonts, n_left_out = _find_fonts(folder)
    families = sorted({font.family for font in usable_fonts})
    if len(families) < 2:
        where = "matplotlib's fonts" if folder is None else repr(str(folder))
        raise LookalikeError(f"{where} has {len(families)} font families with the letters A to J; two are needed")
    if copies is None:
        copies = max(1, round(_IMAGES_PER_CLASS / len(usable_fonts)))
    order = np.random.default_rng(0).permutation(len(families))
    n_test = max(1, round(_TEST_SHARE * len(families)))
    test_families = {families[i] for i in order[:n_test]}
    train_x, train_y, train_attributes = _draw([f for f in usable_fonts if f.family not in test_families], copies)
    test_x, test_y, test_attributes = _draw([f for f in usable_fonts if f.family in test_families], copies)
    if preprocessing is None:
        mean, std = channel_statistics(train_x)
        preprocessing = Preprocessing(None, (SIDE, SIDE), mean, std)
    train, test = (ImageArray(x, y, list(LETTERS), preprocessing) for x, y in ((train_x, train_y), (test_x, test_y)))
    note = f"{len(usable_fonts)} fonts of {len(families)} families, {n_test} of them for testing"
    if n_left_out:
        note += f"; {n_left_out} files left out, which have no such letters"
    attributes = Attributes(list(ATTRIBUTES), train_attributes, test_attributes)
    return DataBundle("glyphs", train, test, list(LETTERS), preprocessing, (note,), attributes)


def _find_fonts(folder: str | Path | None) -> tuple[list[_Font], int]:
    """Returns the fonts that have all letters, sorted by path, and the number of files that do not."""
    if folder is None:
        import matplotlib as mpl

        root = Path(mpl.get_data_path()) / "fonts" / "ttf"
        files = [path for path in sorted(root.glob("*.ttf")) if path.name.startswith(_EMBEDDED)]
    else:
        root = Path(folder)
        if not root.is_dir():
            raise LookalikeError(f"{str(folder)!r} is no folder of fonts")
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
    # fontTools logs odd dates in old fonts
    font_or_none = with_log_level(logging.ERROR, ["fontTools"], lambda: [_read_font(file) for file in files])
    fonts = [font for font in font_or_none if font is not None]
    return fonts, len(files) - len(fonts)


def _read_font(path: Path) -> _Font | None:
    """Reads a font's family and attributes; None if it lacks a letter, draws two letters alike, or cannot be read.

    Symbol fonts give None too: their "A" may be a star or a Greek letter, which the glyph's name reveals.
    """
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with TTFont(path, lazy=True) as tables:
            glyphs = tables.getBestCmap() or {}
            if any(ord(letter) not in glyphs for letter in LETTERS + "il"):
                return None
            if any(not _may_show(glyphs[ord(letter)], letter) for letter in LETTERS):
                return None
            names = tables["name"]
            family = names.getDebugName(16) or names.getDebugName(1) or path.stem
            attributes = tuple(bool(read(tables)) for read in ATTRIBUTES.values())
        letters = [_draw_letter(ImageFont.truetype(str(path), _CANVAS_SIDE // 2), letter) for letter in LETTERS]
    except (TTLibError, OSError, KeyError, AttributeError, ValueError, AssertionError):
        return None
    if any(image.getbbox() is None for image in letters) or len({image.tobytes() for image in letters}) < len(LETTERS):
        return None
    return _Font(path, family, attributes)


def _may_show(glyph: str, letter: str) -> bool:
    """Whether a glyph's name stands for the letter or for no character, as ``glyph36``.

    Example:
        >>> _may_show("A", "A"), _may_show("A.alt", "A"), _may_show("Alpha", "A")
        (True, True, False)
    """
    from fontTools.agl import toUnicode

    character = toUnicode(glyph) or toUnicode(glyph, isZapfDingbats=True)
    return character in ("", letter)


def _draw_letter(font: ImageFont.FreeTypeFont, letter: str) -> Image.Image:
    """Draws a letter in the middle of a canvas."""
    canvas = Image.new("L", (_CANVAS_SIDE, _CANVAS_SIDE))
    ImageDraw.Draw(canvas).text((_CANVAS_SIDE / 2, _CANVAS_SIDE / 2), letter, font=font, fill=255, anchor="mm")
    return canvas


def _draw(fonts: Sequence[_Font], copies: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images [N, 32, 32], labels [N] and attributes [N, A]."""
    images, labels, attributes = [], [], []
    for font in fonts:
        rng = np.random.default_rng(list(font.path.name.encode()))  # a font's images do not depend on the other fonts
        large_font = ImageFont.truetype(str(font.path), _CANVAS_SIDE * 5 // 8)
        for label, letter in enumerate(LETTERS):
            canvas = _draw_letter(large_font, letter)
            for copy in range(copies):
                turn, scale, right, down = rng.uniform(-1, 1, 4) if copy else (0, 0, 0, 0)
                moved = canvas.rotate(8 * turn, Image.Resampling.BICUBIC, translate=(round(8 * right), round(8 * down)))
                side = round(_CANVAS_SIDE * (1 + 0.12 * scale))
                edge = (_CANVAS_SIDE - side) // 2
                small = moved.crop((edge, edge, edge + side, edge + side)).resize(
                    (SIDE, SIDE), Image.Resampling.LANCZOS
                )
                images.append(np.asarray(small))
                labels.append(label)
                attributes.append(font.attributes)
    return np.stack(images), np.array(labels, dtype=np.int64), np.array(attributes, dtype=np.uint8)


DATASETS.register("glyphs")(
    DatasetEntry("letters A to J from real fonts, 32×32, with 14 attributes (embedded; $LOOKALIKE_FONTS)", load_glyphs)
)
