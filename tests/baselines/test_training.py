"""Training on Lightning: tiny networks, for seconds."""

import inspect
import json
import resource
import signal
import subprocess
import sys
import threading
import time
from typing import get_type_hints

import numpy as np
import pytest
import torch

from lookalike import LookalikeError, LookalikeWarning, convert, evaluate, explain, load, load_classifier
from lookalike._core.provenance import fingerprint_tensors
from lookalike._core.working_folder import alone, lock_in
from lookalike.baselines import METHODS, Task, hyperparameters, train
from lookalike.baselines.options import Hardware, TrainingOptions
from lookalike.baselines.start import start_from
from lookalike.data import DataBundle, ImageArray, Preprocessing
from lookalike.encoder import LoadedClassifier
from lookalike.testing import check_prototype_model
from tests.processes import Started

TINY = {"network": "lookalike:small-cnn", "n_prototypes": 2, "batch_size": 16, "learning_rate": 0.02, "momentum": 0.9}
OWN = {
    "blackbox": {"epochs": 4},
    "protopnet": {"epochs": 4, "warm_epochs": 1, "push_every": 2, "last_layer_epochs": 1, "embedding_dim": 6},
    "flint": {"epochs": 12, "embedding_dim": 8, "learning_rate": 0.01, "n_prototypes": 4},
    "protovae": {"epochs": 3, "embedding_dim": 6, "learning_rate": 0.005},
}


def make_bundle(n=60, n_test=12):
    """Three classes of 16×16 pictures that differ in where they are bright."""
    rng = np.random.default_rng(0)
    names = ["ant", "bee", "cat"]

    def part(number):
        labels = np.arange(number) % 3
        images = rng.integers(0, 60, (number, 16, 16), dtype=np.uint8)
        for k, (row, column) in enumerate([(0, 0), (0, 8), (8, 0)]):
            images[labels == k, row : row + 8, column : column + 8] += 150
        return ImageArray(images, labels, names, preprocessing)

    preprocessing = Preprocessing(None, (16, 16), (0.3,) * 3, (0.2,) * 3)
    return DataBundle("tiny", part(n), part(n_test), names, preprocessing)


@pytest.fixture(scope="module")
def bundle():
    return make_bundle()


def run(method, bundle, **options):
    given = {key: options.pop(key) for key in list(options) if key not in RUN}
    return train(method, bundle, options=TINY | OWN[method] | given, progress=False, accelerator="cpu", **options)


RUN = ("seed", "working_folder", "on_epoch", "weights", "preset", "precision", "devices")


@pytest.fixture(scope="module")
def trained(bundle):
    return {method: run(method, bundle) for method in METHODS}


@pytest.mark.parametrize("method", list(METHODS))
def test_training_learns(method, trained):
    log = trained[method].log
    assert log[-1]["test_accuracy"] > 0.9
    assert trained[method].seconds == pytest.approx(sum(row["seconds"] for row in log), abs=0.01)
    assert trained[method].provenance["seed"] == 0


@pytest.mark.parametrize("method", ["protopnet", "flint", "protovae"])
def test_what_is_trained_is_a_prototype_model_like_any_other(method, trained, bundle):
    model = trained[method].model
    x = torch.stack([bundle.test[i][0] for i in range(5)])
    assert len(check_prototype_model(model, x)) == 6 + model.similarity.falls_with_distance
    assert model.images.shape == (len(model.prototypes), 3, 16, 16, 3)
    assert model.prototypes.nearest.min() >= 0
    assert explain(model, x, relevance=True)[0].likenesses[0].heat_map.shape == (16, 16)
    box = trained["blackbox"].model
    card = evaluate(model, bundle, black_box=box, n_images=4, n_steps=3, n_draws=1, progress=False)
    figures = card.to_dict()
    for name in ("accuracy", "agreement", "ghosting", "explanation_divergence", "auroc", "diversity"):
        assert figures[name] is not None


@pytest.mark.parametrize("method", ["protopnet", "flint", "protovae"])
def test_it_is_saved_and_loaded_without_the_users_help(method, trained, bundle, tmp_path):
    made = trained[method]
    made.save(tmp_path / "model")
    again = load(tmp_path / "model")
    x = torch.stack([bundle.test[i][0] for i in range(6)])
    assert torch.equal(again(x), made.model(x))
    assert torch.equal(again.images, made.model.images)
    assert again.provenance["method"] == METHODS[method].title
    lines = (tmp_path / "model" / "training.csv").read_text().splitlines()
    assert len(lines) == len(made.log) + 1
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"Trained with lookalike as a {METHODS[method].title}" in card


