"""The section on parts: there where the decision is a sum over them, and nowhere else."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from torch import nn

from lookalike import convert
from lookalike.parts import concepts
from lookalike.report import write_report
from tests.small import bright_images

QUICK = {"only": ("faithfulness",), "n_maps": 0, "n_browse": 4, "progress": False}


@pytest.fixture(scope="module")
def data():
    return bright_images(60)


def pooled():
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def page_of(model, data, folder):
    write_report(model, tuple(values[:4] for values in data), folder / "report.html", **QUICK)
    return (folder / "report.html").read_text(encoding="utf-8")


def section_of(page):
    return re.search(r'<section id="parts".*?</section>', page, re.DOTALL)


def test_five_right_and_wrong_predictions_are_explained_by_parts(data, tmp_path):
    model = convert(pooled(), data, n_prototypes=2, n_images=1)
    section = section_of(page_of(model, data, tmp_path))[0]
    n_wrong = int((model.predict(data[0][:4]) != data[1][:4]).sum())
    assert section.count('<article class="parts">') == 4
    assert section.count("taken for") == n_wrong
    assert section.count("rather than") == 4
    assert section.count('<img src="data:image/') == 2 * 4
    assert "Concepts" not in section
    assert "here, the lead over another class is divided among the places of the image" in section


def test_concepts_are_listed_with_the_classes_that_they_serve(data, tmp_path):
    model = convert(pooled(), data, 4, level="patch", decision="linear", shared=True, n_images=1, temperature=1.0)
    section = section_of(page_of(model, data, tmp_path))[0]
    listed = concepts(model)
    assert len(listed) == len(model.prototypes) == 4
    for concept in listed:
        weights = model.classifier.weight[:, concept.number]
        expected = {model.class_names[k]: float(weights[k] / weights.sum()) for k in range(3) if weights[k] > 0}
        served = {name: share for name, share in expected.items() if share >= 0.01}
        assert concept.serves == pytest.approx(served)
        assert concept.sentence().replace("'", "&#39;") in section
        assert concept.to_dict()["count"] == int(model.prototypes.counts[concept.number])
        assert concept.images.shape[0] == concept.boxes.shape[0] == 1
    by_vote = concepts(convert(pooled(), data, 1, level="patch", temperature=1.0))
    assert [concept.serves for concept in by_vote] == [{concept.class_name: 1.0} for concept in by_vote]


def test_a_network_without_an_average_has_no_such_section(data, tmp_path):
    x, _ = data
    flat = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 8), nn.ReLU(), nn.Linear(8, 3))
    assert section_of(page_of(convert(flat, data, n_prototypes=1, n_images=1), data, tmp_path)) is None


@pytest.mark.parametrize("has_train", [True, False])
def test_prototypes_of_patches_are_framed_on_their_images(has_train, data, tmp_path):
    model = convert(pooled(), data, n_prototypes=3, level="patch", n_images=2, progress=False)
    train = data if has_train else None
    write_report(model, tuple(values[:4] for values in data), tmp_path / "report.html", train=train, **QUICK)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the frame is around the patch that is nearest to it" in page
    assert "All its patches together decide" not in page
    assert "and all its patches together decide" in page
    tiles = re.findall(r'<img src="(data:image/[^"]*)" alt="Training image nearest to prototype', page)
    assert len(tiles) == len(model.prototypes)
    for tile, box in zip(tiles, model.patch_boxes()[:, 0], strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(tile.partition(",")[2]))).convert("RGB")).astype(int)
        is_red = (pixels - np.array([211, 47, 47]) <= 12).all(2) & (pixels - np.array([211, 47, 47]) >= -12).all(2)
        rows, columns = np.nonzero(is_red)
        height, width = pixels.shape[:2]
        found = rows.min() / height, columns.min() / width, (rows.max() + 1) / height, (columns.max() + 1) / width
        assert found == pytest.approx(box.tolist(), abs=0.02)
