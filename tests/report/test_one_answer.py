"""What a page says of an image is the same in every place: one answer, one nearest prototype, one original."""

import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from lookalike import convert
from lookalike.data import InputBatch
from lookalike.explanation import Explainer
from lookalike.report import write_report
from lookalike.report.examples import _measured
from tests.report.page import data_of
from tests.small import bright_images

QUICK = {"only": ("faithfulness",), "n_maps": 2, "progress": False}


def pooled(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


@pytest.fixture(scope="module")
def data():
    x, y = bright_images(60)
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1)), y


@pytest.fixture(scope="module")
def whole(data):
    return convert(pooled(), data, n_prototypes=4, n_images=1, progress=False)


@pytest.mark.parametrize("relevance", [False, True])
def test_an_explanation_rests_on_the_embeddings_that_the_decision_rested_on(data, whole, relevance):
    inputs, others = data[0][:6], data[0][6:12]
    embeddings = whole.embed(others)
    found = Explainer(whole, relevance=relevance).explain(InputBatch(inputs), embeddings=embeddings)
    assert [one.prediction for one in found] == whole.predict(others).tolist()
    nearest = whole.similarities_of(embeddings).argmax(1)
    assert [one.likenesses[0].prototype for one in found] == nearest.tolist()


@pytest.mark.parametrize(
    "options",
    [*(pytest.param(options, marks=pytest.mark.slow) for options in ({}, {"level": "patch"})), {"similarity": "dot"}],
    ids=str,
)
def test_the_parts_are_compared_with_the_prototype_that_the_browser_names(data, options, tmp_path):
    model = convert(pooled(), data, n_prototypes=4, n_images=1, progress=False, **options)
    path = tmp_path / "report.html"
    write_report(model, data, path, **QUICK)
    samples = {sample["row"]: sample for sample in data_of(path)["samples"]}
    articles = re.findall(r'<article class="parts">.*?</article>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert articles
    for article in articles:
        sample = samples[int(re.search(r"#image-(\d+)", article)[1])]
        named = re.findall(r"(?:This looks like|No part explains a likeness to) prototype (\d+)", article)
        if model.has_patches:  # the prototype that most evidence comes from, which is another statement
            assert named == []
            assert "The prototype that speaks most for this is " in article
        else:
            assert named == [str(sample["near"][0]["prototype"])]


@pytest.mark.slow
def test_the_original_says_the_same_in_the_line_and_in_the_sentence(data, whole, tmp_path):
    """The page may compare with another classifier than the converted one."""
    other, path = pooled(seed=5).eval(), tmp_path / "report.html"
    write_report(whole, data, path, black_box=other, **QUICK)
    classes, samples = data_of(path)["classes"], data_of(path)["samples"]
    said = other(data[0]).argmax(1)
    assert any(sample["original"] != sample["predicted"] for sample in samples)
    for sample in samples:
        assert sample["original"] == said[sample["row"]]
        agrees = sample["original"] == sample["predicted"]
        says = "The original network agrees" if agrees else f"The original network says '{classes[sample['original']]}'"
        assert says in sample["sentence"]


@pytest.mark.slow
def test_a_card_and_the_sentence_say_the_same_of_the_distance(data, whole, tmp_path):
    path = tmp_path / "report.html"
    write_report(whole, data, path, **QUICK)
    for sample in data_of(path)["samples"]:
        assert f"({sample['near'][0]['nearness']})" in sample["sentence"]


def test_used_is_of_training_images_and_decides_of_test_images(data, whole, tmp_path):
    """A prototype that decides no test image is not called unused, and both sentences say what they count."""
    path = tmp_path / "report.html"
    write_report(whole, tuple(values[:6] for values in data), path, train=data, **QUICK | {"only": ("transparency",)})
    text = path.read_text(encoding="utf-8")
    n_idle = [prototype["decides"] for prototype in data_of(path)["prototypes"]].count(0)
    assert n_idle
    assert "No prototype is unused: each has training images of its class that look most like it." in text
    assert f"{n_idle} of the 12 prototypes decide no test image here." in text
    assert text.count("decides no test image</span>") == n_idle


class Noisily(torch.utils.data.Dataset):
    """Images, some of whose files have names that tell nothing."""

    classes = ("ant", "bee", "cat")
    files = ("photos/ant/a.png", "photos/bee/ .png", "photos/cat/\x01\x02.png", "photos/ant/b.png")

    def __init__(self, x, y):
        self.x, self.y = x, y

    def describe(self, index):
        return self.files[index % 4]

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return self.x[index], int(self.y[index])


@pytest.mark.slow
def test_images_without_a_telling_name_are_called_by_number_and_class(data, tmp_path):
    named = Noisily(*(values[:8] for values in data))
    model = convert(pooled(), named, n_prototypes=1, n_images=1, progress=False)
    path = tmp_path / "report.html"
    write_report(model, named, path, **QUICK)
    names = [sample["name"] for sample in data_of(path)["samples"]]
    assert names[:4] == ["ant/a.png", "image 1 (bee)", "image 2 (cat)", "ant/b.png"]
    write_report(model, (named.x, named.y), path, overwrite=True, **QUICK)
    assert [sample["name"] for sample in data_of(path)["samples"]][:2] == ["image 0 (ant)", "image 1 (bee)"]


@pytest.mark.slow
def test_no_prototype_of_patches_is_said_to_decide(data, tmp_path):
    """All patches of an image decide together, and not the prototype that one of them is most similar to."""
    x, y = data
    wrong = y.clone()
    wrong[:9] = (wrong[:9] + 1) % (int(y.max()) + 1)
    for level, decides in (("image", True), ("patch", False)):
        model = convert(pooled(), data, n_prototypes=2, n_images=1, progress=False, level=level)
        path = tmp_path / f"{level}.html"
        write_report(model, (x, wrong), path, **QUICK)
        page = path.read_text(encoding="utf-8")
        tiles = re.search(r'<section id="prototypes".*?</section>', page, re.DOTALL)[0]
        assert ("<br>decides " in tiles) == decides
        assert ("It decides " in tiles) == decides
        assert ("<br>most like a patch of " in tiles) != decides
        assert ("training patches<br>" in tiles) != decides
        assert ("All patches of an image decide together" in tiles) != decides
        assert ("takes most of its errors" in page) <= decides
        assert ("of the prototypes that decide at least" in page.lower()) <= decides


def test_distances_beside_each_other_have_the_digits_that_tell_them_apart():
    @dataclass
    class Near:
        distance: float

        def measured(self, similarity, *, falls_with_distance, digits=3):
            return f"distance {self.distance:.{digits}g}"

    class Similarity:
        name, falls_with_distance = "l2", True

    texts = [_measured([Near(value) for value in values], Similarity()) for values in ((15.5, 15.7), (15.51, 15.54))]
    assert texts == [["distance 15.5", "distance 15.7"], ["distance 15.51", "distance 15.54"]]
    assert _measured([Near(1.0), Near(1.0)], Similarity()) == ["distance 1", "distance 1"]