@pytest.mark.parametrize("method", list(METHODS))
def test_kmex_of_each_decides_by_its_embedding(method, trained, bundle, tmp_path):
    source = trained[method].model
    sem = convert(source, bundle.train, n_prototypes=2, progress=False)
    dim = sem.prototypes.vectors.shape[1]
    assert dim == {"blackbox": 64, "protopnet": 6, "flint": 8, "protovae": 6}[method]
    x = torch.stack([bundle.test[i][0] for i in range(12)])
    y = torch.tensor(bundle.test.labels)
    assert (sem.predict(x) == y).float().mean() > 0.9
    if not isinstance(source, LoadedClassifier):
        assert torch.equal(sem.embed(x), source.embed(x))
    sem.save(tmp_path / "kmex")
    assert torch.equal(load(tmp_path / "kmex")(x), sem(x))


def test_the_black_box_is_a_classifier_that_can_be_loaded_and_converted(trained, bundle, tmp_path):
    trained["blackbox"].save(tmp_path / "net")
    loaded = load_classifier(str(tmp_path / "net"))
    assert loaded.class_names == ["ant", "bee", "cat"]
    assert loaded.preprocessing == bundle.preprocessing
    x = torch.stack([bundle.test[i][0] for i in range(4)])
    assert torch.equal(loaded.model(x), trained["blackbox"].model.model(x))
    assert loaded.model.head.bias is None
    with pytest.raises(LookalikeError, match="holds a classifier, which has no prototypes yet: convert it first"):
        load(tmp_path / "net")


def test_pushed_prototypes_are_embeddings_of_training_images_of_their_class(trained, bundle):
    model = trained["protopnet"].model
    p = model.prototypes
    assert float(p.distances[:, 0].max()) < 1e-6
    for j, index in enumerate(p.nearest[:, 0].tolist()):
        image, label = bundle.train[index]
        assert label == int(p.labels[j])
        assert torch.allclose(model.embed(image[None])[0], p.vectors[j], atol=1e-6)


def test_the_last_phase_moves_nothing_but_the_last_layer(bundle):
    short = run("protopnet", bundle, last_layer_epochs=0).model
    full = run("protopnet", bundle).model
    assert torch.equal(short.prototypes.vectors, full.prototypes.vectors)
    assert fingerprint_tensors(short.encoder.state_dict()) == fingerprint_tensors(full.encoder.state_dict())
    assert not torch.equal(short.classifier.weight, full.classifier.weight)
    own = (short.prototypes.labels == torch.arange(3)[:, None]).float()
    assert torch.equal(short.classifier.weight.detach(), 1.5 * own - 0.5)  # as it began: +1 and −0.5


def test_warm_epochs_leave_the_backbones_weights(bundle):
    model = run("protopnet", bundle, epochs=1, warm_epochs=1, last_layer_epochs=0).model
    torch.manual_seed(0)
    started = start_from("lookalike:small-cnn", torch.zeros(2, 3, 16, 16), pretrained=False)
    assert torch.equal(model.encoder.model.backbone.network.stage1[0].weight, started.network.stage1[0].weight)


def _built(method, **options):
    torch.manual_seed(0)
    baseline = METHODS[method](hyperparameters(method, "tiny", given=TINY | OWN[method] | options))
    task = Task(["ant", "bee", "cat"], (3, 16, 16))
    model, _ = baseline.build(task, start_from("lookalike:small-cnn", task.sample(), pretrained=False))
    return baseline, model


def test_output_fidelity_does_not_reach_the_predictor():
    baseline, model = _built("flint")
    x, y = torch.randn(6, 3, 16, 16), torch.arange(6) % 3
    step = baseline.step(model, x, y)
    step.losses["output_fidelity"].backward()
    parts = baseline.parts(model)
    assert all(one.grad is None for one in parts["predictor"].parameters())
    assert all(one.grad is not None for one in parts["interpreter"].parameters())
    baseline.step(model, x, y).losses["input_fidelity"].backward()
    assert model.encoder.predictor.stage1[0].weight.grad is not None


@pytest.mark.parametrize("method", list(METHODS))
def test_every_weight_is_in_exactly_one_part(method):
    baseline, model = _built(method)
    found = [id(one) for part in baseline.parts(model).values() for one in part.parameters()]
    assert sorted(found) == sorted(id(one) for one in model.parameters())
    named = {name for phase in baseline.phases() for name in (*phase.trains, *phase.still)}
    assert named <= set(baseline.parts(model))


