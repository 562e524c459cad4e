"""A calibrated model: what it promises, how it is saved, and what it refuses."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lookalike import LookalikeError, LookalikeWarning, convert, explain, load
from lookalike._core.provenance import fingerprint_json
from lookalike.doubt import NOVELTIES
from lookalike.metrics import evaluate, expected_calibration_error
from lookalike.model.classifier import LinearHead, NearestPrototype
from lookalike.model.prototype_model import PrototypeModel


def images(n: int, seed: int, noise: float = 0.9) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns 8×8 images of 3 classes that overlap a little, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    x = noise * torch.randn(n, 1, 8, 8, generator=generator)
    for k, (row, column) in enumerate([(0, 0), (0, 4), (4, 0)]):
        x[y == k, :, row : row + 4, column : column + 4] += 0.6
    return x, y


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3))
    x, y = images(600, 1)
    optimiser = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimiser.step()
    return net


@pytest.fixture(scope="module")
def model(network: nn.Module) -> PrototypeModel:
    return convert(network, images(400, 2), n_prototypes=2, progress=False)


@pytest.fixture(scope="module")
def calibrated(model: PrototypeModel) -> PrototypeModel:
    return model.calibrate(images(900, 3))


TEST = images(2000, 4)


def test_calibration_returns_a_new_model_and_changes_no_prediction(model, calibrated):
    assert not model.is_calibrated
    assert calibrated.is_calibrated
    assert calibrated is not model
    assert model.doubt is None
    assert torch.equal(model.predict(TEST[0]), calibrated.predict(TEST[0]))
    assert torch.allclose(calibrated(TEST[0]).softmax(1), calibrated.predict_proba(TEST[0]), atol=1e-6)


def test_a_wrong_temperature_is_repaired(network):
    wrong = convert(network, images(400, 2), n_prototypes=2, temperature=0.01, progress=False)
    facts = wrong.calibrate(images(900, 3)).doubt.facts
    assert facts.after.ece < 0.7 * facts.before.ece
    assert facts.after.log_loss < facts.before.log_loss
    assert facts.black_box.n_samples == facts.after.n_samples == facts.n_validation == 600


def test_the_temperature_hardly_depends_on_the_one_before(model):
    validation = images(300, 3)
    scaled = PrototypeModel(
        model.encoder, model.prototypes, model.similarity, NearestPrototype("max", model.classifier.temperature * 3)
    )
    ours, theirs = model.calibrate(validation).doubt.facts, scaled.calibrate(validation).doubt.facts
    assert theirs.scale * theirs.temperature == pytest.approx(ours.scale * ours.temperature, rel=0.1)


@pytest.mark.parametrize("per_class", [False, True])
def test_sets_cover_the_true_class_as_often_as_promised(model, per_class):
    covered = []
    for seed in range(12):
        sets = model.calibrate(images(450, 100 + seed), seed=seed).predict_set(TEST[0], 0.9, per_class=per_class)
        inside = sets.members[np.arange(len(TEST[1])), TEST[1]]
        covered.append([inside[TEST[1].numpy() == k].mean() for k in range(3)] if per_class else [inside.mean()])
    assert np.abs(np.mean(covered, 0) - 0.9).max() < 0.035


def test_a_set_names_the_prototypes_of_its_classes(calibrated):
    sets = calibrated.predict_set(TEST[0][:200], 0.95)
    several = int(sets.sizes.argmax())
    assert sets.sizes[several] >= 2
    for name, prototype in sets.of(several):
        assert calibrated.prototypes.class_of(prototype) == name
    similarities = calibrated.similarities(TEST[0][:200])
    k = int(np.flatnonzero(sets.members[several])[0])
    of_class = torch.nonzero(calibrated.prototypes.labels == k)[:, 0]
    assert sets.prototypes[several, k] == of_class[similarities[several, of_class].argmax()]
    assert sets.sentence(several).startswith("Either ")


def test_an_image_like_nothing_known_has_an_empty_set_and_a_small_p_value(calibrated):
    strange = torch.full((1, 1, 8, 8), 20.0)
    assert calibrated.predict_set(strange)[0] == []
    assert float(calibrated.novelty_p_values(strange)) <= 0.01
    (explanation,) = explain(calibrated, strange)
    assert explanation.unfamiliar
    assert "Nothing I know" in explanation.sentence()
    assert json.loads(json.dumps(explanation.to_dict()))["doubt"]["set"] == []


def test_familiar_images_are_called_unfamiliar_as_rarely_as_promised(model):
    rates = [
        (model.calibrate(images(450, seed), false_alarm=0.05, seed=seed).novelty_p_values(TEST[0]) <= 0.05)
        .double()
        .mean()
        for seed in range(10)
    ]
    assert 0.02 < float(np.mean(rates)) <= 0.06


def test_answers_that_are_given_are_wrong_as_rarely_as_promised(calibrated):
    answers = calibrated.predict_or_abstain(TEST[0], error=0.1)
    given = answers >= 0
    assert 0.2 < float(given.double().mean()) < 1
    assert float((answers != TEST[1])[given].double().mean()) <= 0.1


def test_a_saved_calibration_gives_the_same_answers(calibrated, tmp_path):
    calibrated.save(tmp_path / "model")
    again = load(tmp_path / "model", model=calibrated.encoder.model)
    assert again.doubt.facts == calibrated.doubt.facts
    assert np.array_equal(again.predict_set(TEST[0]).members, calibrated.predict_set(TEST[0]).members)
    assert torch.equal(again.novelty_p_values(TEST[0][:50]), calibrated.novelty_p_values(TEST[0][:50]))
    assert again.abstention(0.1) == calibrated.abstention(0.1)
    card = (tmp_path / "model" / "README.md").read_text()
    assert "fitted to 300 validation images" in card
    assert "reported as *unfamiliar* if its novelty score is higher than that of nearly all validation images;" in card
    assert "farther from its nearest prototype" not in card


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_in_another_precision_says_nearly_the_same(calibrated, dtype):
    import copy

    moved, x = copy.deepcopy(calibrated).to(dtype), TEST[0][:300]
    assert moved.doubt.scores.dtype == torch.float64
    assert moved.doubt.score.units.dtype == torch.promote_types(dtype, torch.float32)
    assert float((moved.novelty_p_values(x.to(dtype)) - calibrated.novelty_p_values(x)).abs().max()) < 0.03
    assert (moved.predict_set(x.to(dtype)).members == calibrated.predict_set(x).members).mean() > 0.98
    assert moved.calibrate(images(200, 3)).is_calibrated


@pytest.mark.parametrize("novelty", list(NOVELTIES))
def test_every_novelty_score_can_be_saved(model, novelty, tmp_path):
    chosen = model.calibrate(images(300, 3), novelty=novelty)
    chosen.save(tmp_path / "model")
    again = load(tmp_path / "model", model=chosen.encoder.model)
    assert torch.equal(again.novelty_p_values(TEST[0][:20]), chosen.novelty_p_values(TEST[0][:20]))


def test_a_linear_classifier_is_calibrated_too(model):
    linear = PrototypeModel(
        model.encoder, model.prototypes, model.similarity, LinearHead.from_labels(model.prototypes.labels, 3, own=20.0)
    )
    facts = linear.calibrate(images(600, 3)).doubt.facts
    assert facts.after.log_loss < facts.before.log_loss


def test_what_needs_a_calibration_says_so(model):
    for ask in (lambda: model.predict_set(TEST[0]), model.abstention, lambda: model.novelty_p_values(TEST[0])):
        with pytest.raises(LookalikeError, match=r"not calibrated: call sem.calibrate"):
            ask()


def test_training_images_and_too_few_images_are_refused(model):
    with pytest.raises(LookalikeError, match="own training images"):
        model.calibrate(images(400, 2))
    with pytest.raises(LookalikeError, match="at least 30 validation images; there are 29"):
        model.calibrate(images(29, 3))
    with pytest.raises(LookalikeError, match=r"coverage of 0.99 needs 99 .* there are 40"):
        model.calibrate(images(60, 3), coverage=0.99)
    with pytest.raises(LookalikeError, match="novelty"):
        model.calibrate(images(60, 3), novelty="x")


def test_too_few_images_for_the_false_alarm_rate_are_told(model):
    few = model.calibrate(images(60, 3), coverage=0.9)
    assert any("no input is called unfamiliar" in note and "99" in note for note in few.doubt.facts.notes)
    assert not explain(few, torch.full((1, 1, 8, 8), 20.0))[0].unfamiliar


def test_worse_probabilities_are_told_if_the_log_loss_rose_too(model):
    told = set()
    for seed in range(12):
        facts = model.calibrate(images(30, 200 + seed), coverage=0.9).doubt.facts
        before, after = facts.before, facts.after
        has_risen = {
            name: round(getattr(after, name), 3) > round(getattr(before, name), 3) for name in ("ece", "log_loss")
        }
        is_worse = has_risen["log_loss"] and (has_risen["ece"] or after.log_loss > 1.1 * before.log_loss)
        assert any("no better than before" in note for note in facts.notes) == is_worse == facts.is_worse
        told.add((is_worse, has_risen["ece"]))
    assert {is_worse for is_worse, _ in told} == {True, False}
    worse = replace(
        facts, before=replace(before, log_loss=0.423, ece=0.2), after=replace(after, log_loss=0.558, ece=0.1)
    )
    assert worse.is_worse
    assert not replace(worse, after=replace(after, log_loss=0.43, ece=0.1)).is_worse


def test_an_update_says_that_the_calibration_is_gone(calibrated):
    with pytest.warns(LookalikeWarning, match="not calibrated; call calibrate"):
        updated = calibrated.update(images(60, 9), progress=False)
    assert not updated.is_calibrated


def test_a_damaged_calibration_is_refused(calibrated, tmp_path):
    from lookalike.doubt import Doubt, DoubtFacts

    tensors = dict(calibrated.doubt.state_dict().items())
    facts = calibrated.doubt.facts
    for changed, message in (
        ({"labels": tensors["labels"] + 3}, "from 0 to 2"),
        ({"scores": tensors["scores"][:-1]}, "must have 600 values"),
        ({"draws": tensors["draws"][:-1]}, "must have 4 values"),
        ({"draws": tensors["draws"] + 1}, r"in \[0, 1\)"),
        ({"extra": tensors["scores"]}, "other tensors"),
        ({"score.of_points": tensors["score.of_points"] * torch.nan}, "finite"),
    ):
        with pytest.raises(LookalikeError, match=message):
            Doubt.from_saved(facts, {**tensors, **changed}, 3, 6)
    with pytest.raises(LookalikeError, match="format 3; this version reads 2: update lookalike"):
        DoubtFacts.from_dict({**facts.to_dict(), "format": 3})
    assert DoubtFacts.from_dict(facts.to_dict()) == facts


def test_a_calibration_without_intervals_of_log_loss_and_brier_score_is_read(calibrated):
    from lookalike.doubt import DoubtFacts

    values = calibrated.doubt.facts.to_dict()
    for figures in (values["before"], values["after"], values["black_box"]):
        for name in ("log_loss_low", "log_loss_high", "brier_low", "brier_high"):
            del figures[name]  # calibrations of earlier versions have none
    facts = DoubtFacts.from_dict(values)
    assert facts.after.log_loss_low is None
    assert facts.after.ece_low == calibrated.doubt.facts.after.ece_low


def test_classes_are_matched_by_name(model):
    from lookalike.embedding import EmbeddingStore, embed

    named = PrototypeModel(
        model.encoder,
        type(model.prototypes)(model.prototypes.vectors, model.prototypes.labels, ["a", "b", "c"]),
        model.similarity,
        model.classifier,
    )
    store = embed(model, images(300, 3), progress=False)
    by_number = named.calibrate(EmbeddingStore(store.embeddings, store.labels, store.indices))
    order = np.array([2, 0, 1])
    shuffled = EmbeddingStore(store.embeddings, order[store.labels], store.indices, class_names=["b", "c", "a"])
    assert torch.equal(named.calibrate(shuffled).doubt.labels, by_number.doubt.labels)
    unknown = EmbeddingStore(store.embeddings, store.labels, store.indices, class_names=["a", "b", "d"])
    with pytest.raises(LookalikeError, match="class 'd', which is none of the model's"):
        named.calibrate(unknown)


def test_the_scorecard_compares_with_the_black_box(calibrated, network):
    card = evaluate(calibrated, TEST, black_box=network, only=("calibration", "faithfulness"), progress=False)
    assert card["calibration_error"] < 0.05
    x, y = TEST
    with torch.no_grad():
        scaled = (network(x) / calibrated.doubt.facts.black_box_temperature).softmax(1).double()
    of_label = scaled[torch.arange(len(y)), y]
    losses = -of_label.log()
    assert card["log_loss_black_box_scaled"] == pytest.approx(float(losses.mean()), abs=1e-5)
    brier = (scaled - nn.functional.one_hot(y, 3)).square().sum(1).mean()
    assert card["brier_score_black_box_scaled"] == pytest.approx(float(brier), abs=1e-5)
    error = expected_calibration_error(scaled, y)
    assert card["calibration_error_black_box_scaled"] == pytest.approx(error, abs=1e-5)
    figures = card.details["calibration"][0]["probabilities"]
    of_box = figures["black_box_with_temperature"]
    width = 2 * 1.96 * float(losses.std()) / len(y) ** 0.5
    assert of_box["log_loss_high"] - of_box["log_loss_low"] == pytest.approx(width, rel=1e-3)
    assert figures["model"]["ece_low"] <= card["calibration_error"] <= figures["model"]["ece_high"]
    assert figures["model"]["log_loss"] == card["log_loss"]
    assert figures["model"]["brier_low"] < card["brier_score"] < figures["model"]["brier_high"]


def test_an_uncalibrated_model_has_no_temperature_of_its_black_box(model, network):
    card = evaluate(model, TEST, black_box=network, only=("calibration",), progress=False)
    assert set(card.details["calibration"][0]["probabilities"]) == {"model"}
    assert "log_loss_black_box_scaled" not in card.runs


def test_a_model_of_patches_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    patches = convert(net, images(60, 2), n_prototypes=1, level="patch", progress=False)
    with pytest.raises(LookalikeError, match="model of patches is not calibrated: convert with level='image'"):
        patches.calibrate(images(60, 3))


def test_few_validation_images_of_a_wide_embedding_do_not_fill_the_sets():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 400), nn.ReLU(), nn.Linear(400, 3))
    model = convert(net, images(120, 2, noise=0.3), n_prototypes=1, progress=False)
    calibrated = model.calibrate(images(75, 3, noise=0.3), coverage=0.9)
    assert calibrated.predict_set(images(300, 4, noise=0.3)[0]).sizes.mean() < 1.3


def test_stored_embeddings_of_another_network_are_refused(model):
    from lookalike.embedding import EmbeddingStore, embed

    torch.manual_seed(9)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3))
    with pytest.raises(LookalikeError, match="stored embeddings were made with other weights"):
        model.calibrate(embed(other, images(60, 3), progress=False))
    other[2] = nn.Tanh()
    other.load_state_dict(model.encoder.model.state_dict())
    with pytest.raises(LookalikeError, match="made with other layers"):
        model.calibrate(embed(other, images(60, 3), progress=False))
    store = embed(model, images(60, 3), progress=False)
    with pytest.raises(LookalikeError, match="5 dimensions, the encoder's 12"):
        model.calibrate(EmbeddingStore(store.embeddings[:, :5], store.labels, store.indices))
    assert model.calibrate(store, coverage=0.9).is_calibrated


def test_a_calibration_says_that_single_training_images_go_unnoticed(calibrated):
    from lookalike.model.calibrating import _notes

    assert any("training images of the model is not known" in note for note in calibrated.doubt.facts.notes)
    assert _notes(np.arange(3), np.arange(3), ["a", "b", "c"], known_new=True) == []
    expected = "there are no validation images of b besides those of the fit"
    assert _notes(np.array([0, 2]), np.arange(3), ["a", "b", "c"], known_new=True) == [expected]


def test_a_class_without_held_out_images_is_told(model):
    x, y = images(60, 3)
    facts = model.calibrate((x[y < 2], y[y < 2]), coverage=0.9).doubt.facts
    assert "there are no validation images of 2" in facts.notes


def test_an_evaluation_with_the_images_of_the_calibration_says_so(calibrated):
    told = "those that the model was calibrated with"
    for test, is_told in ((images(900, 3), True), (images(90, 4), False)):
        card = evaluate(calibrated, test, only=("transparency", "calibration"), progress=False)
        assert any(told in sentence for sentence in card.verdict()) is is_told
        assert any(f"{told}: its ECE is too good" in note for note in card.notes) is is_told


def test_all_warnings_of_the_data_are_in_the_verdict():
    from lookalike.metrics.data_check import DataCheck
    from lookalike.metrics.verdict import _data

    check = DataCheck("other", n_leaked=2, n_test=9, is_calibration=True)
    findings = _data({"data": [{"sentences": check.sentences(), "n_leaked": 2}]})
    assert [finding.topic for finding in findings] == ["leak", "data", "data"]


def test_sets_are_drawn_once_for_a_calibration_and_conservative_ones_are_never_smaller(model):
    chosen, careful = (model.calibrate(images(75, 3), conservative=conservative) for conservative in (False, True))
    drawn = chosen.predict_set(TEST[0][:500], 0.9, per_class=True)
    conservative = chosen.predict_set(TEST[0][:500], 0.9, per_class=True, conservative=True)
    assert not drawn.conservative
    assert (conservative.members >= drawn.members).all()
    assert (conservative.expected >= 0.9).all()
    steps = 1 / (np.bincount(chosen.doubt.labels, minlength=3) + 1)
    assert (np.abs(drawn.expected - 0.9) < steps).all()
    assert drawn.expected.min() < 0.9  # some class of this calibration
    assert np.array_equal(careful.predict_set(TEST[0][:500], 0.9, per_class=True).members, conservative.members)
    assert np.array_equal(
        careful.predict_set(TEST[0][:500], 0.9, per_class=True, conservative=False).members, drawn.members
    )
    assert not torch.equal(model.calibrate(images(75, 4)).doubt.draws, chosen.doubt.draws)  # other images, other draw
    with pytest.raises(LookalikeError, match="conservative must be True or False, not 1"):
        chosen.predict_set(TEST[0][:2], conservative=1)


def test_a_calibration_of_an_earlier_version_keeps_its_sets(model, tmp_path):
    """Format 1 had no draw, and the higher thresholds."""
    folder, careful = tmp_path / "old", model.calibrate(images(75, 3), conservative=True)
    model.calibrate(images(75, 3)).save(folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["doubt.draws"]
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["doubt"]["format"] = 1
    del config["doubt"]["conservative"], config["fingerprint"]
    content = (folder / "model.safetensors").read_bytes()
    config["files"]["model.safetensors"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "config.json").write_text(json.dumps({**config, "fingerprint": fingerprint_json(config)}))
    old = load(folder, model=model.encoder.model)
    assert (old.doubt.facts.format, old.doubt.facts.conservative) == (2, True)
    sets = old.predict_set(TEST[0], 0.9, per_class=True)
    assert np.array_equal(sets.members, careful.predict_set(TEST[0], 0.9, per_class=True).members)
    assert torch.equal(old.doubt.draws, careful.doubt.draws)
