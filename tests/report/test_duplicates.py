"""Near duplicates of training images and within the test images: counted, shown, and left out of a second accuracy."""

import re

import pytest
import torch

from lookalike import convert
from lookalike._core.intervals import share
from lookalike.report import write_report
from lookalike.report.duplicates import Duplicates, Twin
from tests.report.page import Named

QUICK = {"only": ("transparency", "faithfulness"), "n_maps": 0, "progress": False}


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    y = torch.arange(90) % 3
    x = 0.3 * torch.randn(90, 1, 8, 8)
    for k, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        x[y == k, :, row : row + 4, column : column + 4] += 2
    return x, y


def page_of(net, images, rows, folder):
    """Writes a report on rows of the images, of which the first 60 are the training images."""
    x, y = images
    y = y.clone()
    y[60] = (y[60] + 1) % 3  # one answer is wrong
    train = Named(x[:60], images[1][:60])
    sem = convert(net, train, n_prototypes=2, progress=False)
    write_report(sem, Named(x[rows], y[rows]), folder / "r.html", train=train, **QUICK)
    return (folder / "r.html").read_text(encoding="utf-8")


def test_duplicates_are_told_with_pictures_and_accuracy_without_them(net, images, tmp_path):
    page = page_of(net, images, [*range(60, 90), 0, 1, 2, 61, 62], tmp_path)
    claim = (
        "3 of the 35 test images are near duplicates of training images, and 4 test images are near duplicates of one "
        "another: such images are easier than new ones. Without them, 96.7% of 30 answers are correct; with them, "
        "97.1%."
    )
    assert page.count(claim) >= 2  # among the findings and in its own section
    section = re.search(r'<section id="duplicates".*?</section>', page, re.DOTALL)[0]
    assert section.count('<img src="data:image/') == 2 * 5
    assert section.count('class="caption">training image:') == 3
    assert section.count('class="caption">another test image:') == 2
    assert section.count("equal to the network") == 5


def test_without_duplicates_that_is_a_good_finding_and_no_section(net, images, tmp_path):
    page = page_of(net, images, list(range(60, 90)), tmp_path)
    assert "No test image is a near duplicate of a training image or of another test image." in page
    assert '<section id="duplicates"' not in page


def test_what_was_not_compared_is_not_called_free_of_duplicates():
    assert Duplicates([], False, 10, 0.9, share(9, 10)).finding() is None
    within = Duplicates([Twin(0, 1, False, True)], False, 10, 0.9, share(8, 9)).finding()
    assert within.claim.startswith("2 of the 10 test images are near duplicates of one another")
    nothing_left = Duplicates([Twin(0, 3, True, True)], True, 1, 1.0, None).finding()
    assert "No other test images are left" in nothing_left.claim
