"""What a training step, an epoch and a push do, against loops: which term goes by which name, what changes by epoch."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from lookalike.baselines import METHODS, Task, hyperparameters, train
from lookalike.baselines.protopnet import push
from lookalike.baselines.start import start_from
from lookalike.data import DataBundle, ImageArray, Preprocessing

NAMES = ["ant", "bee", "cat"]
GIVEN = {"network": "lookalike:small-cnn", "n_prototypes": 2, "epochs": 4, "batch_size": 8, "learning_rate": 0.01}


def built(method):
    torch.manual_seed(0)
    baseline = METHODS[method](hyperparameters(method, "tiny", given=GIVEN | {"embedding_dim": 6}))
    task = Task(NAMES, (3, 16, 16))
    model, _ = baseline.build(task, start_from("lookalike:small-cnn", task.sample(), pretrained=False))
    return baseline, model.eval()


@pytest.fixture
def batch():
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(3)), torch.tensor([0, 2, 1, 1, 0])


def entropy(p):
    return -(p * p.log()).sum(-1)


def test_protopnets_terms_go_by_squared_distances(batch):
    baseline, model = built("protopnet")
    x, y = batch
    losses = baseline.step(model, x, y).losses
    z, p, owners = model.embed(x), model.prototypes.vectors.detach(), model.prototypes.labels
    squared = torch.stack([((one - p) ** 2).sum(1) for one in z])
    own = [min(float(squared[i, j]) for j in range(6) if owners[j] == y[i]) for i in range(5)]
    other = [min(float(squared[i, j]) for j in range(6) if owners[j] != y[i]) for i in range(5)]
    assert losses["clustering"].item() == pytest.approx(np.mean(own), rel=1e-4)
    assert float(losses["separation"]) == pytest.approx(-np.mean(other), rel=1e-4)
    log_p = model(x).detach().log_softmax(1)
    assert float(losses["cross_entropy"]) == pytest.approx(-float(log_p[torch.arange(5), y].mean()), rel=1e-4)
    weight = model.classifier.weight.detach()
    off = sum(abs(float(weight[k, j])) for k in range(3) for j in range(6) if owners[j] != k)
    assert float(losses["sparsity"]) == pytest.approx(off, rel=1e-4)


def test_flints_terms_go_by_their_names(batch):
    baseline, model = built("flint")
    x, y = batch
    losses = {name: float(term.detach()) for name, term in baseline.step(model, x, y).losses.items()}
    predicted = model.encoder.predict(x)[0].detach()
    phi = model.similarities(x).clamp_min(0)
    interpreted = model(x).detach()
    expected = {
        "cross_entropy": -predicted.log_softmax(1)[torch.arange(5), y].mean(),
        "input_fidelity": (model.encoder.reconstruct(phi).detach() - x).square().mean(),
        "output_fidelity": -(predicted.softmax(1) * interpreted.log_softmax(1)).sum(1).mean(),
        "conciseness": phi.mean(),
        "entropy": entropy(phi.softmax(1)).mean(),
        "diversity": -entropy(phi.mean(0).softmax(0)),
    }
    assert losses == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-3)
    assert len({round(value, 4) for value in losses.values()}) == len(losses)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "blackbox"])
def test_each_term_has_its_own_weight(method):
    names = {name for phase in built(method)[0].phases() for name in phase.losses}
    weights = {name: 0.1 * (i + 1) for i, name in enumerate(sorted(names))}
    for phase in METHODS[method](hyperparameters(method, "tiny", given=GIVEN | weights)).phases():
        assert phase.losses == pytest.approx({name: weights[name] for name in phase.losses})


def test_a_push_moves_each_prototype_onto_the_nearest_embedding_of_its_class():
    generator = torch.Generator().manual_seed(0)
    z, y = torch.randn(30, 4, generator=generator), torch.arange(30) % 3
    p, owners = torch.randn(6, 4, generator=generator), torch.tensor([0, 0, 1, 1, 2, 2])
    before = p.clone()
    push(p, owners, z, y)
    for j, label in enumerate(owners):
        own = z[y == label]
        assert torch.equal(p[j], own[(own - before[j]).norm(dim=1).argmin()])


class Watched(ImageArray):
    """Images that remember in which order they were asked for."""

    asked: ClassVar[list[int]] = []

    def __getitem__(self, index):
        self.asked.append(int(index))
        return super().__getitem__(index)


def seen_in_training(seed=0, augment=True):
    """Trains a black box for two epochs; returns the order of the images, and what the network saw, by epoch."""
    rng = np.random.default_rng(0)
    preprocessing = Preprocessing(None, (16, 16), (0.3,) * 3, (0.2,) * 3)
    images, labels = rng.integers(0, 255, (12, 16, 16), dtype=np.uint8), np.arange(12) % 3
    watched = Watched(images, labels, NAMES, preprocessing)
    none = ImageArray(images[:0], labels[:0], NAMES, preprocessing)
    watched.asked, saw, epochs = [], [], []

    def look(module, inputs):
        if isinstance(module, nn.Conv2d) and module.training and inputs[0].shape[1:] == (3, 16, 16):
            saw.extend(inputs[0].detach().clone())

    def end(_row):
        epochs.append((watched.asked[-12:], saw.copy()))
        saw.clear()

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        options = GIVEN | {"epochs": 2, "batch_size": 4, "augment": augment}
        data = DataBundle("tiny", watched, none, NAMES, preprocessing)
        train("blackbox", data, options=options, seed=seed, accelerator="cpu", on_epoch=end, progress=False)
    finally:
        handle.remove()
    return epochs


def test_each_epoch_has_an_order_and_an_augmentation_of_its_own():
    (first, saw_first), (second, saw_second) = seen_in_training()
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    by_image = [dict(zip(order, saw, strict=True)) for order, saw in ((first, saw_first), (second, saw_second))]
    same = [torch.equal(by_image[0][i], by_image[1][i]) for i in range(12)]
    assert sum(same) < 6
    (again, _), _ = seen_in_training()
    (other, _), _ = seen_in_training(seed=1)
    assert again == first != other


def test_images_of_an_epoch_are_augmented_differently():
    """Flips and crops: of twelve images not all take the same one, and without augmentation none does."""
    augmented, plain = (seen_in_training(augment=augment)[0] for augment in (True, False))
    originals = dict(zip(*plain, strict=True))
    changes = set()
    for index, image in zip(*augmented, strict=True):
        for flip in (False, True):
            whole = nn.functional.pad(originals[index].flip(-1) if flip else originals[index], (2, 2, 2, 2), value=-1.5)
            for top in range(5):
                for left in range(5):
                    if torch.allclose(whole[:, top : top + 16, left : left + 16], image, atol=1e-5):
                        changes.add((flip, top, left))
    assert len(changes) > 6
    assert {flip for flip, _, _ in changes} == {False, True}
