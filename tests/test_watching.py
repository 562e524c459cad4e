"""A watch over a calibrated model: evidence, new modes, labels that come later, and a state that survives."""

import json

import numpy as np
import pytest
import torch

from lookalike import LookalikeError, convert
from lookalike.model.prototype_model import PrototypeModel
from lookalike.watching import Watch
from tests.model.test_doubt import images, network  # noqa: F401 - a fixture


@pytest.fixture(scope="module")
def calibrated(network) -> PrototypeModel:  # noqa: F811
    model = convert(network, images(400, 2), n_prototypes=2, progress=False)
    return model.calibrate(images(900, 3), false_alarm=0.02)


def strange(n: int, seed: int) -> torch.Tensor:
    """Returns images of a class that the model does not know: bright in the last corner, and large."""
    x = 0.3 * torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    x[:, :, 4:, 4:] += 6
    return x


def test_clean_batches_raise_no_alarm_and_a_new_class_does(calibrated):
    watch = Watch(calibrated, bound=0.01)
    reports = [watch.add(images(40, seed)[0]) for seed in range(10, 15)]
    assert not any(report.alarm for report in reports)
    assert reports[-1].n_total == 200
    assert reports[-1].shift < 0.2
    found = watch.add(strange(30, 1))
    assert found.alarm
    assert found.evidence >= 100
    assert found.unfamiliar > 0.9
    assert found.modes[0].count >= 25
    assert found.modes[0].names[0].startswith("image 2")
    assert "ALARM" in found.sentences()[0]
    assert "new mode" in found.sentences()[1]
    assert watch.add(images(40, 16)[0]).alarm  # it stays


def test_false_alarms_are_rare(calibrated):
    alarms = 0
    for seed in range(25):
        watch = Watch(calibrated, bound=0.1, seed=seed)
        alarms += any(watch.add(images(30, 1000 + 10 * seed + part)[0]).alarm for part in range(3))
    assert alarms <= 6


def test_a_state_survives_a_restart(calibrated, tmp_path):
    state, x = tmp_path / "state.json", images(60, 20)[0]
    whole = Watch(calibrated)
    expected = [whole.add(x[:30]), whole.add(x[30:]), whole.add(strange(6, 2))]
    found = [Watch(calibrated, state=state).add(part) for part in (x[:30], x[30:], strange(6, 2))]
    assert [report.to_dict() for report in found] == [report.to_dict() for report in expected]
    json.dumps(found[-1].to_dict(), allow_nan=False)


def test_labels_come_later_and_count_once(calibrated, tmp_path):
    state = tmp_path / "state.json"
    x, y = images(50, 21)
    names = [f"{row}.png" for row in range(50)]
    Watch(calibrated, state=state).add(x, names=names)
    watch = Watch(calibrated, state=state)
    labels = dict(zip(names, y.tolist(), strict=True))
    assert watch.add_labels(labels) == 50
    figures = Watch(calibrated, state=state).accuracy()
    assert figures["n_labelled"] == 50
    assert figures["accuracy"] == pytest.approx(float((calibrated.predict(x) == y).double().mean()))
    assert figures["accuracy_low"] < figures["accuracy"] < figures["accuracy_high"]
    with pytest.raises(LookalikeError, match="none of the 50 labelled images"):
        watch.add_labels(labels)
    with pytest.raises(LookalikeError, match="no class of the model"):
        watch.add_labels({"0.png": "zebra"})


def test_labels_that_come_at_once_are_in_the_report(calibrated):
    x, y = images(50, 22)
    report = Watch(calibrated).add(x, y)
    assert report.n_labelled == 50
    assert report.accuracy == pytest.approx(float((calibrated.predict(x) == y).double().mean()))


def test_occupancy_counts_the_most_similar_prototypes(calibrated):
    x = images(80, 23)[0]
    report = Watch(calibrated).add(x)
    nearest = calibrated.similarities(x).argmax(1).numpy()
    assert report.occupancy == np.bincount(nearest, minlength=6).tolist()
    assert sum(report.expected) == pytest.approx(80)


def test_what_does_not_fit_is_refused(calibrated, tmp_path):
    state = tmp_path / "state.json"
    Watch(calibrated, state=state).add(images(20, 24)[0])
    with pytest.raises(LookalikeError, match=r"begun with a bound of 0.01"):
        Watch(calibrated, bound=0.1, state=state)
    other = convert(calibrated.encoder, images(400, 2), n_prototypes=1, progress=False).calibrate(images(300, 3))
    with pytest.raises(LookalikeError, match="another model"):
        Watch(other, state=state)
    content = json.loads(state.read_text())
    for changed, message in (
        ({"format": 3}, "format 3"),
        ({"n_images": 21}, "does not hold the scores"),
        ({"alarm": "yes"}, "true or false"),
        ({"scores": {}, "log_bets": {}}, "do not fit the model; remove it"),
        ({"log_bets": {**content["log_bets"], "novelty": [0.0]}}, "do not fit the model"),
        ({"occupancy": [20]}, "do not fit the model"),
        ({"predictions": {"a": 3}, "waiting_names": {"a": "a"}}, "do not fit the model"),
        ({"predictions": {"a": 1}}, "do not fit together"),
        ({"n_batches": -1}, "counts are impossible; remove it"),
        ({"n_correct": 1}, "counts are impossible"),
        ({"occupancy": [21, -1, 0, 0, 0, 0]}, "counts are impossible"),
    ):
        state.write_text(json.dumps({**content, **changed}))
        with pytest.raises(LookalikeError, match=message):
            Watch(calibrated, state=state)
    state.write_text("{")
    with pytest.raises(LookalikeError, match="remove it to begin anew"):
        Watch(calibrated, state=state)
    with pytest.raises(LookalikeError, match="not calibrated"):
        Watch(convert(calibrated.encoder, images(400, 2), n_prototypes=1, progress=False))
    with pytest.raises(LookalikeError, match="no images"):
        Watch(calibrated).add(torch.zeros(0, 1, 8, 8))


