"""KMEx of tiny stamps with one thing varied, and the attributes that are read off cut-out pictures."""

import numpy as np
import pytest
from PIL import Image

from lookalike.conversion.clustering import CLUSTERERS
from lookalike.data import MaskedFiles, Preprocessing
from lookalike.data.masks import alpha_mask
from lookalike.experiments import Cells, Plan, Workbench
from lookalike.experiments import photograph_variants as variants
from lookalike.experiments.photograph_attributes import ATTRIBUTES, attributes_of
from tests.experiments.tiny_encoder import use_tiny_encoder


@pytest.fixture
def bench(tmp_path, monkeypatch):
    use_tiny_encoder(tmp_path, monkeypatch, 8, 8, 8)
    return Workbench(tmp_path / "bench"), Cells(tmp_path / "cells")


def run(experiment, bench):
    findings = experiment(Plan(datasets=("stamps",), seeds=(0,)), *bench)
    assert bench[1].failed == {}
    return {row.names[1]: row.values for row in findings.rows}


def test_every_clusterer_is_measured(bench):
    rows = run(variants.run_photographs_clusterers, bench)
    assert list(rows) == list(CLUSTERERS)
    assert all(0 <= values["accuracy"][0] <= 1 for values in rows.values())


def test_more_prototypes_show_no_fewer_attributes(bench, monkeypatch):
    monkeypatch.setattr(variants, "_NUMBERS", (1, 5))
    rows = run(variants.run_photographs_attributes, bench)
    assert rows["1"]["attributes_captured"][0] <= rows["5"]["attributes_captured"][0]
    assert rows["5"]["ghosted"] == [0.0]


def test_patches_stand_beside_images_and_the_black_box(bench):
    rows = run(variants.run_photographs_patches, bench)
    assert list(rows) == ["black box", "KMEx, whole images", "KMEx, patches"]
    assert 0 < rows["KMEx, patches"]["single"][0] <= 1


def attributes(folder, alpha, colour):
    pixels = np.zeros((40, 40, 4), dtype=np.uint8)
    pixels[..., :3] = colour
    pixels[..., 3] = 255 * alpha
    Image.fromarray(pixels).save(folder / "picture.png")
    prepared = Preprocessing((40, 40), (40, 40), fit="contain", fill=(255,), transparency="white")
    files = MaskedFiles(folder, [folder / "picture.png"], [0], ["a"], prepared, alpha_mask)
    (row,) = attributes_of(files)
    return {name for name, holds in zip(ATTRIBUTES, row, strict=True) if holds}


def rectangle(rows, columns):
    alpha = np.zeros((40, 40), dtype=np.uint8)
    alpha[rows, columns] = 1
    return alpha


@pytest.mark.parametrize(
    ("rows", "columns", "colour", "expected"),
    [
        (
            slice(2, 38), slice(15, 25), (250, 10, 10),
            {"dark", "colourful", "partly red", "upright", "elongated", "symmetric"},
        ),
        (slice(15, 25), slice(2, 38), (240, 240, 240), {"bright", "wide", "elongated", "symmetric"}),
        (slice(2, 38), slice(2, 38), (90, 200, 90), {"colourful", "partly green", "large", "symmetric"}),
        (
            slice(2, 38), slice(2, 38), (240, 200, 40),
            {"bright", "colourful", "partly orange or yellow", "large", "symmetric"},
        ),
        (slice(2, 38), slice(2, 38), (60, 60, 160), {"dark", "partly blue or violet", "large", "symmetric"}),
    ],
)  # fmt: skip
def test_attributes_of_rectangles(tmp_path, rows, columns, colour, expected):
    assert attributes(tmp_path, rectangle(rows, columns), colour) == expected


def test_a_triangle_is_not_symmetric_and_stripes_are_uneven(tmp_path):
    alpha = np.tril(np.ones((40, 40), dtype=np.uint8))
    assert "symmetric" not in attributes(tmp_path, alpha, (120, 120, 120))
    stripes = np.zeros((40, 40, 3), dtype=np.uint8)
    stripes[::2] = 255
    assert "uneven in brightness" in attributes(tmp_path, np.ones((40, 40), dtype=np.uint8), stripes)
