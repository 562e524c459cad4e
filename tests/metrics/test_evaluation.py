"""evaluate() and its scorecard, on real digits and small networks."""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Subset, TensorDataset

from lookalike import Scorecard, convert, embed, evaluate
from lookalike._core.errors import LookalikeError
from lookalike.data import Batches, DataBundle, Preprocessing, load_digits
from lookalike.data.bundle import Attributes
from lookalike.demo import network
from lookalike.demo.training import train_digit_network
from lookalike.encoder import Encoder
from lookalike.metrics import FIGURES, SECTIONS, BlackBox, Thresholds
from lookalike.model import PrototypeModel, Prototypes
from lookalike.model.classifier import LinearHead
from lookalike.model.similarity import make_similarity

QUICK = {"n_images": 12, "n_steps": 4, "n_draws": 2}


@pytest.fixture(scope="module")
def digits():
    """A part of the digits, and two networks trained on it from different seeds."""
    whole = load_digits(network.PREPROCESSING)
    rows = {"train": range(0, 4000, 4), "test": range(0, 1000, 4)}

    def part(name):
        data = getattr(whole, name)
        images, labels = data.images[list(rows[name])], data.labels[list(rows[name])]
        return type(data)(images, labels, data.classes, data.transform)

    few = DataBundle("digits", part("train"), part("test"), whole.class_names, whole.preprocessing)
    nets = [train_digit_network(few, seed, False) for seed in (0, 1)]
    return few, *nets


@pytest.fixture(scope="module")
def card(digits):
    data, net, _ = digits
    return evaluate(convert(net, data.train, progress=False), data, n_images=60, n_draws=2, progress=False)


def test_what_the_design_promises_is_there(card):
    found = card.to_dict()
    for name in (
        "accuracy", "black_box_accuracy", "agreement", "ghosting", "explanation_divergence", "auroc",
        "auroc_black_box", "auroc_random", "diversity",
    ):  # fmt: skip
        assert isinstance(found[name], float)
    assert found["ghosting"] == 0
    assert found["agreement"] > 0.9
    assert card.info["options"]["n_images"] == 60
    assert len(card.info["samples"][0]) == 60
    assert card.info["versions"]["torch"]


def test_relevance_beats_its_random_reference(card):
    curves = card.details["robustness"][0]["curves"]
    assert card["auroc"] > card["auroc_random"]
    assert card["auroc_black_box"] > card["auroc_black_box_random"]
    assert np.mean(curves["model"]) > np.mean(curves["random"])


def test_another_networks_embedding_is_less_faithful(digits, card):
    """D_fth means something: KMEx of its own black box is nearer to it than KMEx of another network."""
    data, net, other = digits
    stranger = convert(other, data.train, progress=False)
    far = evaluate(stranger, data, black_box=net, only=("explanations",), n_images=60, progress=False)
    assert card["explanation_divergence"] < far["explanation_divergence"]
    assert card["explanation_divergence"] < card["explanation_divergence_mismatched"]


def test_one_seed_one_result_to_the_last_bit(digits):
    data, net, _ = digits
    sem = convert(net, data.train, progress=False)
    first, second = (evaluate(sem, data, **QUICK, progress=False).to_dict() for _ in range(2))
    assert json.dumps(first) == json.dumps(second)
    third = evaluate(sem, data, **QUICK, seed=1, progress=False).to_dict()
    assert third["auroc"] != first["auroc"]
    assert third["accuracy"] == first["accuracy"]


def test_runs_give_mean_and_deviation_and_json_reads_back(digits, tmp_path):
    data, net, _ = digits
    sem = convert(net, data.train, progress=False)
    card = evaluate(sem, data, only=("robustness", "diversity"), n_runs=3, **QUICK, progress=False)
    values = card.runs["auroc"]
    assert len(values) == 3
    assert len(set(values)) == 3
    assert card["auroc"] == pytest.approx(np.mean(values))
    assert card.deviation("auroc") == pytest.approx(np.std(values, ddof=1))
    assert len(card.runs["diversity"]) == 1
    assert card.deviation("diversity") is None
    assert "±" in card.format("auroc")
    assert len({tuple(sample) for sample in card.info["samples"]}) == 3
    card.save(tmp_path / "card.json")
    assert Scorecard.read(tmp_path / "card.json") == card
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(LookalikeError, match="not a scorecard"):
        Scorecard.read(tmp_path / "other.json")
    with pytest.raises(LookalikeError, match="'ghosting' was not measured"):
        card["ghosting"]


