"""KMEx on patches: prototypes are parts of images, and the parts of an image vote for its class (paper, appendix A.7).

Each position of the last feature map before average pooling is a patch. The patches of each class are clustered. A
patch gets the class of its most similar prototype, and an image the class of most of its patches.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import FunctionMode, keeps_torch_settings
from lookalike.encoder import Encoder, device_of, dtype_of, place
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.encoder.finite import check_finite_rows
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class PatchEncoder(nn.Module):
    """Returns patches: the positions of the last feature map before a classifier's average pooling.

    The map is found while the classifier runs: it is the input of the last operation before the head that averages a
    map over its positions. No layer has to be named, and the classifier is not changed.

    Args:
        encoder: The classifier, cut at its head.
        sample: Inputs to run through it.

    Attributes:
        encoder: The same encoder.
        grid: Height and width of the map (H, W).
        embedding_dim: D, the number of channels of the map.

    Raises:
        LookalikeError: If nothing is pooled before the head, or the map is 1×1.
    """

    def __init__(self, encoder: Encoder, sample: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.training = False
        with torch.no_grad():
            feature_maps = self.maps(place(take_rows(sample, slice(0, 2)), device_of(encoder), dtype_of(encoder)))
        self.embedding_dim, height, width = feature_maps.shape[1:]
        self.grid = (height, width)

    def maps(self, inputs: Tensor) -> Tensor:
        """Returns feature maps [N, D, H, W]; differentiable.

        Raises:
            LookalikeError: If there is no map.
        """
        with _Pooled() as pooled:
            features = self.encoder.features(inputs)
        feature_maps = features if features.ndim == 4 else pooled.map
        if feature_maps is None or feature_maps.shape[2] * feature_maps.shape[3] == 1:
            raise LookalikeError(
                "the network has no feature map larger than 1×1 that is averaged before its head, and so no patches "
                "(larger images make larger maps)"
            )
        return feature_maps

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the embeddings of all patches [N · H · W, D], image by image and row by row."""
        return self.maps(inputs).flatten(2).transpose(1, 2).flatten(0, 1)

    def train(self, mode: bool = True) -> "PatchEncoder":  # noqa: ARG002
        """Does nothing, as for an ``Encoder``."""
        return self


class _Pooled(FunctionMode):
    """Records the input of the last operation that averages a feature map over its positions."""

    def __init__(self) -> None:
        super().__init__()
        self.map: Tensor | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            for leaf in tree_leaves(args):
                if isinstance(leaf, Tensor) and _is_pooled(leaf, result):
                    self.map = leaf
        return result


def _is_pooled(before: Tensor, after: Tensor) -> bool:
    """Returns whether the second tensor is the average of a feature map [N, D, H, W] over its positions."""
    if before.ndim != 4 or before.shape[2] * before.shape[3] == 1 or after.ndim not in (2, 4):
        return False
    if after.shape[:2] != before.shape[:2] or after.numel() != before.shape[0] * before.shape[1]:
        return False
    return torch.allclose(after.flatten(1), before.mean((2, 3)), rtol=1e-3, atol=1e-5, equal_nan=True)


