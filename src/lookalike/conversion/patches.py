"""KMEx on patches: prototypes are parts of images, and an image's class is the vote of its parts (paper, appendix A.7).

Each position of the last feature map before average pooling is a patch. The patches of each class are clustered; a
patch is of the class of its nearest prototype; an image is of the class of most of its patches.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lookalike._core import checks
from lookalike._core.errors import LookalikeError, warn_of
from lookalike._core.progress import progress_bar
from lookalike._core.provenance import versions
from lookalike._core.untouched import FunctionMode, keeps_random_states, keeps_torch_settings
from lookalike.conversion.clustering import CLUSTERERS
from lookalike.conversion.per_class import NPrototypes, check_number_of_prototypes, learn_prototypes
from lookalike.conversion.survey import survey
from lookalike.conversion.temperature import TemperatureOption, check_temperature, choose_temperature
from lookalike.data import Batches
from lookalike.embedding import as_encoder, name_samples
from lookalike.encoder import Encoder, LoadedClassifier, device_of, dtype_of, head_of, load_classifier, place
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.encoder.finite import check_finite_rows
from lookalike.model.images import pixels_of, preprocessing_of, value_range_of
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, make_similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class PatchEncoder(nn.Module):
    """Reads the last feature map before a classifier's average pooling.

    The map is what the last operation before the head takes that averages it over its positions; no layer need be
    named, and the classifier is left as it was.

    Args:
        encoder: The classifier, cut at its head.
        sample: Inputs to try it with.

    Attributes:
        encoder: As given.
        grid: Rows and columns of the map (H, W).
        embedding_dim: D, its channels.

    Raises:
        LookalikeError: If nothing is pooled before the head, or the map is 1×1.
    """

    def __init__(self, encoder: Encoder, sample: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.training = False
        with torch.no_grad():
            found = self.maps(place(take_rows(sample, slice(0, 2)), device_of(encoder), dtype_of(encoder)))
        self.embedding_dim, height, width = found.shape[1:]
        self.grid = (height, width)

    def maps(self, inputs: Tensor) -> Tensor:
        """Returns feature maps [N, D, H, W]; differentiable.

        Raises:
            LookalikeError: If there is no map.
        """
        with _Pooled() as pooled:
            features = self.encoder.features(inputs)
        found = features if features.ndim == 4 else pooled.map
        if found is None or found.shape[2] * found.shape[3] == 1:
            raise LookalikeError(
                "the network has no feature map larger than 1×1 that is averaged before its head, and so no patches "
                "(larger images make larger maps)"
            )
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the embeddings of all patches [N · H · W, D], image by image and row by row."""
        return self.maps(inputs).flatten(2).transpose(1, 2).flatten(0, 1)

    def train(self, mode: bool = True) -> "PatchEncoder":  # noqa: ARG002
        """Does nothing, as for an ``Encoder``."""
        return self


class _Pooled(FunctionMode):
    """Keeps what the last operation took that made one value per channel of a map: the average of its positions."""

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
    if before.ndim != 4 or before.shape[2] * before.shape[3] == 1 or after.ndim not in (2, 4):
        return False
    if after.shape[:2] != before.shape[:2] or after.numel() != before.shape[0] * before.shape[1]:
        return False
    return torch.allclose(after.flatten(1), before.mean((2, 3)), rtol=1e-3, atol=1e-5, equal_nan=True)