def test_finished_sections_are_not_measured_again(digits, tmp_path, monkeypatch):
    data, net, _ = digits
    sem = convert(net, data.train, progress=False)
    options = {**QUICK, "resume": tmp_path / "part.json", "progress": False}
    with monkeypatch.context() as patch:
        broken = type(SECTIONS["robustness"])("robustness", lambda *_: 1 / 0, ("images",), per_run=True)
        patch.setitem(SECTIONS._members, "robustness", broken)
        with pytest.raises(ZeroDivisionError):
            evaluate(sem, data, **options)
    with monkeypatch.context() as patch:
        done = type(SECTIONS["explanations"])("explanations", lambda *_: 1 / 0, ("images", "black box"), per_run=True)
        patch.setitem(SECTIONS._members, "explanations", done)
        taken_up = evaluate(sem, data, **options)
    assert taken_up == evaluate(sem, data, **QUICK, progress=False)
    with pytest.raises(LookalikeError, match=r"part\.json' holds an evaluation with other options; give another file"):
        evaluate(sem, data, **{**options, "n_steps": 5})


def test_embeddings_are_asked_for_once(digits):
    data, net, _ = digits
    sem = convert(net, data.train, progress=False)
    rows = []
    handle = net[0].register_forward_hook(lambda _m, inputs, _o: rows.append(len(inputs[0])))
    evaluate(sem, data, only=("faithfulness", "transparency", "embedding", "diversity"), progress=False)
    handle.remove()
    assert sum(rows) == len(data.test) + len(data.train)


def test_one_bar_counts_every_row(digits):
    from lookalike.metrics.evaluation import _count_steps  # the total that the bar gets

    data, net, _ = digits
    sem = convert(net, data.train, progress=False)
    steps, totals = [], []

    def advance(n=1):
        steps.append(n)

    evaluate(sem, data, **QUICK, progress=advance)
    import lookalike.metrics.evaluation as module

    original = module._count_steps
    try:
        module._count_steps = lambda *args: totals.append(original(*args)) or totals[-1]
        evaluate(sem, data, **QUICK, progress=False)
    finally:
        module._count_steps = _count_steps
    assert sum(steps) == totals[0]


def test_the_bar_counts_training_images_for_every_section_that_embeds_them(monkeypatch):
    import lookalike.metrics.evaluation as module

    x, y = torch.randn(30, 4), torch.arange(30) % 2
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))  # without a head
    sem = convert(network, (x, y), n_prototypes=1, head="output", progress=False)
    original, totals, steps = module._count_steps, [], []
    monkeypatch.setattr(module, "_count_steps", lambda *args: totals.append(original(*args)) or totals[-1])
    only = ("faithfulness", "same_embedding")
    evaluate(sem, (x[:10], y[:10]), train=(x, y), only=only, progress=lambda n=1: steps.append(n))
    assert totals == [sum(steps)] == [40]


@pytest.mark.slow
def test_bfloat16_changes_little(digits):
    data, net, _ = digits
    sem = convert(net, data.train, progress=False)
    full, half = (
        evaluate(sem, data, only=("robustness",), precision=p, n_images=8, progress=False)["auroc"]
        for p in ("float32", "bfloat16")
    )
    assert half == pytest.approx(full, abs=0.01)


def test_any_prototype_model(digits):
    """Another similarity, a linear head, an encoder that is no cut classifier."""
    data, net, _ = digits
    body = nn.Sequential(*list(net.children())[:-1]).eval()
    x = torch.stack([data.train[i][0] for i in range(0, 1000, 40)])
    y = torch.tensor([data.train[i][1] for i in range(0, 1000, 40)])
    with torch.no_grad():
        vectors = body(x)
    names = [str(k) for k in range(10)]
    model = PrototypeModel(body, Prototypes(vectors, y, names), make_similarity("log"), LinearHead.from_labels(y, 10))
    card = evaluate(model, data, black_box=net, **QUICK, progress=False)
    assert {"agreement", "auroc_black_box", "explanation_divergence", "ghosting"} <= set(card.runs)
    alone = evaluate(model, data, **QUICK, progress=False)
    assert "agreement" not in alone.runs
    assert any("no black box" in note for note in alone.notes)


