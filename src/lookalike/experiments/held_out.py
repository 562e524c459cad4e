"""Held-out images of an experiment, embedded once and divided many times into calibration and test."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike.conversion.convert import convert
from lookalike.data import Batches, DataBundle, load_data
from lookalike.embedding import EmbeddingStore, embed
from lookalike.encoder import Encoder
from lookalike.experiments.experiment import Plan
from lookalike.experiments.photographs import ENCODERS
from lookalike.experiments.workbench import Subject, Workbench, network_name
from lookalike.model import PrototypeModel
from lookalike.model.calibrating import Validation, read_validation

PHOTOGRAPHS = "stamps"  # too few to train a network: frozen ones are used, and converted anew for each division
_FROZEN = "frozen:"  # before an encoder's name, in place of a network's spec
N_SPLITS, QUICK_SPLITS = 100, 10
_TRAIN_SHARE = 0.35  # of the photographs; the others are divided into calibration and test


def places_of(plan: Plan) -> list[tuple[str, str]]:
    """Returns every pair of a data set and a network; the photographs have the encoders in place of networks."""
    pairs = [
        (dataset, f"{_FROZEN}{name}") if dataset == PHOTOGRAPHS else (dataset, network)
        for dataset, network in plan.places()
        for name in (ENCODERS if dataset == PHOTOGRAPHS else ("",))
    ]
    return list(dict.fromkeys(pairs))


class LinearHead(NamedTuple):
    """A linear classifier on embeddings.

    Attributes:
        weight: [C, D].
        bias: [C].
    """

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns the scores [N, C] of embeddings [N, D]."""
        scores: np.ndarray = embeddings.astype(np.float64) @ self.weight.T + self.bias
        return scores


class Division(NamedTuple):
    """One division of the held-out images.

    Attributes:
        model: The prototype model, not calibrated.
        calibration: Images to calibrate it with.
        test: Other images.
    """

    model: PrototypeModel
    calibration: Validation
    test: Validation


@dataclass(frozen=True)
class HeldOut:
    """A model's held-out images.

    Attributes:
        model: The prototype model; None if each division converts its own.
        encoder: Its encoder.
        images: The held-out images, embedded.
        train: Embeddings [n, D] that the model was converted from; None if each division has its own.
        train_labels: Their classes [n].
        class_names: The names of the classes.
        data: The data.
    """

    model: PrototypeModel | None
    encoder: Encoder
    images: Validation
    train: np.ndarray | None
    train_labels: np.ndarray | None
    class_names: list[str]
    data: DataBundle

    def divisions(self, n: int, share: float, seed_of_all: int = 0, *, probed: bool = False) -> Iterator[Division]:
        """Yields random divisions with a share of calibration images, each with its own seed.

        Args:
            n: Number of divisions.
            share: Share of the images that is for calibration.
            seed_of_all: Seed of all divisions.
            probed: Where each division converts its own model, fit a logistic regression too, for its probabilities.
        """
        for seed in range(n):
            order = np.random.default_rng([seed_of_all, seed, 0xD0]).permutation(len(self.images.labels))
            model, images = self.model, self.images
            if model is None:
                train = self.of_each_class(order, _TRAIN_SHARE)
                order = order[~np.isin(order, train)]
                model = self.converted(train, seed)
                if probed:
                    images = images._replace(logits=self.probe(train).logits(images.embeddings.numpy()))
            calibration, test = np.split(order, [round(share * len(order))])
            yield Division(model, rows_of(images, calibration), rows_of(images, test))

    def of_each_class(self, order: np.ndarray, share: float) -> np.ndarray:
        """Returns the first rows of each class in an order, a share of the class and at least two."""
        labels = self.images.labels[order]
        rows = [order[labels == k] for k in np.unique(labels)]
        return np.concatenate([of_class[: max(2, round(share * len(of_class)))] for of_class in rows])

    def converted(self, rows: np.ndarray, seed: int) -> PrototypeModel:
        """Converts the frozen network on some of the images."""
        labels = self.images.labels[rows]
        names = self.class_names[: int(labels.max()) + 1]
        store = EmbeddingStore(self.images.embeddings[rows].numpy(), labels, rows, class_names=names)
        model: PrototypeModel = convert(self.encoder, store, n_prototypes=2, seed=seed, progress=False)
        return model

    def probe(self, rows: np.ndarray) -> LinearHead:
        """Fits a logistic regression to some of the images, standardised: what a frozen network is usually given."""
        from sklearn.linear_model import LogisticRegression

        z = self.images.embeddings[torch.from_numpy(rows)].double().numpy()
        centre, spread = z.mean(0), np.maximum(z.std(0), 1e-6 * z.std())
        fitted = LogisticRegression(max_iter=2000).fit((z - centre) / spread, self.images.labels[rows])
        weight = fitted.coef_ / spread
        return LinearHead(weight, fitted.intercept_ - weight @ centre)


def rows_of(images: Validation, rows: np.ndarray) -> Validation:
    """Returns some of the images."""
    logits = None if images.logits is None else images.logits[rows]
    return Validation(images.embeddings[torch.from_numpy(rows)], images.labels[rows], logits, None)


def held_out(bench: Workbench, subject: Subject) -> HeldOut:
    """Returns a subject's held-out images: the test images, or all photographs."""
    data = bench.data(subject)
    if subject.dataset == PHOTOGRAPHS:
        return _photographs(network_name(subject.network))
    model = bench.model(subject)
    images = read_validation(model, Batches(data.test), 256)
    train = embed(model, Batches(data.train), precision="float32", progress=False)
    assert isinstance(model.encoder, Encoder)  # the workbench's models are cut classifiers
    return HeldOut(model, model.encoder, images, train.embeddings, train.labels, model.class_names, data)


@cache  # the embeddings are the same for all seeds
def _photographs(name: str) -> HeldOut:
    """Embeds all photographs with a frozen encoder."""
    loaded = ENCODERS[name]()
    data = load_data(PHOTOGRAPHS, loaded.preprocessing)
    batches = [Batches(part, 32) for part in (data.train, data.test)]
    encoder = Encoder(loaded.model, next(iter(batches[0])).inputs, head=loaded.head, spec=loaded.spec)
    stores = [embed(encoder, part, precision="float32", progress=False) for part in batches]
    embeddings = torch.from_numpy(np.concatenate([store.embeddings for store in stores]))
    labels = np.concatenate([store.labels for store in stores])
    return HeldOut(None, encoder, Validation(embeddings, labels, None, None), None, None, data.class_names, data)


def head_of(encoder: Encoder) -> LinearHead:
    """Returns the classifier's linear head.

    Raises:
        LookalikeError: If the head is no linear layer.
    """
    layer: Any = encoder.model.get_submodule(encoder.head_name or "")
    if not isinstance(layer, torch.nn.Linear):
        raise LookalikeError(f"the head is a {type(layer).__name__}, not a linear layer")
    weight: Tensor = layer.weight.detach().double().cpu()
    bias = torch.zeros(len(weight), dtype=torch.float64) if layer.bias is None else layer.bias.detach().double().cpu()
    return LinearHead(weight.numpy(), bias.numpy())