class PatchModel(nn.Module):
    """A classifier in which each patch of an image votes for the class of its most similar prototype.

    Args:
        encoder: Turns images into patches.
        prototypes: Prototypes of patches.
        similarity: Compares patches with prototypes.
        places: Nearest training patches of each prototype [P, M, 3]: sample, row, column; −1 where there are fewer.
        images: Training images of these patches, uint8 [P, M, H, W, C]; None without images.
        provenance: Options, seeds and versions.
        temperature: A patch's similarities are divided by it before they become probabilities.
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        prototypes: Prototypes,
        similarity: Similarity,
        places: Tensor,
        images: Tensor | None = None,
        provenance: Mapping[str, Any] | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        checks.instance("encoder", encoder, PatchEncoder, "a PatchEncoder")
        checks.instance("prototypes", prototypes, Prototypes, "Prototypes")
        checks.instance("similarity", similarity, Similarity, "a Similarity")
        places = checks.tensor("places", places, (len(prototypes), "M", 3), kind="whole")
        if images is not None:
            images = checks.tensor("images", images, (*places.shape[:2], "H", "W", "C"), kind="whole")
        checks.optional(checks.mapping, "provenance", provenance)
        device = device_of(encoder)
        self.encoder = encoder
        self.prototypes = prototypes.to(device)
        self.similarity = similarity.to(device)
        self.places = places
        self.images = images
        self.provenance = dict(provenance or {})
        self.temperature = checks.number("temperature", temperature, above=0)
        self.training = False

    @property
    def class_names(self) -> list[str]:
        """The names of the K classes."""
        return self.prototypes.class_names

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the share of an image's patches that vote for each class [N, K]."""
        return self._votes(inputs)[0]

    @keeps_torch_settings
    @torch.no_grad()
    def predict_patches(self, inputs: Tensor, batch_size: int = 64) -> Tensor:
        """Returns the class of each patch [N, H, W]."""
        predictions = [self._class_similarities(rows, start)[1] for start, rows in self._batches(inputs, batch_size)]
        classes: Tensor = torch.cat(predictions).unflatten(1, self.encoder.grid)
        return classes

    @keeps_torch_settings
    @torch.no_grad()
    def patch_probabilities(self, inputs: Tensor, batch_size: int = 64) -> Tensor:
        """Returns the class probabilities of each patch [N, H, W, K]; the shares of votes of ``forward`` are none."""
        similarities = [self._class_similarities(rows, start)[0] for start, rows in self._batches(inputs, batch_size)]
        probabilities: Tensor = (torch.cat(similarities) / self.temperature).softmax(2).unflatten(1, self.encoder.grid)
        return probabilities

    @keeps_torch_settings
    @torch.no_grad()
    def predict(self, inputs: Tensor, batch_size: int = 64) -> Tensor:
        """Returns the classes [N] with the most votes [paper]; ties go to the class most similar to them [ours]."""
        predictions = []
        for start, rows in self._batches(inputs, batch_size):
            shares, mean_similarities = self._votes(rows, start)
            tied = shares >= shares.amax(1, keepdim=True) - 1e-6
            predictions.append(torch.where(tied, mean_similarities, -torch.inf).argmax(1))
        return torch.cat(predictions)

    def boxes(self) -> np.ndarray:
        """Returns the positions of the nearest patches in their images, as shares of height and width [P, M, 4].

        The four numbers are top, left, bottom and right of the cell of the feature map's grid. The network's receptive
        field at that position is larger than the cell [ours].
        """
        rows, columns = self.encoder.grid
        top, left = self.places[..., 1] / rows, self.places[..., 2] / columns
        return torch.stack([top, left, top + 1 / rows, left + 1 / columns], -1).numpy()

    def plot_gallery(self, ax: "Axes | None" = None, *, classes: list[int] | None = None) -> "Axes":
        """Draws prototypes as red rectangles on their nearest training image, a row per class (paper, Figure 10).

        Raises:
            LookalikeError: If the model holds no images.
        """
        from lookalike.plots import plot_patches

        if self.images is None:
            raise LookalikeError("the model holds no prototype images (it was fitted without them)")
        p = self.prototypes
        return plot_patches(
            self.images[:, 0].numpy(),
            self.boxes()[:, 0],
            p.labels.cpu().numpy(),
            p.class_names,
            purity=p.purity.cpu().numpy(),
            classes=classes,
            ax=ax,
        )

    def _class_similarities(self, inputs: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Returns each patch's similarity to the classes [N, patches, K], and its class [N, patches]."""
        patches = self.encoder(inputs)
        check_finite_rows(patches.isfinite().reshape(len(inputs), -1).all(1), first=first)
        similarities = self.similarity(patches, self.prototypes.vectors)
        labels = self.prototypes.labels.expand_as(similarities)
        lowest = similarities.new_full((len(similarities), len(self.class_names)), -torch.inf)
        best = lowest.scatter_reduce(1, labels, similarities, "amax")
        best = best.unflatten(0, (len(inputs), -1))
        return best, best.argmax(2)

    def _votes(self, inputs: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Returns the shares of votes [N, K], and the mean similarity of the patches to each class [N, K]."""
        best, patch_classes = self._class_similarities(inputs, first)
        shares = nn.functional.one_hot(patch_classes, len(self.class_names)).to(best.dtype).mean(1)
        return shares, best.mean(1)

    def _batches(self, inputs: Tensor | np.ndarray, batch_size: int) -> Iterator[tuple[int, Any]]:
        """Yields the first row and the inputs of each batch, on the model's device."""
        if isinstance(inputs, np.ndarray):
            inputs = torch.from_numpy(inputs)
        checks.whole_number("batch_size", batch_size, 1)
        device, dtype = device_of(self.encoder), dtype_of(self.encoder)
        for start in range(0, max(n_rows(inputs), 1), batch_size):
            yield start, place(take_rows(inputs, slice(start, start + batch_size)), device, dtype)
