"""Near duplicates of training images and within the test images: counted, shown, and left out of a second accuracy."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from lookalike import convert, evaluate
from lookalike._core.intervals import share
from lookalike.data import Batches, Preprocessing, load_data
from lookalike.embedding import embed
from lookalike.embedding.neighbours import in_groups, look_around
from lookalike.report import write_report
from lookalike.report.commands import Commands
from lookalike.report.duplicates import Duplicates, Twin, find_duplicates, mirrored_embeddings
from lookalike.report.examples import decide
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
    folder.mkdir(exist_ok=True)
    write_report(sem, Named(x[rows], y[rows]), folder / "r.html", train=train, **QUICK)
    return (folder / "r.html").read_text(encoding="utf-8")


def test_duplicates_are_told_with_pictures_and_accuracy_without_them(net, images, tmp_path):
    page = page_of(net, images, [*range(60, 90), 0, 1, 2, 61, 62], tmp_path)
    claim = (
        "3 of the 35 test images are near duplicates of training images, and 4 are near duplicates of one another: "
        "such images are easier than new ones. Without these 3 and 2 of the others, so that one of each group stays, "
        "96.7% of the other 30 answers are correct (of the original"
    )
    assert page.count(claim) >= 2  # among the findings and in its own section
    assert "%); of all 35, 97.1%." in page
    section = re.search(r'<section id="duplicates".*?</section>', page, re.DOTALL)[0]
    assert section.count('<img src="data:image/') == 2 * 5
    assert "These images are in 5 pairs: 3 with a training image and 2 of two test images" in section
    assert section.count('">taken for ') == 3 + 2 * 2  # of each test image, as a link to it
    assert section.count('class="caption">training image:') == 3
    assert section.count('class="caption">another test image:') == 2
    assert section.count("equal to the network") == 5


def test_copies_are_marked_where_they_are_shown(net, images, tmp_path):
    page = page_of(net, images, [*range(60, 90), 0, 1, 2], tmp_path)
    data = json.loads(re.search(r'<script type="application/json" id="data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert [sample["row"] for sample in data["samples"] if sample["is_copy"]] == [30, 31, 32]
    assert '<option value="copy">near duplicates of training images</option>' in page
    without = page_of(net, images, list(range(60, 90)), tmp_path / "other")
    assert 'value="copy"' not in without


def test_without_duplicates_that_is_a_good_finding_and_no_section(net, images, tmp_path):
    page = page_of(net, images, list(range(60, 90)), tmp_path)
    assert "No test image is a near duplicate of a training image or of another test image, mirrored or not." in page
    assert "Copies that are cropped, coloured or otherwise edited, and several pictures of one thing, are not" in page
    assert '<section id="duplicates"' not in page


def test_mirrored_copies_are_found(net, images, tmp_path):
    x, y = images
    train = Named(x[:60], y[:60])
    sem = convert(net, train, n_prototypes=2, progress=False)
    # two mirrored training images, and a test image that is there mirrored too
    test_x = torch.cat([x[60:90], x[:2].flip(3), x[60:61].flip(3)])
    test = Named(test_x, torch.cat([y[60:90], y[:2], y[60:61]]))
    write_report(sem, test, tmp_path / "r.html", train=train, **QUICK)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "2 of the 33 test images are near duplicates of training images, and 2 are near duplicates of one" in page
    section = re.search(r'<section id="duplicates".*?</section>', page, re.DOTALL)[0]
    assert section.count("mirrored, equal to the network") == 3
    assert "as they are or with one of them mirrored" in section


def test_an_image_that_is_its_own_mirror_image_is_no_copy(net, images):
    x, y = images
    symmetric = x[60:90] + x[60:90].flip(3)
    sem = convert(net, (x[:60], y[:60]), n_prototypes=2, progress=False)
    train, test = (embed(sem, part, progress=False) for part in ((x[:60], y[:60]), (symmetric, y[60:90])))
    mirrored = mirrored_embeddings(sem, Batches((symmetric, y[60:90])), test)
    np.testing.assert_allclose(mirrored, test.embeddings, atol=1e-5)
    found = find_duplicates(sem, test, train, decide(sem, test, None), audit="audit", mirrored=mirrored)
    assert found.twins == []
    assert found.with_mirrored


def test_only_images_that_can_be_read_again_are_mirrored(net, images, monkeypatch):
    x, y = images
    sem = convert(net, (x[:60], y[:60]), n_prototypes=2, progress=False)
    store = embed(sem, (x[60:], y[60:]), progress=False)
    assert mirrored_embeddings(sem, Batches((x[60:], y[60:])), store).shape == store.embeddings.shape
    assert mirrored_embeddings(sem, Batches((x[60:].flatten(1), y[60:])), store) is None
    monkeypatch.setattr("lookalike.report.duplicates._MOST_MIRRORED", 29)
    assert mirrored_embeddings(sem, Batches((x[60:], y[60:])), store) is None
    found = Duplicates([], True, 30, 0.9, share(9, 10), "audit").finding()
    assert "Copies that are mirrored, cropped or otherwise edited" in found.claim
    assert found.level == "info"


def test_test_images_that_come_in_groups_are_told_of(net, images, tmp_path):
    """Three slightly different pictures of each thing: each has another as its usual neighbour, so none stands out."""
    x, y = images
    train = Named(x[:60], y[:60])
    sem = convert(net, train, n_prototypes=2, progress=False)
    things = x[60:90].repeat_interleave(3, 0)
    pictures = things + 0.05 * torch.randn(things.shape, generator=torch.Generator().manual_seed(0))
    claims = {}
    for name, test in (("groups", Named(pictures, y[60:90].repeat_interleave(3))), ("single", Named(x[60:], y[60:]))):
        write_report(sem, test, tmp_path / f"{name}.html", train=train, **QUICK)
        claims[name] = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
    said = "there are fewer independent images than the figures count, and all intervals are too narrow"
    assert said in claims["groups"]
    assert said not in claims["single"]
    assert "of the 90 test images have another test image that the network sees much nearer" in claims["groups"]


def test_groups_are_copies_and_not_what_lies_anywhere():
    rng = np.random.default_rng(0)
    for dimensions, most in ((3, 0.3), (5, 0.1), (64, 0.0)):
        assert in_groups(rng.normal(size=(300, dimensions))).mean() <= most
    things = rng.normal(size=(100, 8)).repeat(3, 0)
    assert in_groups(things + 0.1 * rng.normal(size=things.shape)).mean() > 0.95
    assert not in_groups(rng.normal(size=(5, 3))).any()
    assert Duplicates([], True, 29, 1.0, None, "audit", n_grouped=29).of_groups() is None  # too few to say
    assert Duplicates([], True, 30, 1.0, None, "audit", n_grouped=17).of_groups() is None
    assert Duplicates([], True, 30, 1.0, None, "audit", n_grouped=18).of_groups().level == "caution"


def test_what_was_not_compared_is_not_called_free_of_duplicates():
    assert Duplicates([], False, 10, 0.9, share(9, 10), "audit").finding() is None
    within = Duplicates([Twin(0, 1, False, True)], False, 10, 0.9, share(8, 9), "audit").finding()
    assert within.claim.startswith("2 of the 10 test images are near duplicates of one another")
    assert "Without 1 of these, so that one of each group stays, 88.9% of the other 9 answers are" in within.claim
    assert within.claim.endswith(
        "Take them out of the test images, all but one of each group of test images that are alike, and evaluate "
        "again. 'audit' lists all pairs."
    )
    nothing_left = Duplicates([Twin(0, 3, True, True)], True, 1, 1.0, None, "audit").finding()
    assert "No other test images are left" in nothing_left.claim


def test_training_data_that_are_not_the_models_own_are_told_of(net, images, tmp_path):
    x, y = images
    sem = convert(net, Named(x[:60], y[:60]), n_prototypes=2, progress=False)
    write_report(sem, Named(x[60:], y[60:]), tmp_path / "r.html", train=Named(x[:59], y[:59]), **QUICK)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Test images were not compared with training images: those given are not the ones that the model was" in page
    assert "Others are missing: those given are not the ones that the model was made from" in page
    assert page.count("give the folder or the data set that it was converted with") == 2


@pytest.mark.parametrize(
    ("most", "said"),
    [
        (29, "near duplicates were not looked for among 30 test images, as a report compares at most 29 images"),
        (
            89,
            "not compared with training images: with the test images they are 90 images, as a report compares at most",
        ),
    ],
)
def test_a_page_says_that_there_were_too_many_images_to_compare(net, images, monkeypatch, most, said):
    """Nobody takes silence for a clean bill."""
    monkeypatch.setattr("lookalike.report.duplicates._MOST_IMAGES", most)
    x, y = images
    sem = convert(net, (x[:60], y[:60]), n_prototypes=2, progress=False)
    train, test = (embed(sem, values, progress=False) for values in ((x[:60], y[:60]), (x[60:], y[60:])))
    audit = Commands("m", "photos").audit()
    found = find_duplicates(sem, test, train, decide(sem, test, None), audit=audit)
    assert said in found.note
    assert "'lookalike audit photos --model m -o suspects.html' compares any number" in found.note
    assert found.finding() is None


def test_copies_that_are_training_images_are_counted_once():
    """Two findings were on the same images: that these are training images, and that they are near duplicates."""
    twins = [Twin(row, row, is_training=True, exact=True) for row in range(3)]
    pair = Twin(5, 6, is_training=False, exact=False)
    audit = "lookalike audit photos --model m -o suspects.html"
    options = {"original_without": None, "n_leaked": 2, "audit": audit}
    found = Duplicates([*twins, pair], True, 20, 0.9, share(14, 16), **options).finding()
    assert (found.topic, found.level) == ("leak", "bad")
    assert found.headline == (
        "2 of the 20 test images are training images of the model: its accuracy on them says nothing about new images."
    )
    assert found.claim.startswith(
        f"{found.headline} 1 other is a near duplicate of training images, and 2 are near duplicates of one another"
    )
    assert found.claim.endswith(f"and evaluate again. '{audit}' lists all pairs.")
    only = Duplicates(twins[:2], True, 20, 0.9, share(16, 18), **options).finding()
    assert only.claim.startswith(f"{found.headline} Without these 2, 88.9% of the other 18 answers are correct; of all")
    assert "near duplicate" not in only.claim


def test_a_page_tells_of_training_images_in_the_test_once(net, tmp_path):
    folder = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for part, n in (("train", 8), ("test", 6)):
        for k, name in enumerate(("ant", "bee", "cat")):
            (folder / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 120, (8, 8), dtype=np.uint8)
                pixels[3 * k : 3 * k + 3] += 100
                Image.fromarray(pixels).save(folder / part / name / f"{i}.png")
    for i in range(2):
        shutil.copy(folder / "train/ant" / f"{i}.png", folder / "test/ant" / f"again{i}.png")
    preprocessing = Preprocessing(resize=None, crop=None, mean=(0.5,), std=(0.5,))
    data = load_data(folder, preprocessing)
    sem = convert(net, data.train, n_prototypes=2, progress=False)
    write_report(sem, data, tmp_path / "r.html", **QUICK)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    summary = re.search(r'<section id="summary".*?</section>', page, re.DOTALL)[0]
    findings = re.findall(r"<li (?:id|class)=.*?</li>", summary, re.DOTALL)
    (told,) = [finding for finding in findings if "training images of the model" in finding]
    assert told.startswith('<li id="finding-leak" class="bad">')
    assert "2 of the 20 test images are training images of the model" in told
    assert "near duplicates of training images" not in summary
    assert "lookalike audit DATA --model MODEL -o suspects.html" in told
    assert 'href="#duplicates"' in told
    card = evaluate(sem, data, only=("faithfulness",), progress=False)
    assert any("'lookalike audit DATA --model MODEL' lists them" in sentence for sentence in card.verdict())
    write_report(sem, data, tmp_path / "s.html", card=card, n_maps=0, progress=False)
    of_card = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert "the figures are those of a given scorecard" in of_card
    assert "leave out &#39;budget&#39;" not in of_card


def test_many_copies_of_one_image_are_all_found(net, images):
    """More than the few nearest neighbours that are searched first."""
    x, y = images
    rng = np.random.default_rng(0)
    train, test = (
        Named(x[:40], y[:40]),
        Named(torch.cat([x[40:70], x[3:4].repeat(12, 1, 1, 1)]), torch.cat([y[40:70], y[3:4].repeat(12)])),
    )
    sem = convert(net, train, n_prototypes=2, progress=False)
    store, train_store = embed(sem, test, progress=False), embed(sem, train, progress=False)
    found = find_duplicates(sem, store, train_store, decide(sem, store, None), audit=None)
    assert {*range(30, 42)} <= found.of_training
    assert found.without.n <= 30
    points = np.repeat(rng.normal(size=(30, 4)), [20] + [1] * 29, axis=0)
    assert len(look_around(points.astype(np.float32)).pairs) == 190
