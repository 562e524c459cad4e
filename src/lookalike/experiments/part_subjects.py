"""What the experiments on parts study: a trained classifier, its data, and where the objects are in the images.

On most data sets it is a black box of the workbench, trained here. On photographs it is an encoder with ImageNet
weights that is not trained further, so nothing there has the classes of the data but the prototype models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lookalike._core.identity import identifying_as
from lookalike.conversion.convert import convert
from lookalike.data import DataBundle, MaskedFiles
from lookalike.data.closeups import load_closeups
from lookalike.encoder import LoadedClassifier
from lookalike.experiments.cells import Record
from lookalike.experiments.experiment import Plan, table_names
from lookalike.experiments.photographs import ENCODERS, encoder_of_whole_pictures, prepared
from lookalike.experiments.prp_rules import foreground, no_plain_background
from lookalike.experiments.workbench import KMEX, Subject, Workbench
from lookalike.model import PrototypeModel

PHOTOGRAPHS = ("stamps", "closeups")  # data sets of photographs, too few to train a network on
MOST_PATCHES = 1_000  # of a class that are clustered
_PER_CLASS, _PER_CLASS_OF_PHOTOGRAPHS = 5, 3  # few pictures per class want few prototypes: docs/results/photographs.md


@dataclass(frozen=True)
class PartSubject:
    """A trained classifier and its data.

    Attributes:
        dataset: Name of the data set.
        network: Name of the network.
        seed: Seed of the split or the training, and of the conversion.
        classifier: The trained classifier, or an encoder with the outputs of other data.
        bundle: Training and test images.
        key: What a measurement of it depends on.
    """

    dataset: str
    network: str
    seed: int
    classifier: LoadedClassifier
    bundle: DataBundle
    key: Record

    @property
    def name(self) -> str:
        """A name for files."""
        return f"{self.dataset}-{self.network}-seed{self.seed}"

    @property
    def is_trained(self) -> bool:
        """Whether the classifier's outputs are the classes of the data."""
        return self.dataset not in PHOTOGRAPHS

    @property
    def per_class(self) -> int:
        """Number of prototypes per class."""
        return _PER_CLASS if self.is_trained else _PER_CLASS_OF_PHOTOGRAPHS

    def test_images(self, at_most: int) -> Tensor:
        """Returns evenly spaced test images [n, C, H, W], so that all classes are among them if sorted by class."""
        return torch.stack([self.bundle.test[int(row)][0] for row in self._rows(at_most)])

    def object_masks(self, model: PrototypeModel, x: Tensor) -> Tensor:
        """Returns which pixels of the test images belong to an object [n, H, W]: masks, or what is no background."""
        test = self.bundle.test
        if isinstance(test, MaskedFiles):
            return torch.stack([test.mask(int(row)) for row in self._rows(len(x))])
        pixels = model.to_pixels(x)
        assert pixels is not None  # data sets of images alone are suited
        return foreground(pixels)

    def convert(self, options: dict[str, Any], seed: int | None = None) -> PrototypeModel:
        """Converts the classifier; a number of shared prototypes is as many as of all classes together."""
        seed = self.seed if seed is None else seed
        if options.get("level") == "head":
            return convert(self.classifier, self.bundle.train, **options, progress=False)
        number = self.per_class * (len(self.bundle.class_names) if options.get("shared") else 1)
        return convert(self.classifier, self.bundle.train, number, **plain_options(options), seed=seed, progress=False)

    def _rows(self, at_most: int) -> np.ndarray:
        n = len(self.bundle.test)
        return np.linspace(0, n - 1, min(at_most, n)).astype(int)


def plain_options(options: dict[str, Any]) -> dict[str, Any]:
    """Adds the largest number of patches to cluster, and a temperature, to the options of a model of patches.

    To fit the temperature takes longer than all else, and changes no prediction and no concept.
    """
    is_of_patches = options.get("level") == "patch"
    return options | ({"max_patches": MOST_PATCHES, "temperature": 1.0} if is_of_patches else {})


def subjects_of(
    plan: Plan, bench: Workbench, encoders: Sequence[str] = tuple(ENCODERS)
) -> Iterator[tuple[tuple[str, str], list[PartSubject]]]:
    """Yields each data set and network of a plan, by their names in tables, with one subject per seed.

    Args:
        plan: Data sets, networks and seeds.
        bench: Trains the networks.
        encoders: Encoders of photographs, in place of the plan's networks.
    """
    for dataset in plan.datasets:
        if dataset in PHOTOGRAPHS:
            for network in encoders:
                yield (dataset, network), [_of_photographs(dataset, network, seed) for seed in plan.seeds]
            continue
        for network in plan.networks:
            yield table_names(dataset, network), [_trained(dataset, network, seed, bench) for seed in plan.seeds]


def lacks_objects(bundle: DataBundle) -> str | None:
    """Returns why a data set cannot be measured: its objects are not known, or its pictures too few; None if it can."""
    if isinstance(bundle.test, MaskedFiles):
        return None
    if bundle.name in PHOTOGRAPHS:
        return f"{bundle.name!r} has no masks of objects, and too few pictures to measure"
    return no_plain_background(bundle)


def _trained(dataset: str, network: str, seed: int, bench: Workbench) -> PartSubject:
    subject = Subject(dataset, network, KMEX, seed)
    names = table_names(dataset, network)
    key = bench.key(subject, most=MOST_PATCHES)
    return PartSubject(*names, seed, bench.black_box(subject), bench.data(subject), key)


def _of_photographs(dataset: str, network: str, seed: int) -> PartSubject:
    loaded, bundle = prepared_photographs(dataset, network, seed)
    with identifying_as("sha256"):  # as the workbench does, so that kept results are found again
        fingerprint = bundle.fingerprint()
    key = {"data": fingerprint, "encoder": network, "seed": seed, "most": MOST_PATCHES}
    return PartSubject(dataset, network, seed, loaded, bundle, key)


@cache
def prepared_photographs(dataset: str, network: str, seed: int) -> tuple[LoadedClassifier, DataBundle]:
    """Loads an encoder, and photographs as it takes them, each fitted whole into its input."""
    if dataset == "closeups":
        loaded = encoder_of_whole_pictures(network)
        return loaded, load_closeups(loaded.preprocessing)
    return prepared(network, seed)
