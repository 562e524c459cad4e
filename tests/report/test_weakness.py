"""Why the weakest class is weak: only what stands out is said, and what does not is called not shown."""

import re
from types import SimpleNamespace

import pytest
import torch

from lookalike import convert
from lookalike.embedding import embed
from lookalike.report import write_report
from lookalike.report.duplicates import Duplicates, Twin
from lookalike.report.examples import Decisions, Examples
from lookalike.report.weakness import weakest


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(0)
    y = torch.tensor([0] * 6 + [1] * 27 + [2] * 27)
    x = 0.3 * torch.randn(60, 1, 8, 8)
    for k, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        x[y == k, :, row : row + 4, column : column + 4] += 2
    return x, y


@pytest.fixture(scope="module")
def model(data):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    return convert(net, data, n_prototypes=3, progress=False)


def material_of(model, data, wrong, *, nearest=None, original=None, unfamiliar=(), duplicates=None):
    """Returns what the section is made of: rows that are taken for class 1 by prototypes, all others are right."""
    _, labels = data
    predicted = labels.clone()
    predicted[list(wrong)] = 1
    first = torch.tensor([int(torch.nonzero(model.prototypes.labels == k)[0]) for k in range(model.n_classes)])
    taken_by = first[predicted]
    for row, j in (nearest or {}).items():
        taken_by[row] = j
    entries = [
        {
            "row": row,
            "name": f"{row}.png",
            "label": int(labels[row]),
            "predicted": int(predicted[row]),
            "unfamiliar": row in unfamiliar,
            "near": [{"prototype": int(taken_by[row])}],
        }
        for row in range(len(labels))
    ]
    store = embed(model, data, progress=False)
    decisions = Decisions(labels, predicted, original, taken_by)
    return SimpleNamespace(
        model=model, decisions=decisions, store=store, train_store=None, examples=Examples(entries),
        duplicates=duplicates, card=SimpleNamespace(details={}),
    )  # fmt: skip


def test_causes_that_stand_out_are_named_with_their_figures(model, data):
    original = data[1].clone()
    original[[0, 1, 2]] = 1
    found = weakest(material_of(model, data, range(4), original=original, unfamiliar=(0, 1, 2, 50)))
    said = " ".join(found["found"])
    assert (found["name"], found["n"], found["n_wrong"]) == (model.class_names[0], 6, 4)
    assert "The original gets 3 of these 4 images wrong, too" in said
    assert f"of class '{model.class_names[1]}', 4 of 4" in said
    assert "few training images: 6, where the median of the classes is 27" in said
    assert "3 of its 6 test images shown are unfamiliar" in said
    assert "of the other classes, 1 of 54 are" in said
    assert [taker["n"] for taker in found["takers"]] == [4]
    assert [error["row"] for error in found["takers"][0]["errors"]] == [0, 1, 2, 3]


def test_half_of_the_errors_are_the_originals_too(model, data):
    original = data[1].clone()
    original[[0, 1]] = 1
    found = weakest(material_of(model, data, range(4), original=original))
    assert "The original gets 2 of these 4 images wrong, too; the prototypes lost the others." in found["found"]


def test_the_prototype_that_takes_errors_is_described(model, data):
    """It may be impure, and mostly wrong: that is not looked for in the class's own prototypes."""
    taker = int(torch.nonzero(model.prototypes.labels == 1)[1])
    found = weakest(material_of(model, data, range(4), nearest=dict.fromkeys([*range(4), 50], taker)))
    purity = float(model.prototypes.purity[taker])
    expected = (
        f"no. {taker} of class '{model.class_names[1]}', 4 of 4. Of all 5 test images that it decides, 4 are wrong; "
        f"{purity:.0%} of the training images that look most like it are of its class."
    )
    assert expected in " ".join(found["found"])


def test_copies_of_training_images_flatter_a_class(model, data):
    twins = [Twin(4, 0, is_training=True, exact=True), Twin(50, 0, is_training=True, exact=True)]
    material = material_of(model, data, range(4), duplicates=Duplicates(twins, True, 60, 0.9, None, "audit"))
    said = " ".join(weakest(material)["found"])
    assert "1 of its test images is a near duplicate of training images; of the other 5, 1 is right." in said


def test_what_does_not_stand_out_is_called_not_shown(model, data):
    first, second = torch.nonzero(model.prototypes.labels == 1)[:2, 0].tolist()
    wrong = (40, 41, 42, 43)
    taken = {40: first, 41: first, 42: second, 43: second}
    found = weakest(material_of(model, data, wrong, nearest=taken))
    said = " ".join(found["found"])
    assert found["name"] == model.class_names[2]
    not_shown = "; ".join(found["not_shown"])
    for compared in (
        "at most half as many training images as other classes have (it has 27, and the median of the classes is 27)",
        "clearly more often unfamiliar than other classes' (0 of 27 that are shown, and 0 of 33 of the others)",
        "takes more than half of its errors, and several (at most 2 of 4)",
    ):
        assert compared in not_shown
    assert "original" not in not_shown  # there is none, so it was not looked for
    assert "training images: " not in said
    assert "unfamiliar" not in said