@pytest.mark.parametrize("method", list(METHODS))
def test_every_loss_of_a_phase_is_computed(method):
    baseline, model = _built(method)
    step = baseline.step(model, torch.randn(6, 3, 16, 16), torch.arange(6) % 3)
    assert {name for phase in baseline.phases() for name in phase.losses} == set(step.losses)
    assert step.scores.shape == (6, 3)


def test_protovae_shows_its_prototypes_decoded(trained, bundle):
    model = trained["protovae"].model
    decoded = model.decoded_prototypes()
    assert decoded.shape == (6, 16, 16, 3)
    assert decoded.dtype == torch.uint8
    converted = convert(model, bundle.train, n_prototypes=2, progress=False)
    bright = converted.decoded_prototypes().float().mean(-1)  # each shows the quarter that its class is bright in
    for j, label in enumerate(converted.prototypes.labels.tolist()):
        quarters = {0: bright[j, :8, :8], 1: bright[j, :8, 8:], 2: bright[j, 8:, :8]}
        means = {k: float(quarter.mean()) for k, quarter in quarters.items()}
        assert max(means, key=means.get) == label
    assert trained["protopnet"].model.decoded_prototypes() is None
    assert len(model.plot_gallery().images) == 12
    assert len(trained["protopnet"].model.plot_gallery().images) == 6


def test_flints_prototypes_are_shown_by_what_activates_them_most(trained, bundle):
    model = trained["flint"].model
    x = torch.stack([bundle.train[i][0] for i in range(len(bundle.train))])
    y, s = torch.tensor(bundle.train.labels), model.similarities(x)
    for j, label in enumerate(model.prototypes.labels.tolist()):
        assert float(s[int(model.prototypes.nearest[j, 0]), j]) == pytest.approx(
            float(s[y == label, j].max()), abs=1e-5
        )


def test_the_same_seed_gives_the_same_weights_and_another_one_others(trained, bundle):
    again, other = run("protovae", bundle), run("protovae", bundle, seed=1)
    first = fingerprint_tensors(trained["protovae"].model.state_dict())
    assert fingerprint_tensors(again.model.state_dict()) == first
    assert fingerprint_tensors(other.model.state_dict()) != first


