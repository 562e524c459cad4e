import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from lookalike.plots import (
    Captions,
    gallery_axes,
    plot_gallery,
    plot_heat_map,
    plot_likeness,
    plot_map,
    plot_radar,
    sheet_axes,
)
from lookalike.plots.heatmap import common_limit, outline, paint, shares, smoothed
from lookalike.plots.pixels import figure_png
from lookalike.plots.regions import colours_of
from lookalike.plots.tiles import draw_tile, shorten, tile_axes

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gallery_has_a_row_per_class_and_every_image(channels):
    images = RNG.integers(0, 255, (5, 2, 6, 6, channels), dtype=np.uint8)
    labels = np.array([0, 0, 1, 2, 2])
    ax = plot_gallery(images, labels, ["a", "b", "c"], Captions(np.arange(5) * 1000, np.array([1, 0.5, 0, 1, np.nan])))
    assert len(ax.images) == 10
    texts = [text.get_text() for text in ax.texts]
    assert {"a", "b", "c", "1: 1,000 · 50%", "4: 4,000 · unused"} <= set(texts)
    tops = {image.get_extent()[3] for image in ax.images}
    assert len(tops) == 3
    only = plot_gallery(images, labels, ["a", "b", "c"], Captions(np.arange(5), np.ones(5)), classes=[1])
    assert len(only.images) == 2


def test_the_gallery_draws_into_given_axes():
    ax = gallery_axes(["a"], 3)
    images = RNG.integers(0, 255, (1, 1, 6, 6, 3), dtype=np.uint8)
    assert plot_gallery(images, np.array([0]), ["a"], Captions(np.ones(1), np.ones(1)), ax=ax) is ax


def test_texts_do_not_overlap():
    images = RNG.integers(0, 255, (4, 1, 6, 6, 3), dtype=np.uint8)
    names = ["a class with a rather long name", "b"]
    ax = gallery_axes(names, 2)
    plot_gallery(images, np.array([0, 0, 1, 1]), names, Captions(np.full(4, 123_456), np.full(4, 0.987)), ax=ax)
    figure = ax.get_figure(root=True)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    overlapping = [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes) if i < j and a.overlaps(b)]
    assert overlapping == []
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height for box in boxes)


def test_a_missing_picture_leaves_a_blank_tile():
    image = RNG.integers(0, 255, (6, 6, 3), dtype=np.uint8)
    ax = plot_likeness(image, [None, image], caption="a", captions=["b", "c"])
    assert len(ax.images) == 3
    assert np.unique(np.asarray(ax.images[1].get_array())).tolist() == [245]


def test_a_sheet_has_a_place_for_each():
    axes = sheet_axes(5, 3, 2)
    assert len(axes) == 5
    assert len(axes[0].get_figure(root=True).axes) == 6


def test_wide_pictures_keep_their_shape():
    ax = tile_axes(None, 2, 2)
    draw_tile(ax, RNG.integers(0, 255, (10, 20, 3), dtype=np.uint8), 0, 0)
    left, right, bottom, top = ax.images[0].get_extent()
    assert (right - left) == pytest.approx(2 * (bottom - top))


def test_names_are_shortened_and_are_no_formulas():
    assert shorten("a\nlong   name of a class", 10) == "a long na…"
    assert shorten("$x$", 10) == r"\$x\$"


def test_heat_maps_are_white_at_zero_red_for_and_blue_against():
    values = np.array([[1.0, 0.0, -1.0]])
    painted = paint(values, 1.0).astype(int)
    red, white, blue = painted[0]
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert (white > 240).all()
    np.testing.assert_array_equal(paint(values * 5, 1.0), paint(values, 1.0))  # beyond the scale stays at its end
    ink = paint(np.zeros((1, 2)), 1.0, np.array([[[0], [255]]], dtype=np.uint8))
    assert ink[0, 0].sum() > ink[0, 1].sum()  # a dark picture's ink is its bright part
    ax = plot_heat_map(values)
    assert len(ax.images) == 1