def test_attributes_when_there_are_some(net, blobs):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    attributes = torch.stack([y == 0, y > 0, x.mean((1, 2, 3)) > 0.5], 1)
    card = evaluate(sem, blobs, train=blobs, attributes=attributes, only=("attributes",), progress=False)
    assert card["attributes_captured"] >= 2
    size, of_both = (
        Preprocessing((8, 8), (8, 8)),
        Attributes(["a", "b", "c"], *[attributes.numpy().astype(np.uint8)] * 2),
    )
    bundle = DataBundle("b", blobs, blobs, ["0", "1", "2"], size, attributes=of_both)
    of_bundle = evaluate(sem, bundle, only=("attributes",), progress=False)
    assert of_bundle["attributes_captured"] == card["attributes_captured"]


def test_verdict_says_what_was_lost(card):
    said = " ".join(card.verdict())
    assert "agrees with the original on" in said
    assert "No prototype is unused: each has training images of its class that look most like it." in said
    strict = " ".join(card.verdict(Thresholds(agreement=1.0, auroc_gain=2.0)))
    assert "100.0% are asked for" in strict
    assert "do not rely on its heat-maps" in strict


def test_verdict_names_classes_and_ghosts():
    share = {"value": 0.9, "low": 0.85, "high": 0.95, "n": 100}
    lost = {"value": -0.05, "low": -0.09, "high": -0.01, "n": 100}
    per_class = [
        {"label": 0, "n": 50, "difference": lost, "loss_p": 0.001, "mistaken_for": 1, "accuracy": share},
        {"label": 1, "n": 50, "difference": lost, "loss_p": 0.06, "mistaken_for": 0, "accuracy": share},
    ]
    card = Scorecard(
        {"accuracy": [0.9], "accuracy_difference": [-0.05], "agreement": [0.9], "ghosting": [0.25]},
        {
            "faithfulness": [{"difference": lost, "per_class": per_class}],
            "transparency": [{"scope": "class", "activations": [3, 0, 5, 1]}],
            "embedding": [{"classes": [{"label": 0, "overlap": 0.2, "rival": 1}]}],
        },
        ["ant", "bee"],
    )
    said = card.verdict()
    assert "It lost 5.0 points of accuracy (95% interval −9.0 to −1.0): 90.0%." in said
    assert (
        "Class 'ant' lost 5.0 points; with these prototypes, 20.0% of the training images of 'ant' are nearer to a "
        "prototype of another class, most often 'bee'."
    ) in said
    assert any(
        "'bee' (5.0 points) lost accuracy. With so few images, that may be chance: among 2 classes" in sentence
        for sentence in said
    )
    assert (
        "1 of 4 prototypes is never used (1): no training image of its class looks most like it, so it stands for "
        "none of them."
    ) in said


def test_markdown_and_rows_name_every_figure(card):
    table = card.to_markdown()
    for name in card.runs:
        assert FIGURES[name][0] in table
    assert re.search(r"\| ghosting D_tsp \| 0\.0% \| lower \|", table)


def test_radar_axes(card):
    axes = card.axes()
    assert list(axes) == ["transparency", "accuracy", "explanations", "robustness", "diversity"]
    assert axes["transparency"] == 1
    assert axes["accuracy"] == pytest.approx(1 + card["accuracy_difference"] / 0.05)
    ax = card.plot_radar(name="a", others={"b": card})
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    with pytest.raises(LookalikeError, match="two models are called 'model'"):
        card.plot_radar(others={"model": card})


