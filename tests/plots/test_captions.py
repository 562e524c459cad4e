"""Captions of the pictures of parts: none overlaps another, and none is cut by the edge."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex

from lookalike.parts.comparison import Difference
from lookalike.parts.pairing import PairedRegions, RegionPair
from lookalike.plots import plot_activations, plot_pairs, plot_segments, plot_similarity_matrix
from lookalike.plots.pixels import figure_pixels
from lookalike.plots.tiles import shorten, wrapped

LONG = "squamous cell carcinoma of WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW"
IMAGE = np.full((80, 60, 3), 120, np.uint8)


def texts_of(ax):
    """Returns the boxes of all texts of a figure in pixels, by what they say, and the figure's own box."""
    figure = ax.get_figure(root=True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    return {text.get_text(): text.get_window_extent(renderer) for text in ax.texts if text.get_text()}, figure.bbox


def check_apart(ax):
    boxes, whole = texts_of(ax)
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        assert not a.overlaps(b), (one, other)
    for text, box in boxes.items():
        assert box.x0 >= whole.x0 - 1, text
        assert box.x1 <= whole.x1 + 1, text
        assert box.y0 >= whole.y0 - 1, text
    return " ".join(" ".join(boxes).split())


def difference_of(values, names):
    by_position = np.array(values, float)
    deciding = by_position > 1
    parts = [(deciding, float(by_position[deciding].sum() / by_position.sum()), "here")] if deciding.any() else []
    return Difference(*names, float(by_position.sum()), by_position, deciding, parts, 0.0, "", IMAGE)


@pytest.mark.parametrize("names", [("cat", "dog"), (LONG, LONG[::-1])])
@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([[4, -1], [0, -1]], "the outlined part gives 2.0 times the lead; the rest pulls the other way"),
        ([[4, 0], [0, 0]], "the outlined part gives all of the lead"),
        ([[0.5, 0], [0, 0]], "no part decides"),
    ],
)
def test_captions_of_a_difference_are_apart_and_plain(values, says, names):
    said = check_apart(difference_of(values, names).plot())
    assert says in said
    assert "over 100%" not in said


@pytest.mark.parametrize("name", ["cat", LONG])
@pytest.mark.parametrize("explained", [0.2, 0.9])
def test_captions_of_pairs_are_apart(name, explained):
    region = np.eye(4, dtype=bool)
    pairs = [RegionPair(region, ~region, share) for share in (0.5, 0.2, 0.1)]
    check_apart(PairedRegions(17, name, 1.0, pairs, explained, 0.1, IMAGE, IMAGE).plot())


def test_captions_of_segments_are_apart():
    concepts = np.arange(16).reshape(4, 4)
    check_apart(plot_segments(IMAGE, concepts, {k: f"{LONG} {k}" for k in range(16)}))


@pytest.mark.filterwarnings("error")
def test_characters_that_the_font_lacks_are_left_out_without_a_warning():
    """matplotlib draws a box for each, and warns on the terminal."""
    names = ["bird \N{BIRD}", "\N{FISH}", "\N{TROPICAL FISH}\N{VARIATION SELECTOR-16}"]
    assert [shorten(name, 20) for name in names] == ["bird", "U+1F41F", "U+1F420 U+FE0F"]
    assert shorten("red for bird \N{BIRD}, blue", 30) == "red for bird, blue"
    assert wrapped("\N{BIRD} a bird\nof \N{FISH}") == "a bird\nof"
    matrix = np.eye(3)
    figure_pixels(plot_similarity_matrix(matrix, [0, 1, 2], names), 50)
    figure_pixels(plot_activations([1, 2, 3], [0, 1, 2], names), 50)


def test_borders_of_neighbouring_regions_do_not_cover_each_other():
    """Each stays within its own mask, also around a hole; a tint tells the inside from the hole."""
    image = np.zeros((70, 70, 3), np.uint8)
    inner = np.zeros((7, 7), bool)
    inner[2:5, 2:5] = True
    ax = plot_pairs(image, image, [(inner, inner, 0.5), (~inner, ~inner, 0.4)], ("a", "b"))
    borders: dict[str, set] = {}
    for line in ax.lines:
        borders.setdefault(to_hex(line.get_color()), set()).add(tuple(map(tuple, line.get_xydata().round(6).tolist())))
    first, second = borders.values()
    assert first.isdisjoint(second)
    tints = [np.asarray(shown.get_array()) for shown in ax.images if np.asarray(shown.get_array()).shape == (7, 7, 4)]
    assert [int((tint[..., 3] > 0).sum()) for tint in tints] == [9, 9, 40, 40]