def test_training_leaves_the_callers_chance_and_settings(bundle):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run("blackbox", bundle)
    assert torch.equal(torch.rand(1), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def train_and_tell(method, folder):
    def tell(row):
        print("epoch", row["epoch"], flush=True)  # noqa: T201
        if row["epoch"] == 15:
            time.sleep(600)  # until it is killed, however late that is

    run(method, make_bundle(), working_folder=folder, augment=True, epochs=16, on_epoch=tell)


@pytest.mark.parametrize(
    ("method", "seed"),
    [
        pytest.param("protopnet", 0, marks=pytest.mark.slow),
        pytest.param("protovae", 1, marks=pytest.mark.slow),
        pytest.param("flint", 2, marks=pytest.mark.slow),
        ("blackbox", 3),
    ],
)
def test_killed_at_a_random_moment_and_resumed_it_ends_with_the_same_weights(method, seed, bundle, tmp_path):
    folder = tmp_path / "working"
    process = Started(train_and_tell, method, folder)
    process.wait_for("epoch 2")  # the first is kept by then
    time.sleep(float(np.random.default_rng(seed).uniform(0, 0.6)))
    process.send_signal(signal.SIGKILL)
    process.finish()
    epochs = []
    given = {"augment": True, "epochs": 16}
    resumed = run(method, bundle, working_folder=folder, on_epoch=lambda row: epochs.append(row["epoch"]), **given)
    whole = run(method, bundle, **given)
    assert 1 < epochs[0] <= 16  # it was stopped in the middle
    assert resumed.log[-1]["epoch"] == whole.log[-1]["epoch"]
    state = lambda made: getattr(made.model, "model", made.model).state_dict()  # noqa: E731
    assert fingerprint_tensors(state(resumed)) == fingerprint_tensors(state(whole))
    strip = lambda log: [{k: v for k, v in row.items() if k != "seconds"} for row in log]  # noqa: E731
    assert strip(resumed.log) == strip(whole.log)


def test_interrupted_training_goes_on_after_the_last_finished_epoch(bundle, tmp_path):
    folder, told = tmp_path / "working", []

    def stop(row):
        told.append(row["epoch"])
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("protovae", bundle, working_folder=folder, on_epoch=stop)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    run("protovae", bundle, working_folder=folder, on_epoch=lambda row: told.append(row["epoch"]))
    assert told == [1, 2, 2, 3]  # the second was not finished


def test_a_working_folder_holds_one_training(bundle, tmp_path):
    folder = tmp_path / "working"
    run("blackbox", bundle, working_folder=folder)
    with pytest.raises(LookalikeError, match=r"unfinished training with other learning_rate \(was 0.02, now 0.5\);"):
        run("blackbox", bundle, working_folder=folder, learning_rate=0.5)
    with pytest.raises(LookalikeError, match="with other seed"):
        run("blackbox", bundle, working_folder=folder, seed=4)
    (folder / "last.ckpt").write_bytes(b"half")
    with pytest.raises(LookalikeError, match=r"last.ckpt' cannot be read .*; remove its folder to start anew"):
        run("blackbox", bundle, working_folder=folder)
    (folder / "training.json").unlink()
    with pytest.raises(LookalikeError, match="holds files, and no training"):
        run("blackbox", bundle, working_folder=folder)


def interrupted(bundle, folder, **options):
    """Leaves a training that was interrupted in its second epoch."""

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("blackbox", bundle, working_folder=folder, on_epoch=stop, **options)


def test_a_flipped_bit_in_a_kept_epoch_or_its_record_is_refused(bundle, tmp_path):
    folder = tmp_path / "working"
    interrupted(bundle, folder)
    for name in ("last.ckpt", "training.json"):
        whole = (folder / name).read_bytes()
        for position in np.linspace(1, len(whole) - 3, 5).astype(int):
            damaged = bytearray(whole)
            damaged[position] ^= 1
            (folder / name).write_bytes(damaged)
            with pytest.raises(LookalikeError, match=rf"{name}' cannot be read.*; remove its folder to start anew"):
                run("blackbox", bundle, working_folder=folder)
        (folder / name).write_bytes(whole)
    assert run("blackbox", bundle, working_folder=folder).log[-1]["epoch"] == 4


KEYED = {
    "method": {"method": "protopnet"},
    "data": {"data": make_bundle(63)},
    "preset": {"preset": "reference-code"},
    "options": {"weight_decay": 0.5},
    "seed": {"seed": 9},
    "precision": {"precision": "bf16-mixed"},
    "devices": {"devices": 2},
    "weights": {},  # see test_training_starts_from_given_weights
    "weights_key": {},
}
NOT_KEYED = {"working_folder", "num_workers", "accelerator", "n_images", "on_epoch", "progress"}


def test_another_training_is_refused_whatever_differs(bundle, tmp_path):
    parameters = set(inspect.signature(train).parameters) - {"run"} | set(get_type_hints(TrainingOptions))
    assert parameters == KEYED.keys() | NOT_KEYED
    folder, base = tmp_path / "working", {"method": "blackbox", "data": bundle}
    interrupted(bundle, folder)
    for name, change in KEYED.items():
        method, data, *_ = {**base, **change}.values()
        options = {key: value for key, value in change.items() if key not in base}
        if change:
            with pytest.raises(LookalikeError, match="holds an unfinished training with other") as told:
                run(method, data, working_folder=folder, **options)
            assert {"options": "weight_decay"}.get(name, name) in str(told.value)
    other = make_bundle()
    other.test.images[3] += 1
    with pytest.raises(LookalikeError, match="with other test;"):
        run("blackbox", other, working_folder=folder)


def test_a_second_training_in_the_folder_is_refused(bundle, tmp_path):
    refused = []

    def second():
        try:
            run("blackbox", bundle, working_folder=tmp_path / "working")
        except LookalikeError as error:
            refused.append(str(error))

    with alone(lock_in(tmp_path / "working")):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "working' is in use by another thread of this process" in refused[0]


def train_on_a_full_disk(folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000))  # bytes a file
    try:
        run("blackbox", make_bundle(), working_folder=folder)
    except LookalikeError as error:
        print(error, flush=True)  # noqa: T201


def test_a_full_disk_stops_a_training_in_one_line(bundle, tmp_path):
    printed = Started(train_on_a_full_disk, tmp_path / "working").finish()
    expected = "working': File too large; the epochs before are safe: make room, and run the same command again"
    assert printed.strip().endswith(expected)
    assert run("blackbox", bundle, working_folder=tmp_path / "working").log[-1]["epoch"] == 4


def test_a_loss_that_is_not_finite_stops_the_training(bundle):
    with pytest.raises(LookalikeError, match=r"the loss is not finite in epoch \d .*try a smaller learning rate"):
        run("blackbox", bundle, learning_rate=1e30, epochs=3)


