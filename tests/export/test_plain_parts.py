"""A model of patches leaves home too: one file that says which part here looks like which part there."""

import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from lookalike import LookalikeError, convert, explain
from lookalike.data import ImageArray, Preprocessing
from lookalike.export import PartsAnswer, PlainModel, PlainParts, write_page
from tests.export.test_page import RUNTIME
from tests.export.test_plain import assert_it_answers_as_the_model, images


class FunctionalPooling(nn.Module):
    """A classifier whose averaged map is the output of no module."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.MaxPool2d(2))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(nn.functional.adaptive_avg_pool2d(nn.functional.relu(self.features(x)), 1).flatten(1))


class Resolutions(nn.Module):
    """A classifier with two resolutions, whose last map is averaged."""

    def __init__(self):
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True))
        self.coarse = nn.Sequential(nn.Conv2d(5, 6, 3, stride=2, padding=1), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.coarse(self.fine(x)).mean((2, 3)))


def model_of(layers="last", decision="vote", similarity="l2", **options):
    torch.manual_seed(0)
    return convert(
        Resolutions().eval(), images(), 2, similarity, level="patch", layers=layers, decision=decision, progress=False,
        **options,
    )  # fmt: skip


KINDS = [("last", "vote", "l2"), ("last", "mean", "cosine"), (("fine", "coarse"), "linear", "l2")]
FURTHER = [("last", "vote", "log"), (("fine", "coarse"), "mean", "dot")]
PAIRS = [*KINDS, *(pytest.param(kind, marks=pytest.mark.slow) for kind in FURTHER)]


@pytest.fixture(scope="module", params=PAIRS, ids=lambda kind: "-".join(map(str, kind)))
def pair(request):
    model = model_of(*request.param)
    return model, PlainParts(model, n_nearest=4)


def test_it_answers_as_the_model_does(pair):
    model, plain = pair
    assert_it_answers_as_the_model(plain, model, torch.cat([images()[0][:7], 8 * images()[0][:3]]))


def test_each_part_has_its_concept_its_place_and_what_it_adds(pair):
    model, plain = pair
    x = images()[0][:6]
    answer, segments = plain(x), model.segment(x)
    height, width = model.encoder.grid
    assert torch.equal(answer.concepts, segments.concepts)
    by_patch = model.evidence_of(model.embed(x))  # [N, S, P]
    for row in range(6):
        for column, prototype in enumerate(answer.nearest[row].tolist()):
            assert int(answer.places[row, column]) == int(by_patch[row, :, prototype].argmax())
    # a tie between classes adds 1e-5 to the winner's score, which is no patch's
    torch.testing.assert_close(answer.contributions.sum((2, 3)), answer.scores, rtol=1e-4, atol=2e-5)
    assert answer.contributions.shape == (6, 4, height, width)
    labels, scores = model.prototypes.labels, answer.scores
    for row in range(6):
        for column, prototype in enumerate(answer.nearest[row].tolist()):
            own = int(labels[prototype])
            others = [k for k in range(4) if k != own]
            best = max(float(scores[row, k]) for k in others)
            tied = [k for k in others if float(scores[row, k]) >= best - 1e-6]
            rival = max(tied, key=lambda k: float(answer.probabilities[row, k]))
            lead = float(answer.evidence[row, column].sum())
            assert lead == pytest.approx(float(scores[row, own] - scores[row, rival]), abs=3e-5)
            by_hand = answer.contributions[row, own] - answer.contributions[row, rival]
            torch.testing.assert_close(answer.evidence[row, column], by_hand)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_the_file_answers_as_the_module(pair, kind, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    model, plain = pair
    if kind == "pt2" and model.classifier.name != "patch-linear":
        pytest.skip("the programs are made alike; one is loaded again")
    file = model.export(tmp_path / "parts", kind=kind, n_nearest=4)
    described = json.loads((tmp_path / "parts" / "prototypes.json").read_text(encoding="utf-8"))
    assert described["outputs"] == list(PartsAnswer._fields)
    assert described["parts"]["grid"] == list(model.encoder.grid)
    assert described["parts"]["decision"] == model.classifier.name
    for n in (1, 3, 9):
        x = images()[0][:n]
        if kind == "onnx":
            session = runtime.InferenceSession(str(file))
            values = session.run(None, {"inputs": x.numpy()})
            names = [output.name for output in session.get_outputs()]
        else:
            values, names = torch.export.load(file).module()(x), described["outputs"]
        expected = plain(x)
        for name, value in zip(names, values, strict=True):
            found, wanted = torch.as_tensor(value).detach().double(), getattr(expected, name).detach().double()
            if name != "percentiles":  # a distance that equals a quantile falls on either side of it
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4, msg=name)


def test_boxes_say_where_the_parts_of_prototypes_lie(tmp_path):
    pytest.importorskip("onnx")
    values = (images()[0].clamp(0, 1).permute(0, 2, 3, 1) * 255).byte().numpy()
    preprocessing = Preprocessing.square(12)
    data = ImageArray(values, images()[1].numpy(), ["ant", "bee", "cat", "dog"], preprocessing)
    torch.manual_seed(0)
    model = convert(Resolutions().eval(), data, 2, level="patch", progress=False)
    model.export(tmp_path / "parts", pixels=True)
    described = json.loads((tmp_path / "parts" / "prototypes.json").read_text(encoding="utf-8"))
    boxes = [row["box"] for row in described["prototypes"]]
    np.testing.assert_allclose(boxes, model.patch_boxes()[:, 0].numpy())
    assert all(row["image"] for row in described["prototypes"])


def test_models_are_taken_by_the_module_of_their_kind():
    parts = model_of()
    whole = convert(Resolutions().eval(), images(), 2, progress=False)
    with pytest.raises(LookalikeError, match="is a PlainParts"):
        PlainModel(parts)
    with pytest.raises(LookalikeError, match="prototypes are whole images"):
        PlainParts(whole)
    with pytest.raises(LookalikeError, match="n_nearest"):
        PlainParts(parts, n_nearest=99)


def test_a_map_that_no_module_returns_is_found():
    torch.manual_seed(0)
    model = convert(FunctionalPooling().eval(), images(), 2, level="patch", progress=False)
    assert model.encoder.layers == ("last",)
    x = images()[0][:6]
    torch.testing.assert_close(PlainParts(model)(x).scores, model(x), rtol=1e-5, atol=1e-5)


def test_a_map_that_is_not_the_one_in_the_graph_is_refused(monkeypatch):
    class OtherLast(FunctionalPooling):
        """Its maximum is taken after its average, so that a tracer takes the wrong map."""

        def forward(self, x):
            features = nn.functional.relu(self.features(x))
            average = nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)
            return self.head(average + 0 * nn.functional.adaptive_max_pool2d(2 * features, 1).flatten(1))

    torch.manual_seed(0)
    model = convert(OtherLast().eval(), images(), 2, level="patch", progress=False)
    with pytest.raises(LookalikeError, match=r"not found in the network's graph: convert with layers='b4'"):
        PlainParts(model)


def test_a_network_of_residual_blocks_keeps_what_its_in_place_operations_overwrite():
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=3).eval()
    x = torch.randn(9, 3, 64, 64)
    model = convert(net, (x, torch.arange(9) % 3), 1, level="patch", layers="b234", progress=False, n_images=0)
    torch.testing.assert_close(PlainParts(model)(x).scores, model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_page_frames_the_parts(browser, tmp_path):
    pytest.importorskip("onnx")
    if not (RUNTIME / "dist").is_dir():
        pytest.skip("onnxruntime-web is not installed (npm install onnxruntime-web)")
    values = (images()[0].clamp(0, 1).permute(0, 2, 3, 1) * 255).byte().numpy()
    data = ImageArray(values, images()[1].numpy(), ["ant", "bee", "cat", "dog"], Preprocessing.square(12))
    torch.manual_seed(0)
    model = convert(Resolutions().eval(), data, 2, level="patch", progress=False)
    model.export(tmp_path / "parts", pixels=True)
    page = write_page(tmp_path / "parts", RUNTIME)
    Image.fromarray(values[5]).save(tmp_path / "asked.png")
    tab, said = browser.new_page(), []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(page.as_uri())
    tab.set_input_files("#file", tmp_path / "asked.png")
    tab.locator("#status", has_text="asked.png: answered").wait_for()
    answer, (expected,) = json.loads(tab.get_attribute("body", "data-answer")), explain(model, tmp_path / "asked.png")
    np.testing.assert_allclose(answer["probabilities"], expected.probabilities, atol=1e-5)
    assert answer["nearest"] == [near.prototype for near in expected.likenesses]
    assert tab.locator("#likenesses svg rect").count() == 6  # one in the prototype's picture and one here, three times
    rows, columns = model.encoder.grid
    row, column = divmod(answer["places"][0], columns)
    here = tab.locator("#likenesses article").first.locator("rect").nth(1)
    assert float(here.get_attribute("y")) == pytest.approx(12 * row / rows)
    assert float(here.get_attribute("x")) == pytest.approx(12 * column / columns)
    assert "all patches together decide for" in tab.locator("#reason").inner_text()
    assert said == []
    tab.close()