def test_mistakes_get_one_clear_line(net, blobs):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=1, progress=False)
    two = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(LookalikeError, match="the black box has 2 classes and the model 3"):
        evaluate(sem, blobs, black_box=two)
    cosine = convert(net, blobs, n_prototypes=1, similarity="cosine", progress=False)
    with pytest.raises(LookalikeError, match="'transparency' cannot be measured: no training data were given"):
        evaluate(cosine, blobs, only=("transparency",))
    with pytest.raises(LookalikeError, match="no samples"):
        evaluate(sem, (x[:0], y[:0]))
    with pytest.raises(LookalikeError, match="did you mean 'transparency'"):
        evaluate(sem, blobs, only=("transparancy",))
    with pytest.raises(LookalikeError, match="n_images must be a whole number"):
        evaluate(sem, blobs, n_images=0)
    with pytest.raises(LookalikeError, match="a class 7; the model has 3"):
        evaluate(sem, (x, torch.full_like(y, 7)))
    with pytest.raises(LookalikeError, match="precision must be"):
        evaluate(sem, blobs, only=("robustness",), precision="float8", **QUICK)
    with pytest.raises(LookalikeError, match="the black box is the classifier that was converted"):
        evaluate(sem, blobs, black_box=sem)
    with pytest.raises(LookalikeError, match="cannot run on stored embeddings"):
        evaluate(sem, embed(sem, blobs), black_box=net)
    card = evaluate(sem, blobs, only=("diversity",))
    assert "no class has more than one prototype" in card.details["diversity"][0]["within_class"]


def test_what_cannot_be_measured_is_noted(net, blobs):
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    card = evaluate(sem, embed(sem, blobs), progress=False)
    assert set(card.details) == {"faithfulness", "calibration", "transparency", "diversity", "data"}
    assert any("section 'embedding' was not measured: no training data" in note for note in card.notes)
    assert any("section 'robustness' was not measured: the test data are no images" in note for note in card.notes)
    data = (torch.randn(40, 4), torch.arange(40) % 2)
    flat = convert(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), data, progress=False)
    assert "robustness" not in evaluate(flat, data, train=data, progress=False).details


def test_labels_are_matched_by_name(net, blobs):
    x, y = blobs
    names = np.array(["ant", "bee", "cat"])
    sem = convert(net, (x, names[y]), n_prototypes=2, progress=False)
    few = y > 0  # a test set without ants numbers its classes otherwise
    found = evaluate(sem, (x[few], names[y[few]]), only=("faithfulness",), progress=False)
    whole = evaluate(sem, (x, names[y]), only=("faithfulness",), progress=False)
    rows = found.details["faithfulness"][0]["per_class"]
    assert rows[1]["accuracy"] == whole.details["faithfulness"][0]["per_class"][1]["accuracy"]
    assert rows[0]["n"] == 0
    with pytest.raises(LookalikeError, match="the test data have a class 'dog'"):
        evaluate(sem, (x, np.array(["ant", "bee", "dog"])[y]), only=("faithfulness",))


def test_subsets_keep_their_own_samples(net, blobs):
    x, y = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    data = Subset(TensorDataset(x, y), list(range(30, 60)))
    card = evaluate(sem, data, **QUICK, progress=False)
    assert max(card.info["samples"][0]) < 30


def test_an_encoder_as_black_box(net, blobs):
    x, _ = blobs
    sem = convert(net, blobs, n_prototypes=2, progress=False)
    card = evaluate(sem, blobs, black_box=Encoder(net, x[:2]), only=("faithfulness",), progress=False)
    assert card["agreement"] == evaluate(sem, blobs, only=("faithfulness",), progress=False)["agreement"]


def test_a_black_box_that_is_shared_is_measured_once(digits):
    data, net, _ = digits
    box = BlackBox.of(net, Batches(data.test))
    options = {"only": ("robustness",), "black_box": box, "progress": False, **QUICK}
    first, second = (evaluate(convert(net, data.train, n, progress=False), data, **options) for n in (2, 5))
    for name in ("auroc_black_box", "auroc_black_box_random"):
        assert first[name] == second[name]
    alone = evaluate(convert(net, data.train, 5, progress=False), data, **{**options, "black_box": net})
    assert alone.to_dict()["auroc_black_box"] == second["auroc_black_box"]
    other_noise = evaluate(convert(net, data.train, 5, progress=False), data, **options, seed=1)
    assert other_noise["auroc_black_box"] != second["auroc_black_box"]
    assert len(box.measured) == 4