def test_labels_that_come_at_once_count_by_row_whatever_the_names(calibrated, monkeypatch):
    monkeypatch.setattr("lookalike.watching._MOST_PREDICTIONS", 10)
    watch = Watch(calibrated)
    for seed in (22, 23):
        x, y = images(50, seed)
        report = watch.add(x, y, names=["same.png"] * 50)
    assert report.n_labelled == 100


def test_the_same_image_once_more_is_left_out(calibrated, tmp_path):
    state, (x, y) = tmp_path / "state.json", images(6, 26)
    names = list("abcdef")
    first = Watch(calibrated, state=state).add(x[:4], names=names[:4])
    assert [(image.name, image.class_name) for image in first.images] == [
        (name, str(k)) for name, k in zip("abcd", calibrated.predict(x[:4]).tolist(), strict=True)
    ]
    watch = Watch(calibrated, state=state)
    report = watch.add(torch.cat([x, x[4:]]), names=names + names[4:])
    assert (report.n_images, report.n_repeated, report.n_total) == (2, 6, 6)
    assert "6 images left out: watched before" in report.sentences()[1]
    whole = Watch(calibrated)
    whole.add(x[:4], names=names[:4])
    assert whole.add(x[4:], names=names[4:]).evidence == report.evidence
    nothing = watch.add(x, names=names, labels=y)
    assert (nothing.n_images, nothing.batch, nothing.unfamiliar, nothing.n_labelled) == (0, 2, None, 6)
    assert "no new image" in nothing.sentences()[0]
    json.dumps(nothing.to_dict(), allow_nan=False)
    assert watch.add(x, names=names, labels=y).n_labelled == 6
    assert watch.add(x).n_repeated == 0  # images without names of their own are never the same


def test_another_image_of_the_same_name_is_another_image(calibrated, tmp_path):
    state, (x, _) = tmp_path / "state.json", images(4, 28)
    reports = [Watch(calibrated, state=state).add(x[row : row + 1], names=["latest.png"]) for row in range(3)]
    assert reports[-1].n_total == 3
    ids = [report.images[0].id for report in reports]
    watch = Watch(calibrated, state=state)
    with pytest.raises(LookalikeError, match=f"3 images that wait .* called 'latest.png', .* latest is '{ids[2]}'"):
        watch.add_labels({"latest.png": 0})
    predicted = calibrated.predict(x).tolist()
    assert watch.add_labels({ids[0]: predicted[0], ids[1]: (predicted[1] + 1) % 3}) == 2
    assert watch.add_labels({"latest.png": predicted[2]}) == 1  # now one image of that name waits
    assert Watch(calibrated, state=state).accuracy()["accuracy"] == pytest.approx(2 / 3)


def test_a_state_of_the_first_format_goes_on(calibrated, tmp_path):
    state, (x, y) = tmp_path / "state.json", images(5, 29)
    Watch(calibrated, state=state).add(x, names=list("abcde"))
    content = json.loads(state.read_text())
    for name in ("seen", "waiting_names", "unfamiliar_ids"):
        del content[name]
    content |= {"format": 1, "predictions": dict(zip("abcde", calibrated.predict(x).tolist(), strict=True))}
    state.write_text(json.dumps(content))
    watch = Watch(calibrated, state=state)
    assert watch.add_labels(dict(zip("abcde", y.tolist(), strict=True))) == 5
    assert Watch(calibrated, state=state).add(x, names=list("abcde")).n_total == 10


def test_a_state_of_many_images_is_read_again(calibrated, tmp_path):
    """A million images, as many as a watch takes, make a file larger than others may be."""
    state = tmp_path / "state.json"
    Watch(calibrated, state=state).add(images(30, 20)[0])
    with state.open("ab") as file:
        file.write(b" " * 2**27)
    assert Watch(calibrated, state=state).add(images(5, 21)[0]).n_total == 35


def test_every_seed_is_taken(calibrated):
    assert Watch(calibrated, seed=2**32 - 1).add(images(5, 20)[0]).n_total == 5


@pytest.mark.parametrize("label", [1.7, float("nan"), [1], None, True, 3, -1])
def test_a_label_that_is_no_class_is_refused(calibrated, label):
    watch = Watch(calibrated)
    watch.add(images(1, 27)[0], names=["a"])
    with pytest.raises(LookalikeError, match="the label of 'a' must be a whole number from 0 to 2"):
        watch.add_labels({"a": label})
    assert watch.add_labels({"a": np.int64(2)}) == 1


def test_two_watches_of_one_file_do_not_lose_each_others_images(calibrated, tmp_path):
    state = tmp_path / "state.json"
    first, second = Watch(calibrated, state=state), Watch(calibrated, state=state)
    assert first.add(strange(150, 1)).alarm
    with pytest.raises(LookalikeError, match="was changed meanwhile, by another watch of the same file"):
        second.add(images(10, 3)[0])
    assert second.last_report is None
    assert Watch(calibrated, state=state).alarm
    first.add(images(10, 3)[0])
    assert Watch(calibrated, state=state).alarm
