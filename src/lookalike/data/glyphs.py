"""Glyphs: letters rendered from real fonts, with attributes read from the fonts' own tables.

It stands where CelebA cannot go: a data set with binary attributes, unbalanced and correlated as they are in life.
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
from lookalike._core.untouched import process_settings, undoing
from lookalike.data.bundle import DATASETS, Attributes, DataBundle, DatasetEntry, ImageArray
from lookalike.data.preprocessing import Preprocessing
from lookalike.data.statistics import channel_statistics

LETTERS = "ABCDEFGHIJ"
SIDE = 32  # pixels
_DRAWN = 128  # pixels of the canvas that is drawn on before it is made small
_PER_CLASS = 500  # images, about, when the number of copies is not given
_TEST_SHARE = 0.25
_EMBEDDED = ("DejaVuSans", "DejaVuSerif", "STIXGeneral", "cmb10", "cmmi10", "cmr10", "cmss10", "cmti10", "cmtt10")

Tables = Any  # fontTools' TTFont


def _os2(font: Tables, name: str, default: int = 0) -> int:
    return int(getattr(font["OS/2"], name, default) or default) if "OS/2" in font else default


def _panose(font: Tables, name: str) -> int:
    return int(getattr(font["OS/2"].panose, name)) if "OS/2" in font and getattr(font["OS/2"], "panose", None) else 0


def _family_class(font: Tables) -> int:
    return (_os2(font, "sFamilyClass") >> 8) & 0xFF


def _is_monospaced(font: Tables) -> bool:
    """Whether the letters have one width; what the tables declare is often missing."""
    glyphs = font.getBestCmap()
    return len({font["hmtx"][glyphs[ord(letter)]][0] for letter in LETTERS + "il"}) == 1


def _units(font: Tables) -> int:
    return int(font["head"].unitsPerEm) if "head" in font else 1000


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
    """Renders the letters A to J, 32×32 grey, white on black, from every font of a folder, always alike.

    A quarter of the font families is the test part, so that no family is on both sides.

    Args:
        preprocessing: What the network takes; None keeps the size and normalises by the training part's statistics.
        fonts: A folder of ``.ttf`` and ``.otf`` files, also deeper inside it; None takes ``$LOOKALIKE_FONTS``, or the
            text fonts that come with matplotlib.
        copies: How many times each letter of each font is drawn, a little shifted, turned and scaled; None draws
            about 500 images per letter, and each font at least once.

    Raises:
        LookalikeError: If there is no such folder, or it has fewer than two families with these letters.
    """
    checks.optional(checks.instance, "preprocessing", preprocessing, Preprocessing, "a Preprocessing")
    checks.optional(checks.path, "fonts", fonts)
    checks.optional(checks.whole_number, "copies", copies, 1)
    chosen = fonts if fonts is not None else os.environ.get("LOOKALIKE_FONTS") or None
    found, left_out = _find_fonts(chosen)
    families = sorted({font.family for font in found})
    if len(families) < 2:
        where = "matplotlib's fonts" if chosen is None else repr(str(chosen))
        raise LookalikeError(f"{where} has {len(families)} font families with the letters A to J; two are needed")
    if copies is None:
        copies = max(1, round(_PER_CLASS / len(found)))
    order = np.random.default_rng(0).permutation(len(families))
    n_test = max(1, round(_TEST_SHARE * len(families)))
    held_out = {families[i] for i in order[:n_test]}
    parts = [[f for f in found if (f.family in held_out) == test] for test in (False, True)]
    drawn = [_draw(part, copies) for part in parts]
    if preprocessing is None:
        mean, std = channel_statistics(drawn[0][0])
        preprocessing = Preprocessing(None, (SIDE, SIDE), mean, std)
    train, test = (ImageArray(x, y, list(LETTERS), preprocessing) for x, y, _ in drawn)
    note = f"{len(found)} fonts of {len(families)} families, {n_test} of them for testing"
    if left_out:
        note += f"; {left_out} files left out, which have no such letters"
    attributes = Attributes(list(ATTRIBUTES), drawn[0][2], drawn[1][2])
    return DataBundle("glyphs", train, test, list(LETTERS), preprocessing, (note,), attributes)


def _find_fonts(folder: str | Path | None) -> tuple[list[_Font], int]:
    """Returns the fonts that have the letters, by path, and how many files do not."""
    if folder is None:
        import matplotlib as mpl

        root = Path(mpl.get_data_path()) / "fonts" / "ttf"
        files = [path for path in sorted(root.glob("*.ttf")) if path.name.startswith(_EMBEDDED)]
    else:
        root = Path(folder)
        if not root.is_dir():
            raise LookalikeError(f"{str(folder)!r} is no folder of fonts")
        files = sorted(path for path in root.rglob("*") if path.suffix.lower() in (".ttf", ".otf"))
    read = undoing(process_settings(loggers=["fontTools"]), lambda: [_read_font(file) for file in files])
    fonts = [font for font in read if font is not None]
    return fonts, len(files) - len(fonts)


def _read_font(path: Path) -> _Font | None:
    """Reads a font's family and attributes; None if it lacks a letter, draws two alike, or cannot be read.

    None too for a symbol font, whose letters are called after other characters: its A is a star, or a Greek letter.
    """
    from fontTools.ttLib import TTFont, TTLibError

    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it tells of odd dates in old fonts
    try:
        with TTFont(path, lazy=True) as tables:
            known = tables.getBestCmap() or {}
            if any(ord(letter) not in known for letter in LETTERS + "il"):
                return None
            if any(not _is_called_after(known[ord(letter)], letter) for letter in LETTERS):
                return None
            names = tables["name"]
            family = names.getDebugName(16) or names.getDebugName(1) or path.stem
            attributes = tuple(bool(read(tables)) for read in ATTRIBUTES.values())
        letters = [_letter(ImageFont.truetype(str(path), _DRAWN // 2), letter) for letter in LETTERS]
    except (TTLibError, OSError, KeyError, AttributeError, ValueError, AssertionError):
        return None
    if any(image.getbbox() is None for image in letters) or len({image.tobytes() for image in letters}) < len(LETTERS):
        return None
    return _Font(path, family, attributes)


def _is_called_after(glyph: str, letter: str) -> bool:
    """Whether a glyph's name is the letter's, or says nothing, as ``glyph36`` does.

    Example:
        >>> _is_called_after("A", "A"), _is_called_after("A.alt", "A"), _is_called_after("Alpha", "A")
        (True, True, False)
    """
    from fontTools.agl import toUnicode

    named = toUnicode(glyph) or toUnicode(glyph, isZapfDingbats=True)
    return named in ("", letter)


def _letter(font: ImageFont.FreeTypeFont, letter: str) -> Image.Image:
    """Draws a letter in the middle of a canvas."""
    canvas = Image.new("L", (_DRAWN, _DRAWN))
    ImageDraw.Draw(canvas).text((_DRAWN / 2, _DRAWN / 2), letter, font=font, fill=255, anchor="mm")
    return canvas


def _draw(fonts: Sequence[_Font], copies: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns images [N, 32, 32], labels [N] and attributes [N, A]."""
    images, labels, attributes = [], [], []
    for font in fonts:
        rng = np.random.default_rng(list(font.path.name.encode()))  # so that other fonts beside it change nothing
        drawn = ImageFont.truetype(str(font.path), _DRAWN * 5 // 8)
        for label, letter in enumerate(LETTERS):
            canvas = _letter(drawn, letter)
            for copy in range(copies):
                turn, scale, right, down = rng.uniform(-1, 1, 4) if copy else (0, 0, 0, 0)
                moved = canvas.rotate(8 * turn, Image.Resampling.BICUBIC, translate=(round(8 * right), round(8 * down)))
                side = round(_DRAWN * (1 + 0.12 * scale))
                edge = (_DRAWN - side) // 2
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
