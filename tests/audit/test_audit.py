import csv
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import nn

from lookalike import LookalikeError, convert
from lookalike.audit import audit, check_labels
from lookalike.audit.labels import check_other_labels
from lookalike.audit.page import audit_page
from lookalike.audit.prototypes import prototype_faults
from lookalike.audit.suspects import Audit
from lookalike.data import DataBundle, Preprocessing
from lookalike.embedding.neighbours import look_around
from lookalike.model import Prototypes
from tests.cli.test_commands import mistake, run
from tests.small import bright_images, small_network


def flipped_digits(seed):
    digits = load_digits()
    rng = np.random.default_rng(seed)
    labels, wrong = digits.target.copy(), np.zeros(len(digits.target), dtype=bool)
    wrong[rng.choice(len(labels), round(0.05 * len(labels)), replace=False)] = True
    labels[wrong] = (labels[wrong] + rng.integers(1, 10, wrong.sum())) % 10
    return (digits.data / 16).astype(np.float32), labels, wrong


def test_flipped_labels_rank_first():
    z, labels, wrong = flipped_digits(0)
    checked = check_labels(z, labels, 10)
    assert average_precision_score(wrong, checked.margins) > 0.97
    assert wrong[checked.suspect].mean() > 0.8
    true = load_digits().target
    found = wrong & checked.suspect
    assert (checked.predicted[found] == true[found]).mean() > 0.95


def test_flipped_labels_of_test_images_are_found_by_the_training_images():
    z, labels, wrong = flipped_digits(0)
    train, test = np.arange(len(z)) % 3 > 0, np.arange(len(z)) % 3 == 0
    checked = check_labels(z[train], labels[train], 10)
    of_test = check_other_labels(checked, z[train], labels[train], (z[test], labels[test]))
    assert average_precision_score(wrong[test], of_test.margins) > 0.95
    assert wrong[test][of_test.suspect].mean() > 0.8
    assert of_test.suspect.sum() > 0.7 * wrong[test].sum()
    true = load_digits().target[test]
    found = wrong[test] & of_test.suspect
    assert (of_test.predicted[found] == true[found]).mean() > 0.95


def test_an_audit_names_test_images_with_another_class(net, blobs):
    x, y = blobs
    wrong = y[60:].clone()
    wrong[4] = (wrong[4] + 1) % 3
    model = convert(net, (x[:60], y[:60]), n_prototypes=2, progress=False)
    found = audit(model, (x[:60], y[:60]), (x[60:], wrong), progress=False)
    assert [(suspect.part, suspect.sample) for suspect in found.of_kind("label")] == [("test", 4)]
    assert found.of_kind("label")[0].suggested == model.class_names[int(y[64])]
    right = audit(model, (x[:60], y[:60]), (x[60:], y[60:]), progress=False)
    assert not right.of_kind("label")


def test_the_suspects_are_those_of_confident_learning():
    cleanlab = pytest.importorskip("cleanlab.filter")
    z, labels, _ = flipped_digits(1)
    checked = check_labels(z, labels, 10)
    issues = cleanlab.find_label_issues(labels, checked.probabilities, filter_by="confident_learning", n_jobs=1)
    assert (issues == checked.suspect).mean() > 0.995


def test_a_label_has_no_part_in_its_own_check():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(0, 1, (40, 2)), rng.normal(8, 1, (40, 2))]).astype(np.float32)
    labels = np.arange(80) // 40
    labels[0] = 1
    checked = check_labels(z, labels, 2, n_prototypes=5)
    assert checked.suspect.nonzero()[0].tolist() == [0]
    assert checked.probabilities.sum(1) == pytest.approx(1)


def test_classes_of_one_sample_do_not_stop_the_check():
    z = np.random.default_rng(0).normal(size=(21, 3)).astype(np.float32)
    checked = check_labels(z, np.array([0] * 10 + [1] * 10 + [2]), 3)
    assert np.isfinite(checked.margins).all()
    with pytest.raises(LookalikeError, match="two classes with two samples"):
        check_labels(z, np.zeros(21, dtype=int), 1)