def test_maps_of_a_figure_share_one_scale():
    small, large = np.full((20, 20), 0.1), np.full((20, 20), -2.0)
    assert common_limit([small, large]) == 2.0
    assert common_limit([np.zeros((2, 2))]) == 1.0
    assert common_limit([]) == common_limit([np.zeros((0, 5))]) == 1.0
    np.testing.assert_allclose(np.abs(shares(large)).sum(), 1)
    assert shares(np.zeros((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_large_maps_are_smoothed_without_losing_relevance_and_raw_ones_are_not():
    grid = np.zeros((96, 96))
    grid[::8, ::8] = 1.0  # as strides leave it
    grid[40:56, 40:56] *= 5
    smooth = smoothed(grid)
    np.testing.assert_allclose(smooth.sum(), grid.sum())
    rows = smooth[20:30, 20:30]
    assert rows.std() < 0.25 * grid[20:30, 20:30].std()
    assert np.unravel_index(smooth.argmax(), smooth.shape)[0] in range(38, 58)
    np.testing.assert_array_equal(smoothed(grid[:32, :32]), grid[:32, :32])
    np.testing.assert_allclose(shares(grid, raw=True), grid / grid.sum())


def test_the_line_encloses_the_smallest_region_with_half_of_the_relevance():
    values = np.full((100, 100), -1.0)
    values[10:30, 10:30] = 3.0  # 1,200 of the 1,600 in favour
    values[60:80, 60:80] = 1.0
    border = outline(values, 0.5)
    expected = np.zeros((100, 100), dtype=bool)
    expected[10:30, 10:30] = True
    expected[11:29, 11:29] = False
    np.testing.assert_array_equal(border, expected)
    assert outline(values, 0.9)[60, 60]
    assert not outline(-np.ones((100, 100))).any()
    values[90, 90] = 7.0  # a single pixel is no island to outline
    assert not outline(values, 0.5)[90, 90]


def test_a_map_with_relevance_in_few_pixels_is_not_blank():
    values = np.zeros((100, 100))
    values[4, 4] = 0.001
    assert common_limit([values]) == 0.001
    red, _, blue = paint(values, common_limit([values]))[4, 4].astype(int)
    assert red > blue + 50


def test_all_of_the_relevance_has_an_outline_whatever_the_rounding():
    for seed in range(50):
        values = np.random.default_rng(seed).random((20, 30)).astype(np.float32)
        assert outline(values, 1.0).shape == values.shape


def test_photographs_stay_in_colour_below_their_map():
    photo = np.zeros((100, 100, 3), dtype=np.uint8)
    photo[..., 1] = 200
    values = np.zeros((100, 100))
    values[:20, :20], values[50:70, 50:70] = 1.0, -1.0
    painted = paint(values, 1.0, photo).astype(int)
    assert painted[90, 10, 1] > painted[90, 10, 0] + 50  # still green without relevance
    assert painted[5, 5, 0] > painted[5, 5, 1] + 50
    assert painted[60, 60, 2] > painted[60, 60, 0] + 50
    assert painted[5, 19].max() < 50  # the line around what speaks for it
    grey = np.repeat(photo[..., 1:2], 3, 2)
    assert (paint(np.zeros((100, 100)), 1.0, grey) > 180).all()  # a faint picture


@pytest.mark.parametrize("background", ["white", "none"])
def test_pixels_are_those_of_savefig_and_the_figure_stays_as_it_was(background):
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8, 3), dtype=np.uint8)
    ax = plot_gallery(images, np.array([0, 0, 1, 1]), ["a", "b"], Captions(np.ones(4, int), np.ones(4)))
    ax.figure.set_facecolor(background)
    canvas, dpi, buffer = ax.figure.canvas, ax.figure.dpi, io.BytesIO()
    with Image.open(io.BytesIO(figure_png(ax, dpi=70))) as image:
        drawn = np.asarray(image)
    assert ax.figure.canvas is canvas
    assert ax.figure.dpi == dpi
    ax.figure.savefig(buffer, format="png", dpi=70)
    with Image.open(buffer) as image:
        np.testing.assert_array_equal(drawn, np.asarray(image)[..., : drawn.shape[2]])
    assert drawn.shape[2] == (3 if background == "white" else 4)


def test_names_that_begin_with_an_underscore_stand_in_the_legend():
    points, prototypes = np.random.default_rng(0).normal(size=(30, 2)), np.zeros((3, 2))
    ax = plot_map(points, np.arange(30) % 3, prototypes, np.arange(3), ["_background_", "cat", "dog"])
    assert [text.get_text().strip() for text in ax.get_legend().get_texts()] == ["_background_", "cat", "dog"]
    ax = plot_radar({"_mine": {"accuracy": 0.5}, "other": {"accuracy": 0.6}})
    assert "_mine" in [text.get_text().strip() for text in ax.get_legend().get_texts()]


@pytest.mark.parametrize("number", [1, 7, 8, 20, 21, 60])
def test_no_two_regions_have_one_colour(number):
    colours = np.round(255 * colours_of(number)).astype(int)
    assert len(np.unique(colours, axis=0)) == number
