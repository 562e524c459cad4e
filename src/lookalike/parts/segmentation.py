"""Segmentation: the concept of each position of an image."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.extent import WHOLE, Extent, cells_of_image
from lookalike._core.untouched import keeps_torch_settings
from lookalike.encoder import dtype_of, place
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.encoder.finite import check_finite_rows
from lookalike.encoder.patches import PatchEncoder
from lookalike.model import PrototypeModel
from lookalike.model.decision import PatchDecision
from lookalike.parts.per_image import drawable, one_size

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Segments:
    """The concepts in some images.

    Attributes:
        concepts: The most similar prototype of each position [N, h, w].
        classes: The class that each position alone would decide for [N, h, w].
        similarities: Similarity of each position to its prototype [N, h, w].
        probabilities: Class probabilities of each position alone [N, h, w, K].
        image_size: Height and width of the images.
        images: The images as the network sees them, uint8 [N, H, W, C]; None if the model does not know their range.
        class_names: Names of the K classes.
        labels: Classes of the prototypes [P].
        extent: The part of the images that the cells of the grid cover, see ``PatchEncoder.extent``.
    """

    concepts: Tensor
    classes: Tensor
    similarities: Tensor
    probabilities: Tensor
    image_size: tuple[int, int]
    images: Tensor | None
    class_names: list[str]
    labels: Tensor
    extent: Extent = WHOLE

    def upsampled(self) -> Tensor:
        """Returns the concepts at the size of the images [N, H, W].

        Each pixel gets the concept of its cell of the grid: no border is drawn finer than the network knows it. Pixels
        outside of ``extent`` have −1.
        """
        height, width = self.concepts.shape[1:]
        cells = torch.from_numpy(cells_of_image((height, width), self.image_size, self.extent))
        return self.concepts.flatten(1)[:, cells].where(cells >= 0, -1)

    def of_image(self, row: int) -> "Segments":
        """Returns the concepts of one image, as a result for one image."""
        row = checks.whole_number("row", row, 0, len(self.concepts) - 1)
        rows = slice(row, row + 1)
        names = ("concepts", "classes", "similarities", "probabilities")
        return replace(
            self,
            **{name: getattr(self, name)[rows] for name in names},
            images=None if self.images is None else self.images[rows],
        )

    def shares(self) -> Tensor:
        """Returns which share of each image each prototype covers [N, P]."""
        n_prototypes = len(self.labels)
        return nn.functional.one_hot(self.concepts.flatten(1), n_prototypes).double().mean(1)

    def plot(self, row: int = 0, ax: "Axes | None" = None) -> "Axes":
        """Draws an image beside its concepts, with a legend of their classes and shares.

        Raises:
            LookalikeError: If the model does not know the value range of its images.
        """
        from lookalike.plots import plot_segments

        images = drawable(self.images)
        row = checks.whole_number("row", row, 0, len(self.concepts) - 1)
        numbers = self.concepts[row].unique().tolist()
        captions = {j: f"{j}: {self.class_names[int(self.labels[j])]}" for j in numbers}
        concepts = self.concepts[row].numpy()
        return plot_segments(images[row].numpy(), concepts, captions, covered=self.extent, ax=ax)


@keeps_torch_settings
@torch.no_grad()
def segment(model: PrototypeModel, inputs: Any, batch_size: int = 64) -> Segments:
    """Finds the most similar prototype of each position.

    Args:
        model: A model of patches.
        inputs: Images, as for ``PrototypeModel.predict``.
        batch_size: Most images that pass through the network at once.

    Raises:
        LookalikeError: If the model is one of whole images, or a feature is not finite.
    """
    encoder, decision = patch_parts(model)
    labels, fields = model.prototypes.labels, ("concepts", "classes", "similarities", "probabilities")
    results: dict[str, list[Tensor]] = {name: [] for name in fields}
    pixels: list[Tensor | None] = []
    sizes: set[tuple[int, int]] = set()  # the model takes images of any size that gives its positions
    first = 0
    for x in batches_of(model, inputs, batch_size):
        evidence = finite_evidence(model, x, first)
        first += len(x)
        similarities, concepts = evidence.max(2)
        probabilities = decision.patch_probabilities(evidence, labels, model.n_classes)
        scores = decision.patch_scores(evidence, labels, model.n_classes)
        values = (concepts, scores.argmax(2), similarities, probabilities)
        for name, value in zip(fields, values, strict=True):
            results[name].append(value.unflatten(1, encoder.grid).cpu())
        pixels.append(model.to_pixels(x))
        sizes.add((x.shape[2], x.shape[3]))
    image_size = one_size(sizes)
    pixel_batches = [batch for batch in pixels if batch is not None]
    return Segments(
        **{name: torch.cat(values) for name, values in results.items()},
        image_size=image_size,
        images=torch.cat(pixel_batches) if len(pixel_batches) == len(pixels) else None,
        class_names=model.class_names,
        labels=labels.cpu(),
        extent=encoder.extent,
    )


def patch_parts(model: PrototypeModel) -> tuple[PatchEncoder, PatchDecision]:
    """Returns the encoder and the classifier of a model of patches.

    Raises:
        LookalikeError: If the model is one of whole images.
    """
    checks.instance("model", model, PrototypeModel, "a PrototypeModel")
    if not isinstance(model.encoder, PatchEncoder) or not isinstance(model.classifier, PatchDecision):
        raise LookalikeError("the model's prototypes are whole images: convert with level='patch' for concepts")
    return model.encoder, model.classifier


def batches_of(model: PrototypeModel, inputs: Any, batch_size: int) -> Iterator[Tensor]:
    """Yields images in batches, on the model's device.

    Raises:
        LookalikeError: If an input is no image, or there are none.
    """
    batch_size = checks.whole_number("batch_size", batch_size, 1)
    is_empty = True
    for batch in model.read_inputs(inputs, batch_size):
        for start in range(0, n_rows(batch.inputs), batch_size):
            x = place(take_rows(batch.inputs, slice(start, start + batch_size)), model.device, dtype_of(model.encoder))
            if not isinstance(x, Tensor) or x.ndim != 4:
                raise LookalikeError("parts are parts of images: images [N, C, H, W] are needed")
            is_empty = False
            yield x
    if is_empty:
        raise LookalikeError("there are no images to explain")


def finite_evidence(model: PrototypeModel, x: Tensor, first: int) -> Tensor:
    """Returns the similarities of each patch [n, S, P]; ``first`` is the number of the first image, for messages."""
    embeddings = model.encoder(x)
    check_finite_rows(embeddings.isfinite().all(1), first=first)
    return model.evidence_of(embeddings)
