"""A calibrated model as a file: the thresholds are constants."""

import json

import numpy as np
import pytest
import torch

from lookalike import convert, explain
from lookalike.doubt import NOVELTIES
from lookalike.export import PlainModel
from tests.model.test_doubt import images, network  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def model(network):  # noqa: F811
    return convert(network, images(300, 2), n_prototypes=2, progress=False)


@pytest.fixture(scope="module")
def calibrated(model):
    return model.calibrate(images(600, 3), false_alarm=0.05)


INPUTS = torch.cat([images(100, 4)[0], 8 * torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(5))])


@pytest.mark.parametrize("novelty", list(NOVELTIES))
def test_it_doubts_as_the_model_does(model, novelty):
    calibrated = model.calibrate(images(600, 3), novelty=novelty, false_alarm=0.05)
    answer = PlainModel(calibrated)(INPUTS)
    unfamiliar = [explanation.unfamiliar for explanation in explain(calibrated, INPUTS)]
    assert len(set(unfamiliar)) == 2
    assert answer.unfamiliar.tolist() == unfamiliar
    sets = calibrated.predict_set(INPUTS)
    assert {0, 1, 2} <= set(sets.sizes.tolist())
    assert np.array_equal(answer.in_set.numpy(), sets.members)
    expected = calibrated.predict_or_abstain(INPUTS) >= 0
    assert 0 < expected.sum() < len(expected)
    assert torch.equal(answer.answered, expected)


@pytest.mark.parametrize("case", ["sum", "linear", "class without prototypes"])
def test_it_gives_the_same_sets_with_every_classifier(calibrated, case):
    from lookalike.model.classifier import LinearHead, NearestPrototype
    from lookalike.model.prototype_model import PrototypeModel

    labels, names = calibrated.prototypes.labels, ["0", "1", "2"]
    classifier = NearestPrototype("sum" if case == "sum" else "max")
    if case == "linear":
        generator = torch.Generator().manual_seed(0)
        classifier = LinearHead(
            torch.nn.functional.one_hot(labels, 3).T.float() + torch.rand(3, 6, generator=generator)
        )
    elif case == "class without prototypes":
        names = ["0", "1", "2", "3"]
    prototypes = type(calibrated.prototypes)(calibrated.prototypes.vectors, labels, names)
    model = PrototypeModel(calibrated.encoder, prototypes, calibrated.similarity, classifier)
    model = model.calibrate(images(300, 3), coverage=0.9)
    answer, sets = PlainModel(model)(INPUTS), model.predict_set(INPUTS)
    assert len(set(sets.sizes.tolist())) > 1
    assert np.array_equal(answer.in_set.numpy(), sets.members)


def test_it_has_the_threshold_that_the_calibration_drew(model):
    few = model.calibrate(images(90, 3), coverage=0.9)
    few.doubt.draws[-1] = 0.99  # takes the lower threshold
    answer, sets = PlainModel(few)(INPUTS), few.predict_set(INPUTS)
    assert np.array_equal(answer.in_set.numpy(), sets.members)
    assert not np.array_equal(sets.members, few.predict_set(INPUTS, conservative=True).members)


def test_too_few_images_for_a_bound_leave_the_answers_out(calibrated, tmp_path):
    few = calibrated.calibrate(images(60, 3), coverage=0.9)
    assert PlainModel(few).outputs[-1] == "in_set"
    assert PlainModel(few)(INPUTS).answered is None


@pytest.mark.slow
def test_the_file_does_too(calibrated, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    file = calibrated.export(tmp_path / "out")
    session = onnxruntime.InferenceSession(str(file))
    names = [output.name for output in session.get_outputs()]
    answers = session.run(None, {session.get_inputs()[0].name: INPUTS.numpy()})
    expected = [explanation.unfamiliar for explanation in explain(calibrated, INPUTS)]
    assert np.asarray(answers[names.index("unfamiliar")]).tolist() == expected
    members = np.asarray(answers[names.index("in_set")])
    assert np.array_equal(members, calibrated.predict_set(INPUTS).members)
    expected = calibrated.predict_or_abstain(INPUTS).numpy() >= 0
    assert np.array_equal(np.asarray(answers[names.index("answered")]), expected)
    described = json.loads((tmp_path / "out" / "prototypes.json").read_text())["calibration"]
    assert described["coverage"] == 0.95
    assert described["abstention"]["threshold"] == pytest.approx(calibrated.abstention().threshold)
    assert described["unfamiliar_above"] == pytest.approx(calibrated.doubt.unfamiliar_above)


def test_a_program_does_too(calibrated, tmp_path):
    program = torch.export.load(calibrated.export(tmp_path / "out", kind="pt2")).module()
    names = json.loads((tmp_path / "out" / "prototypes.json").read_text())["outputs"]
    answer = dict(zip(names, program(INPUTS), strict=True))
    assert np.array_equal(answer["in_set"].numpy(), calibrated.predict_set(INPUTS).members)
    assert torch.equal(answer["answered"], calibrated.predict_or_abstain(INPUTS) >= 0)