def test_what_cannot_be_trained_on_is_named(bundle):
    empty = DataBundle("x", bundle.train, bundle.test, [*bundle.class_names, "dog"], bundle.preprocessing)
    with pytest.raises(LookalikeError, match="class 'dog' has no training images"):
        run("blackbox", empty)
    none = ImageArray(np.zeros((0, 4, 4), np.uint8), np.zeros(0, np.int64), ["a"], bundle.preprocessing)
    with pytest.raises(LookalikeError, match="there are no training images"):
        run("blackbox", DataBundle("x", none, none, ["a"], bundle.preprocessing))
    with pytest.raises(LookalikeError, match="no method is called 'protonet'; did you mean 'protopnet'"):
        train("protonet", bundle)


def test_published_weights_that_cannot_be_had_are_said_aloud(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.warns(LookalikeWarning, match="torchvision:squeezenet1_1 is trained from scratch"):
        start = start_from("torchvision:squeezenet1_1", torch.zeros(2, 3, 32, 32), pretrained=True)
    assert start.head == "classifier.1"


def test_training_starts_from_given_weights(trained, bundle, tmp_path):
    box = trained["blackbox"].model
    path = tmp_path / "net.pth"
    torch.save({name: value for name, value in box.model.state_dict().items() if name != "stage1.0.weight"}, path)
    with pytest.raises(LookalikeError, match=r"do not fit the SmallCNN: missing: stage1\.0\.weight"):
        run("blackbox", bundle, weights=path)
    other = start_from("lookalike:small-cnn", torch.zeros(2, 3, 16, 16), pretrained=False).network
    torch.save(other.state_dict(), path)
    start = start_from("lookalike:small-cnn", torch.zeros(2, 3, 16, 16), pretrained=True, weights=path)
    assert torch.equal(start.network.stage1[0].weight, other.stage1[0].weight)
    made = run("blackbox", bundle, weights=path, epochs=1)
    assert made.provenance["weights"] == "net.pth"


def test_without_test_images_nothing_is_tested(bundle):
    none = ImageArray(bundle.test.images[:0], bundle.test.labels[:0], bundle.class_names, bundle.preprocessing)
    made = run("blackbox", DataBundle("x", bundle.train, none, bundle.class_names, bundle.preprocessing))
    assert made.log[-1]["test_accuracy"] is None


def test_mixed_precision(bundle):
    made = run("blackbox", bundle, precision="bf16-mixed")
    assert made.log[-1]["test_accuracy"] > 0.6
    assert made.model.model.head.weight.dtype == torch.float32


@pytest.mark.slow
def test_two_devices_give_one_model(image_folder, tmp_path):
    fast = ["--network", "lookalike:small-cnn", "--set", "image_size=16", "--epochs", "2", "--device", "cpu", "--json"]
    command = [sys.executable, "-m", "lookalike", "train", "blackbox", "-d", str(image_folder), *fast]
    done = subprocess.run([*command, "-o", str(tmp_path / "net"), "--devices", "2"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    log = json.loads(done.stdout)["log"]  # one process speaks
    assert [row["epoch"] for row in log] == [1, 2]
    assert log[1]["train_accuracy"] * 24 == pytest.approx(round(log[1]["train_accuracy"] * 24))  # of all 24 images
    assert load_classifier(str(tmp_path / "net")).class_names == ["ant", "bee", "cat"]


def test_an_error_in_the_middle_is_told_as_it_is(bundle, tmp_path):
    def fail(row):
        if row["epoch"] == 2:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run("blackbox", bundle, working_folder=tmp_path / "working", on_epoch=fail)


@pytest.mark.parametrize("n", [33, 1])
def test_a_last_batch_of_one_image(n):
    """Batch norm on a single position cannot normalise over one image: torch raised its own error."""
    from torch import nn

    from lookalike.baselines.loop import fit

    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 3))
    options = hyperparameters("blackbox", "tiny", given=TINY | {"epochs": 1})
    baseline = METHODS["blackbox"](options)
    hardware, rows = Hardware(accelerator="cpu"), {"seed": 0, "folder": None}
    if n == 1:
        with pytest.raises(LookalikeError, match="this batch has one image"):
            fit(baseline, network, make_bundle(1), hardware, **rows, on_epoch=None, progress=False)
        return
    (row,) = fit(baseline, network, make_bundle(n), hardware, **rows, on_epoch=None, progress=False)
    assert row["train_accuracy"] * 32 == pytest.approx(round(row["train_accuracy"] * 32))