def test_duplicates_and_outliers_are_found():
    z = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32) + 1000
    z[7], z[9] = z[3], z[4] + 1e-2
    z[100] += 60
    found = look_around(z)
    assert [(pair.first, pair.second, pair.exact) for pair in found.pairs] == [(3, 7, True), (4, 9, False)]
    assert found.far.tolist() == [100]


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_copies_are_found_however_many_there_are(share, size):
    """They differ by rounding, and are no measure of how far others are from each other."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(100, 8))
    copied = points[: int(share * 100)] * (1 + 1e-7 * rng.normal(size=(int(share * 100), 8)))
    around = look_around((size * np.concatenate([points, copied])).astype(np.float32))
    assert sorted((pair.first, pair.second) for pair in around.pairs) == [(k, 100 + k) for k in range(len(copied))]
    assert all(pair.exact for pair in around.pairs)


def test_one_far_embedding_makes_no_duplicates_of_the_others():
    points = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    points[0] *= 1e7
    assert not look_around(points).pairs


def test_faulty_prototypes_are_named_with_their_reason():
    vectors, labels = torch.eye(4), torch.tensor([0, 0, 0, 1])
    prototypes = Prototypes(
        vectors, labels, ["a", "b"], counts=torch.tensor([50, 50, 1, 60]), purity=torch.tensor([0.5, 1, 1, 1])
    )
    behind = np.repeat([0, 1, 2, 3], [50, 50, 1, 60])
    sources = ["x"] * 50 + ["y"] * 50 + ["x"] + ["x", "y"] * 30
    faults = {(fault.kind, fault.prototype): fault.reason for fault in prototype_faults(prototypes, behind, sources)}
    assert set(faults) == {("impure", 0), ("starved", 2), ("one source", 0), ("one source", 1)} - {("one source", 0)}
    assert "100% of the images behind it come from 'y', of its class 50%" in faults["one source", 1]


@pytest.fixture(scope="module")
def found():
    x, y = bright_images(90)
    x[50], x[30] = x[20], x[0]
    y[4] = 2
    model = convert(small_network(), (x, y), n_prototypes=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    test = bright_images(12)
    test[0][3] = x[10]
    result = audit(model, (x, y), test)
    assert all(torch.equal(before[name].nan_to_num(), t.nan_to_num()) for name, t in model.state_dict().items())
    return result


def test_an_audit_finds_what_was_planted(found):
    first = found.of_kind("label")[0]
    assert (first.sample, first.suggested) == (4, "1")
    assert "labelled '2'" in first.reason
    pairs = {(s.part, s.sample, s.other) for s in found.of_kind("exact duplicate")}
    assert {("train", 20, ("train", 50)), ("train", 0, ("train", 30)), ("train", 10, ("test", 3))} <= pairs
    across = next(s for s in found.suspects if s.other == ("test", 3) and s.sample == 10)
    assert "in training and test data" in across.reason


def test_the_table_and_the_page_have_the_suspects(found, tmp_path):
    rows = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert len(rows) == len(found.suspects)
    found.save(tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text()
    assert "Probably wrong labels" in text
    assert "data:image/" in text
    assert "train 0" in text
    assert "· train 30" in text  # the duplicate of the image that has the number 0
    assert "default-src &#39;none&#39;" in text or "default-src 'none'" in text
    assert json.dumps(found.to_dict())


def test_what_is_not_looked_at_is_said(found, tmp_path):
    assert found.notes == []
    model = convert(small_network(), bright_images(90), n_prototypes=2)
    x, y = bright_images(30)
    other = audit(model, (x, y), sources=["a"] * 30)
    assert "its prototypes were not checked, and the sources were not used" in other.notes[0]
    other.save(tmp_path / "a.htm")
    assert "prototypes were not checked" in (tmp_path / "a.htm").read_text()
    with pytest.raises(LookalikeError, match="30 samples and 2 sources"):
        audit(model, (x, y), sources=["a", "b"])
    with pytest.raises(LookalikeError, match="no file names"):
        audit(model, (x, y), sources=str.upper)
    with pytest.raises(LookalikeError, match=r"a table \(.csv\) or a page"):
        found.save(tmp_path / "a.xlsx")


def test_a_model_that_is_often_wrong_is_no_witness():
    x, y = bright_images(90)
    model = convert(small_network(), (x, y), n_prototypes=2)
    guessed = np.random.default_rng(0).permutation(y.numpy())
    (note,) = (note for note in audit(model, (x, guessed)).notes if note.startswith("held out in turn"))
    assert "most suspects are hard images and not wrong labels" in note


def test_a_data_bundle_is_audited_by_its_parts():
    x, y = bright_images(90)
    bundle = DataBundle("b", (x, y), bright_images(30), ["0", "1", "2"], Preprocessing((8, 8), (8, 8)))
    found = audit(convert(small_network(), (x, y), n_prototypes=2), bundle, bundle)
    assert found.n_samples == {"train": 90, "test": 30}


def test_the_command_writes_all_suspects(network_file, image_folder, tmp_path):
    for i in range(6):  # each of its own, but one pair
        pixels = np.random.default_rng(i % 5).integers(0, 255, (10, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(image_folder / "train" / "ant" / f"=x{i}.png")
    network = ("--network", f"{network_file}:make")
    convert(f"{network_file}:make", str(image_folder), n_prototypes=2, progress=False).save(tmp_path / "m")
    result = run("audit", image_folder, "-m", tmp_path / "m", *network, "-o", tmp_path / "s.csv", "--json")
    found = json.loads(result.stdout)
    assert found["samples"] == {"train": 30, "test": 9}
    only = json.loads(run("audit", image_folder, "-m", tmp_path / "m", *network, "--train-only", "--json").stdout)
    assert only["samples"] == {"train": 30}
    pairs = [s for s in found["suspects"] if s["kind"] == "exact duplicate" and "=x" in s["name"]]
    assert {pairs[0]["name"][-6:], pairs[0]["other_name"][-6:]} == {"x0.png", "x5.png"}
    assert "exact duplicate" in (tmp_path / "s.csv").read_text()
    assert "no group" in mistake("audit", image_folder, "-m", tmp_path / "m", *network, "--sources", "cam")
    sources = ("--sources", r"(cam\d+)_")
    assert "no file name has a source" in mistake("audit", image_folder, "-m", tmp_path / "m", *network, *sources)
    missing = tmp_path / "none" / "s.csv"
    assert "does not exist" in mistake("audit", image_folder, "-m", tmp_path / "m", *network, "-o", missing)
    assert "exists already" in mistake("audit", image_folder, "-m", tmp_path / "m", *network, "-o", tmp_path / "s.csv")


def test_the_command_audits_a_folder_without_a_test_part(network_file, image_folder, tmp_path):
    shutil.rmtree(image_folder / "test")
    convert(f"{network_file}:make", str(image_folder), n_prototypes=2, progress=False).save(tmp_path / "m")
    options = ("-m", tmp_path / "m", "--network", f"{network_file}:make", "--json")
    assert json.loads(run("audit", image_folder, *options).stdout)["samples"] == {"train": 24}


def test_numbers_of_images_have_the_right_noun():
    """Also of one and of none."""
    page = audit_page(Audit([], {"train": 1, "test": 0}, None, None, None, []))
    assert "1 training image, 0 test images." in page
    page = audit_page(Audit([], {"train": 1200, "test": 1}, None, None, None, []))
    assert "1,200 training images, 1 test image." in page


def test_a_model_of_patches_is_refused_before_anything_is_read(blobs):
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    model = convert(network.eval(), blobs, n_prototypes=2, level="patch", progress=False)
    with pytest.raises(LookalikeError, match="prototypes are parts of images"):
        audit(model, blobs)


@pytest.fixture
def marked_free():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    data = bright_images(60)
    return convert(net, data, n_prototypes=2, progress=False), data


def test_sources_are_compared_as_texts(marked_free):
    model, data = marked_free
    numbers = audit(model, data, sources=[7] * 60, progress=False)
    texts = audit(model, data, sources=["7"] * 60, progress=False)
    assert [s.reason for s in numbers.of_kind("one source")] == [s.reason for s in texts.of_kind("one source")] == []
    found = audit(model, data, sources=[None, *[7] * 59], progress=False)
    assert "1 of 60 samples has no source, and counts as one" in found.notes


def test_labels_that_fit_well_do_not_make_probabilities_zero_and_one():
    rng = np.random.default_rng(0)
    z = np.concatenate([rng.normal(0, 0.5, (80, 4)), rng.normal(6, 0.5, (80, 4))]).astype(np.float32)
    labels = np.repeat([0, 1], 80)
    doubt = 1 - check_labels(z, labels, 2).probabilities[np.arange(160), labels].mean()
    assert 1 / 4 < doubt * len(z) < 4  # one sample in n + 2, as by the rule of succession