def test_unfamiliar_images_of_all_classes_are_no_cause_and_both_counts_are_told(model, data):
    found = weakest(material_of(model, data, range(4), unfamiliar=[*range(6), *range(10, 45)]))
    compared = "clearly more often unfamiliar than other classes' (6 of 6 that are shown, and 35 of 54 of the others)"
    assert compared in "; ".join(found["not_shown"])


def test_a_prototype_that_takes_the_originals_errors_only_receives_them(model, data):
    wrong = data[1].clone()
    wrong[[0, 1, 2]] = 1
    of_original = " ".join(weakest(material_of(model, data, range(4), original=wrong))["found"])
    assert "The original gets 3 of these 4 images wrong, too, and takes 3 of them for the prototype's" in of_original
    own = " ".join(weakest(material_of(model, data, range(4), original=data[1]))["found"])
    assert "for the prototype's class" not in own


def test_a_class_whose_images_are_its_prototypes_is_not_compared_by_their_distance(data):
    """Their distance to their own prototype is 0 but for rounding, of which any other is many thousand times."""
    labels = torch.tensor([0] * 6 + [1] * 27 + [2] * 27)
    x = data[0].clone()
    x[1:3], x[4:6] = x[0], x[3] + 1e-5 * torch.randn(2, 1, 8, 8)
    x[1:3] += 1e-5 * torch.randn(2, 1, 8, 8)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    made = convert(net, (x, labels), n_prototypes=2, progress=False)
    found = weakest(material_of(made, (x, labels), range(4)))
    assert "times" not in "; ".join([*found["found"], *found["not_shown"]])


def test_few_training_images_are_no_reason_where_a_class_with_as_few_is_right(data):
    labels = torch.tensor([0] * 6 + [1] * 27 + [2] * 21 + [3] * 6)
    x = data[0].clone()
    x[54:, :, 4:, 4:] += 9
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    made = convert(net, (x, labels), n_prototypes=2, progress=False)
    material = material_of(made, (x, labels), range(4))
    names = made.class_names
    said = " ".join(weakest(material)["found"])
    assert f"This alone does not explain it: '{names[3]}' has 6 (6 of 6 test images correct)." in said
    material.decisions.predicted[54:57] = 1
    assert "This alone" not in " ".join(weakest(material)["found"])


def test_an_original_that_is_right_puts_the_loss_on_the_conversion(model, data):
    found = weakest(material_of(model, data, range(4), original=data[1]))
    assert "The original gets only 0 of these 4 images wrong" in " ".join(found["found"])


def test_no_class_is_the_weakest_where_all_are_alike(model, data):
    assert weakest(material_of(model, data, ())) is None


def test_errors_are_counted_in_one_way_whether_they_are_shown_or_not(model, data):
    """The sentence and the pictures count all errors, also where the page shows only some of the images."""
    material = material_of(model, data, range(4))
    material.examples.entries[:] = [entry for entry in material.examples.entries if entry["row"] not in (0, 1)]
    found = weakest(material)
    assert "4 of 4" in " ".join(found["found"])
    assert [taker["n"] for taker in found["takers"]] == [4]
    assert [error["row"] for error in found["takers"][0]["errors"]] == [2, 3]


def test_classes_that_are_equally_weak_are_all_named(model, data):
    wrong = [row for row in range(60) if int(data[1][row]) in (0, 2)]
    found = weakest(material_of(model, data, wrong))
    names = model.class_names
    assert (found["name"], found["tied"]) == (names[2], f"{names[0]} and {names[2]}")
    assert found["why_it"] == "as it has the most errors of them"  # 27, where the other has 6


def test_of_classes_with_equally_many_errors_the_first_is_explained(model, data):
    x, labels = data[0], data[1].clone()
    labels[:6], labels[33:] = 2, 0  # classes 0 and 1 have 27 images each, and class 2 has 6
    wrong = [row for row in range(60) if int(labels[row]) in (0, 1)]
    material = material_of(model, (x, labels), wrong)
    material.decisions.predicted[wrong] = 2
    found = weakest(material)
    assert found["name"] == model.class_names[0]
    assert found["why_it"] == "the first, in the order of the classes, of those with the most errors"


def test_a_page_names_all_weakest_classes_and_says_which_is_explained(tmp_path):
    torch.manual_seed(0)
    y = torch.arange(40) % 10
    x = torch.rand(40, 1, 4, 4)
    x[torch.arange(40), 0, y // 4, y % 4] += 9
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 10))
    model = convert(net, (x, y), n_prototypes=1, class_names=[f"kind {k}" for k in range(10)], progress=False)
    wrong = y.clone()
    wrong[y > 0] = (y[y > 0] % 9) + 1  # of class 0 all are right, and of the nine others none
    write_report(model, (x, wrong), tmp_path / "r.html", only=("faithfulness",), n_maps=0, progress=False)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    section = re.search(r'<section id="weakest".*?</section>', page, re.DOTALL)[0]
    assert "kind 8 and another class: of each, 0.0% of the test images are correct" in section
    assert "What follows is about <b>kind 1</b>, the first, in the order of the classes" in section
    assert '<a href="#classes">' in section
