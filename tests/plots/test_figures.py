"""The figures of an evaluation: what is drawn is what was measured."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lookalike._core.errors import LookalikeError
from lookalike.plots import (
    plot_activations,
    plot_map,
    plot_ordering,
    plot_radar,
    plot_similarity_matrix,
    project_2d,
)

NAMES = ["ant", "bee $x$", "cat"]


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_radar_draws_every_model_on_the_same_axes():
    ax = plot_radar({"a": {"x": 0.2, "y": 0.5, "z": 1.0}, "b": {"x": 1.4, "y": -1.0, "z": 0.1}})
    assert texts(ax) == ["a", "b"]
    first, second = (line.get_ydata() for line in ax.get_lines()[:2])
    np.testing.assert_allclose(first, [0.2, 0.5, 1.0, 0.2])
    assert (second[0], second[1]) == (1.15, 0)  # a little beyond the rim, and not below the centre
    assert [label.get_text() for label in ax.get_xticklabels()] == ["x", "y", "z"]
    styles = {line.get_linestyle() for line in ax.get_lines()[:2]}
    assert len(styles) == 2  # told apart without colour


def test_radar_needs_polar_axes():
    with pytest.raises(ValueError, match="polar"):
        plot_radar({"a": {"x": 1}}, ax=Figure().subplots())


def test_ordering_curves_with_their_references():
    ax = plot_ordering([0, 0.5, 1], {"a": [1, 0.5, 0], "b": [1, 1, 0]}, {"a": [1, 0.2, 0]})
    assert texts(ax) == ["a", "a, random order", "b"]
    assert list(ax.get_lines()[0].get_xdata()) == [0, 50, 100]
    assert ax.get_lines()[1].get_linestyle() == ":"
    assert "%" in ax.get_xlabel()


def test_activations_mark_ghosts():
    ax = plot_activations([5, 0, 3, 2, 0, 1], [0, 0, 1, 1, 2, 2], NAMES)
    assert [bar.get_height() for bar in ax.patches] == [5, 0, 3, 2, 0, 1]
    assert texts(ax) == ["never activated"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["ant", r"bee \$x\$", "cat"]
    assert plot_activations([5, 1], [0, 1], NAMES).get_legend() is None


def test_similarity_matrix_is_ordered_by_class():
    s = np.arange(16.0).reshape(4, 4)
    ax = plot_similarity_matrix(s, [1, 0, 1, 0], NAMES)
    order = [1, 3, 0, 2]
    np.testing.assert_array_equal(ax.images[0].get_array(), s[np.ix_(order, order)])


def test_map_by_pca_keeps_what_varies_most():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(60, 5)) * [10, 5, 0.1, 0.1, 0.1]
    points, squares = project_2d(z, z[:3])
    np.testing.assert_allclose(squares, points[:3], atol=1e-9)
    assert points.var(0).sum() > 0.99 * z.var(0).sum()
    ax = plot_map(points, np.arange(60) % 3, squares, [0, 1, 2], NAMES)
    assert texts(ax) == ["ant", r"bee \$x\$", "cat"]
    assert [len(c.get_offsets()) for c in ax.collections] == [20, 1] * 3


def test_map_by_umap_is_an_extra(monkeypatch):
    z = torch.randn(30, 4).numpy()
    with pytest.raises(LookalikeError, match="'pca' or 'umap'"):
        project_2d(z, z[:2], method="tsne")
    monkeypatch.setitem(__import__("sys").modules, "umap", None)
    with pytest.raises(LookalikeError, match="pip install umap-learn"):
        project_2d(z, z[:2], method="umap")