class PatchModel(nn.Module):
    """A classifier that lets the patches of an image vote, each for the class of its nearest prototype.

    Args:
        encoder: Makes patches of images.
        prototypes: Of patches.
        similarity: Compares patches with prototypes.
        places: The nearest training patches of each prototype [P, M, 3]: sample, row, column; −1 where there are fewer.
        images: The training images that they are parts of, uint8 [P, M, H, W, C]; None without images.
        provenance: Options, seeds and versions.
        temperature: What a patch's similarities are divided by before they become its probabilities.
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
        parts = [self._nearest(rows, start)[1] for start, rows in self._batches(inputs, batch_size)]
        found: Tensor = torch.cat(parts).unflatten(1, self.encoder.grid)
        return found

    @keeps_torch_settings
    @torch.no_grad()
    def patch_probabilities(self, inputs: Tensor, batch_size: int = 64) -> Tensor:
        """Returns the class probabilities of each patch [N, H, W, K]; the votes of ``forward`` are no probabilities."""
        parts = [self._nearest(rows, start)[0] for start, rows in self._batches(inputs, batch_size)]
        found: Tensor = (torch.cat(parts) / self.temperature).softmax(2).unflatten(1, self.encoder.grid)
        return found

    @keeps_torch_settings
    @torch.no_grad()
    def predict(self, inputs: Tensor, batch_size: int = 64) -> Tensor:
        """Returns the class of most patches [N] [paper]; of equal classes, the one whose patches are likest [ours]."""
        parts = []
        for start, rows in self._batches(inputs, batch_size):
            shares, likest = self._votes(rows, start)
            tied = shares >= shares.amax(1, keepdim=True) - 1e-6
            parts.append(torch.where(tied, likest, -torch.inf).argmax(1))
        return torch.cat(parts)

    def boxes(self) -> np.ndarray:
        """Returns where the nearest patches lie in their images, in shares of height and width [P, M, 4].

        The four are top, left, bottom and right of the part of the image that the position of the map stands for; the
        network sees more of the image there than that (its receptive field) [ours].
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

    def _nearest(self, inputs: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Returns each patch's likeness to the classes [N, patches, K], and its class [N, patches]."""
        patches = self.encoder(inputs)
        check_finite_rows(patches.isfinite().reshape(len(inputs), -1).all(1), first=first)
        similarities = self.similarity(patches, self.prototypes.vectors)
        owners = self.prototypes.labels.expand_as(similarities)
        empty = similarities.new_full((len(similarities), len(self.class_names)), -torch.inf)
        best = empty.scatter_reduce(1, owners, similarities, "amax")
        best = best.unflatten(0, (len(inputs), -1))
        return best, best.argmax(2)

    def _votes(self, inputs: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Returns the shares of votes [N, K], and each class's mean likeness to the patches [N, K]."""
        best, found = self._nearest(inputs, first)
        shares = nn.functional.one_hot(found, len(self.class_names)).to(best.dtype).mean(1)
        return shares, best.mean(1)

    def _batches(self, inputs: Tensor | np.ndarray, batch_size: int) -> Iterator[tuple[int, Any]]:
        if isinstance(inputs, np.ndarray):
            inputs = torch.from_numpy(inputs)
        checks.whole_number("batch_size", batch_size, 1)
        device, dtype = device_of(self.encoder), dtype_of(self.encoder)
        for start in range(0, max(n_rows(inputs), 1), batch_size):
            yield start, place(take_rows(inputs, slice(start, start + batch_size)), device, dtype)


class PatchKMEx:
    """Converts a trained classifier of images into one that decides by its patches (paper, appendix A.7).

    Args:
        model: A trained classifier: a module, a spec, what ``load_classifier`` returned, or an ``Encoder``.
        n_prototypes: A number for all classes, a mapping from class to number, or ``"auto"``.
        similarity: A registered similarity, by name, or one that is made already.
        similarity_options: Its options.
        clusterer: A registered clusterer.
        temperature: As of ``KMEx``; it is fitted to the patches of training images whose patches are all held out. A
            patch counts for its image's class, of which it may show nothing: its probabilities are as unsure as that.
        n_init: Random starts of the clustering.
        n_images: M, by how many training patches to show each prototype.
        max_patches: The most patches of a class to cluster, a random share of them if it has more; None takes all,
            which need 4 · D bytes each.
        head: The name of the classifier's head, where it cannot be found.
        batch_size: The most images that pass through the network at once.
        num_workers: Processes that read images.
        on_error: ``"skip"`` leaves out images that cannot be read.
        random_state: Seed.
        progress: Show progress bars; None shows them on a terminal.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> x = torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(0))
        >>> found = PatchKMEx(net, n_prototypes=2).fit((x, torch.arange(20) % 2))
        >>> found.encoder.grid, found.predict(x).shape, len(found.prototypes)
        ((4, 4), torch.Size([20]), 4)
    """

    def __init__(
        self,
        model: nn.Module | LoadedClassifier | str,
        n_prototypes: NPrototypes = 10,
        similarity: str | Similarity = "l2",
        *,
        similarity_options: Mapping[str, Any] | None = None,
        clusterer: str = "kmeans",
        temperature: TemperatureOption = "auto",
        n_init: int = 10,
        n_images: int = 1,
        max_patches: int | None = None,
        head: str | None = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        on_error: Literal["stop", "skip"] = "stop",
        random_state: int = 0,
        progress: bool | None = None,
    ) -> None:
        if isinstance(model, str):
            model = load_classifier(model)
        if not isinstance(model, nn.Module | LoadedClassifier):
            raise LookalikeError(f"PatchKMEx converts a torch.nn.Module, not a {type(model).__name__}")
        _ = CLUSTERERS[clusterer]
        check_number_of_prototypes(n_prototypes)
        checks.one_of("on_error", on_error, ("stop", "skip"))
        checks.whole_number("n_init", n_init, 1)
        checks.whole_number("n_images", n_images, 1)
        checks.optional(checks.whole_number, "max_patches", max_patches, 1)
        checks.optional(checks.whole_number, "batch_size", batch_size, 1)
        checks.optional(checks.whole_number, "num_workers", num_workers, 0)
        checks.optional(checks.text, "head", head)
        checks.seed("random_state", random_state)
        checks.progress("progress", progress)
        if isinstance(model, LoadedClassifier):
            head = head_of(model, head)
            model = model.model
        self.model = model
        self.n_prototypes = n_prototypes
        self.similarity = make_similarity(similarity, similarity_options)
        self.clusterer = clusterer
        self.temperature = check_temperature(temperature)
        self.n_init = n_init
        self.n_images = n_images
        self.max_patches = max_patches
        self.head = head
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.on_error: Literal["stop", "skip"] = on_error
        self.random_state = random_state
        self.progress = progress

    @keeps_random_states
    @torch.inference_mode(False)
    def fit(self, train: Any, *, class_names: list[str] | None = None) -> PatchModel:
        """Converts the classifier with its training data: a data set, loader or pair (x, y) of images and labels.

        Raises:
            LookalikeError: If the network has no feature map, the data are no images, or a class has none.
        """
        checks.optional(checks.names, "class_names", class_names)
        given = isinstance(train, Batches)
        batches = train if given else Batches(train, self.batch_size, self.num_workers, self.on_error)
        if batches.is_random():
            warn_of("the training images are augmented at random, and the patches with them; use the plain transform")
        first = next(iter(batches), None)
        if first is None or not isinstance(first.inputs, Tensor) or first.inputs.ndim != 4:
            raise LookalikeError("patches are parts of images: PatchKMEx needs training images [N, C, H, W]")
        encoder = PatchEncoder(as_encoder(self.model, batches, self.head), first.inputs)
        patches, owners, places = self._read(encoder, batches)
        names = list(class_names or batches.class_names or map(str, range(int(owners.max()) + 1)))
        similarity = copy.deepcopy(self.similarity)
        similarity.fit(patches, owners, encoder.encoder.head_weight)
        learned = learn_prototypes(
            patches,
            owners,
            names,
            similarity,
            n_prototypes=self.n_prototypes,
            clusterer=self.clusterer,
            n_init=self.n_init,
            seed=self.random_state,
            progress=self.progress,
        )
        temperature = choose_temperature(
            self.temperature, patches, owners, learned, similarity, seed=self.random_state, groups=places[:, 0]
        )
        prototypes = survey(learned, similarity, patches, owners, n_nearest=self.n_images)
        rows = prototypes.nearest
        nearest = torch.where((rows < 0)[..., None], -1, torch.from_numpy(places)[rows.clamp_min(0)])
        return PatchModel(
            encoder,
            prototypes,
            similarity,
            nearest,
            _read_images(batches, nearest),
            {
                "method": "PatchKMEx",
                "n_prototypes": self.n_prototypes,
                "similarity": similarity.name,
                "clusterer": self.clusterer,
                "n_init": self.n_init,
                "max_patches": self.max_patches,
                "random_state": self.random_state,
                "n_patches": len(patches),
                "calibration": temperature.to_dict(),
                "versions": versions(),
            },
            temperature.value,
        )

    def _read(self, encoder: PatchEncoder, batches: Batches) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns patches [n, D], their classes [n] and places [n, 3]: sample, row, column."""
        height, width = encoder.grid
        kept: dict[int, _Share] = {}
        rng = np.random.default_rng(self.random_state)
        spots = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2)
        with torch.no_grad(), progress_bar("Reading patches", batches.total, self.progress) as advance:
            for batch in batches:
                x = place(batch.inputs, device_of(encoder), dtype_of(encoder))
                found = encoder(x).float().cpu().numpy().reshape(len(batch.labels), -1, encoder.embedding_dim)
                if not np.isfinite(found).all():
                    bad = batch.indices[~np.isfinite(found).all((1, 2))]
                    raise LookalikeError(f"NaN or infinite features: {name_samples(bad, batches.describe)}")
                for label in np.unique(batch.labels):
                    mine = batch.labels == label
                    samples = np.repeat(batch.indices[mine], len(spots))[:, None]
                    where = np.concatenate([samples, np.tile(spots, (int(mine.sum()), 1))], 1)
                    share = kept.setdefault(int(label), _Share(self.max_patches, rng))
                    share.add(found[mine].reshape(-1, encoder.embedding_dim), where)
                advance(len(batch.labels))
        parts = [(label, *kept[label].all()) for label in sorted(kept)]
        return (
            np.concatenate([patches for _, patches, _ in parts]),
            np.concatenate([np.full(len(patches), label, dtype=np.int64) for label, patches, _ in parts]),
            np.concatenate([places for _, _, places in parts]),
        )


class _Share:
    """Patches of one class: all of them, or a random share of at most some number, whatever order they come in."""

    def __init__(self, at_most: int | None, rng: np.random.Generator) -> None:
        self.at_most, self.rng = at_most, rng
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, patches: np.ndarray, places: np.ndarray) -> None:
        self.parts.append((patches, places, self.rng.random(len(patches))))
        if self.at_most is not None and sum(len(part[0]) for part in self.parts) > 2 * self.at_most:
            self._thin()

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        self._thin()
        patches, places, _ = self.parts[0]
        return patches, places

    def _thin(self) -> None:
        patches, places, keys = (np.concatenate(column) for column in zip(*self.parts, strict=True))
        if self.at_most is not None and len(keys) > self.at_most:
            rows = np.sort(np.argpartition(keys, self.at_most)[: self.at_most])
            patches, places, keys = patches[rows], places[rows], keys[rows]
        self.parts = [(patches, places, keys)]


def _read_images(batches: Batches, places: Tensor) -> Tensor | None:
    """Reads the training images that patches [P, M, 3] are parts of; uint8 [P, M, H, W, C]."""
    if not batches.can_fetch:
        return None
    samples = torch.where(places[..., 0] < 0, places[:, :1, 0], places[..., 0]).numpy()
    unique, position = np.unique(samples, return_inverse=True)
    inputs = batches.fetch(unique)
    if not isinstance(inputs, Tensor) or inputs.shape[1] not in (1, 3):
        return None
    preprocessing = preprocessing_of(batches)
    pixels = pixels_of(inputs, value_range_of(inputs, preprocessing), preprocessing)
    return pixels[torch.from_numpy(position.reshape(samples.shape))]
