"""Letters from real fonts: attributes as the tables say, families on one side only."""

import shutil
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from fontTools.ttLib import TTFont

from lookalike._core.errors import LookalikeError
from lookalike.data import load_data
from lookalike.data.glyphs import ATTRIBUTES, load_glyphs

FONTS = Path(mpl.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(scope="module")
def glyphs():
    return load_glyphs(copies=2)


def test_the_embedded_minimum(glyphs):
    assert glyphs.class_names == list("ABCDEFGHIJ")
    for part in (glyphs.train, glyphs.test):
        assert part.images.shape[1:] == (32, 32)
        assert len(set(np.bincount(part.labels))) == 1
        assert part.images.reshape(len(part), -1).max(1).min() > 100  # something is drawn on each
    n_fonts = int(glyphs.notes[0].split(" fonts of ")[0].split()[-1])  # as many as this version of matplotlib brings
    assert n_fonts > 20
    assert len(glyphs.train) + len(glyphs.test) == n_fonts * 10 * 2
    assert "of 10 families" in glyphs.notes[0] or "of 9 families" in glyphs.notes[0]


def test_attributes_are_those_of_the_tables(glyphs):
    """At least ten, unbalanced and correlated, as real ones are."""
    names = glyphs.attributes.names
    assert len(names) >= 10
    assert names == list(ATTRIBUTES)
    both = np.concatenate([glyphs.attributes.train, glyphs.attributes.test])
    assert len(glyphs.attributes.train) == len(glyphs.train)
    shares = dict(zip(names, both.mean(0), strict=True))
    assert 0 < shares["monospaced"] < shares["sans serif"] < 1
    assert 0.05 < shares["bold"] < 0.6
    for file, has in (
        ("DejaVuSansMono-BoldOblique.ttf", {"bold", "italic", "monospaced", "sans serif"}),
        ("DejaVuSerif.ttf", {"serif"}),
        ("cmtt10.ttf", {"monospaced"}),
    ):
        with TTFont(FONTS / file) as tables:
            found = {name for name, read in ATTRIBUTES.items() if read(tables)}
        assert has <= found
        assert ("bold" in found) == ("bold" in has)


def test_no_family_is_on_both_sides():
    bundle = load_glyphs(copies=1)
    train = {image.tobytes() for image in bundle.train.images}
    assert not any(image.tobytes() in train for image in bundle.test.images)
    # every image of a font carries the font's attributes: a font's ten letters stay together
    assert all(len(set(map(bytes, bundle.attributes.test[i : i + 10]))) == 1 for i in range(0, len(bundle.test), 10))


@pytest.mark.slow
def test_always_alike_and_named(glyphs):
    again = load_glyphs(copies=2)
    assert again.train.fingerprint() == glyphs.train.fingerprint()
    assert load_data("glyphs").name == "glyphs"


def test_copies_differ(glyphs):
    assert not np.array_equal(glyphs.train.images[0], glyphs.train.images[1])


def test_an_own_folder_and_what_is_no_font(tmp_path, monkeypatch):
    symbols = [name for name in ("STIXSizOneSymReg.ttf", "LastResortHE-Regular.ttf") if (FONTS / name).exists()]
    for name in ("DejaVuSans.ttf", "DejaVuSerif.ttf", *symbols):
        shutil.copy(FONTS / name, tmp_path)
    (tmp_path / "broken.otf").write_bytes(b"no font")
    monkeypatch.setenv("LOOKALIKE_FONTS", str(tmp_path))
    bundle = load_data("glyphs")
    assert len(bundle.train) == len(bundle.test)
    assert "2 fonts of 2 families" in bundle.notes[0]
    assert f"{1 + len(symbols)} files left out, which have no such letters" in bundle.notes[0]


def test_mistakes_are_told(tmp_path):
    with pytest.raises(LookalikeError, match="is no folder of fonts"):
        load_glyphs(fonts=tmp_path / "no")
    shutil.copy(FONTS / "DejaVuSans.ttf", tmp_path)
    with pytest.raises(LookalikeError, match="has 1 font families"):
        load_glyphs(fonts=tmp_path)


def test_a_symbol_font_is_left_out(tmp_path):
    for name in ("DejaVuSans.ttf", "DejaVuSerif.ttf", "cmr10.ttf"):
        shutil.copy(FONTS / name, tmp_path)
    with TTFont(tmp_path / "cmr10.ttf") as tables:
        for table in tables["cmap"].tables:
            table.cmap[ord("A")] = "Gamma"
        tables.save(tmp_path / "symbols.ttf")
    (tmp_path / "cmr10.ttf").unlink()
    bundle = load_glyphs(fonts=tmp_path)
    assert "2 fonts of 2 families" in bundle.notes[0]
    assert "1 files left out" in bundle.notes[0]
