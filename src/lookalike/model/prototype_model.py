"""The one abstraction: encoder → prototypes → similarity → transparent classifier (paper section 2)."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.errors import LookalikeError
from lookalike._core.untouched import in_eval_mode, keeps_random_states, keeps_torch_settings
from lookalike.data import InputBatch, Preprocessing, Split, TrainingRecord, read_inputs
from lookalike.encoder import Encoder, device_of, dtype_of, place
from lookalike.encoder.calls import n_rows, take_rows
from lookalike.encoder.finite import check_finite_rows
from lookalike.model.classifier import TransparentClassifier
from lookalike.model.folder import ModelParts, read_model, write_model
from lookalike.model.images import pixels_of
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity

if TYPE_CHECKING:
    from typing import Unpack

    from matplotlib.axes import Axes

    from lookalike.conversion.options import UpdateOptions
    from lookalike.conversion.per_class import NPrototypes
    from lookalike.embedding import EmbeddingStore

__all__ = ["PrototypeModel", "Prototypes", "load"]

_GALLERY_CLASSES = 60
_GALLERY_PROTOTYPES = 600


class PrototypeModel(nn.Module):
    """A prototypical self-explainable model.

    Every method but ``forward`` works without gradients, on any number of rows, ``batch_size`` at a time, leaves the
    encoder as it was, and refuses inputs whose embeddings are not finite. ``forward`` is differentiable, and passes NaN
    values on.

    Args:
        encoder: Maps inputs to embeddings [N, D].
        prototypes: The prototypes.
        similarity: Compares embeddings with prototypes.
        classifier: Reads class scores off similarities.
        preprocessing: What the inputs' images went through, where that is known.
        images: The training images nearest to each prototype, as the network sees them, uint8 [P, M, H, W, C].
        value_range: The inputs' values at black and at white [2, C], to show inputs and to read images back.
        provenance: Options, seeds, fingerprints and versions that this model was made with.
        training_keys: A number for each training image's file, by its bytes, sorted int64 [N]: with them no image
            that the model was made from is taken for a test image later. None where the data were no files.
    """

    def __init__(
        self,
        encoder: nn.Module,
        prototypes: Prototypes,
        similarity: Similarity,
        classifier: TransparentClassifier,
        *,
        preprocessing: Preprocessing | None = None,
        images: Tensor | None = None,
        value_range: Tensor | None = None,
        provenance: Mapping[str, Any] | None = None,
        training_keys: Tensor | None = None,
    ) -> None:
        super().__init__()
        device = device_of(checks.model("encoder", encoder))
        checks.instance("prototypes", prototypes, Prototypes, "Prototypes")
        checks.instance("similarity", similarity, Similarity, "a Similarity")
        checks.instance("classifier", classifier, TransparentClassifier, "a TransparentClassifier")
        checks.optional(checks.instance, "preprocessing", preprocessing, Preprocessing, "a Preprocessing")
        if images is not None:
            images = checks.tensor("images", images, (len(prototypes), "M", "H", "W", "C"), kind="whole")
        if value_range is not None:
            value_range = checks.tensor("value_range", value_range, (2, "C"), kind="number")
        checks.optional(checks.mapping, "provenance", provenance)
        self.encoder = encoder
        self.prototypes = prototypes.to(device)
        self.similarity = similarity.to(device)
        self.classifier = classifier.to(device)
        self.preprocessing = preprocessing
        self.images = images
        self.value_range = value_range
        self.provenance = dict(provenance or {})
        self.training_keys = training_keys
        self.training = False

    @property
    def class_names(self) -> list[str]:
        """The names of the K classes."""
        return self.prototypes.class_names

    @property
    def n_classes(self) -> int:
        """K."""
        return self.prototypes.n_classes

    @property
    def training_record(self) -> TrainingRecord:
        """What the model remembers of its training data, to keep them apart from test data."""
        fingerprints = self.provenance.get("fingerprints")
        return TrainingRecord(
            fingerprints.get("data") if isinstance(fingerprints, Mapping) else None,
            Split.from_dict(self.provenance.get("split")),
            None if self.training_keys is None else self.training_keys.numpy(),
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.prototypes.vectors.device

    def forward(self, inputs: Any) -> Tensor:
        """Returns class scores [N, K]."""
        return self.scores_of(self.encoder(inputs))

    def similarities_of(self, embeddings: Tensor) -> Tensor:
        """Compares embeddings [N, D] with the prototypes; [N, P]."""
        vectors = self.prototypes.vectors
        if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or embeddings.shape[1] != vectors.shape[1]:
            raise checks.unfit("embeddings", embeddings, f"a tensor [N, {vectors.shape[1]}]")
        return self.similarity(embeddings, self.prototypes.vectors)  # type: ignore[no-any-return]

    def scores_of(self, embeddings: Tensor) -> Tensor:
        """Scores the classes of embeddings [N, D]; [N, K]."""
        similarities = self.similarities_of(embeddings)
        return self.classifier(similarities, self.prototypes.labels, self.n_classes)  # type: ignore[no-any-return]

    def probabilities_of(self, embeddings: Tensor) -> Tensor:
        """Returns class probabilities [N, K] of embeddings [N, D]."""
        return self.classifier.probabilities(self.similarities_of(embeddings), self.prototypes.labels, self.n_classes)

    def log_probabilities_of(self, embeddings: Tensor) -> Tensor:
        """Returns what a softmax over classes makes the class probabilities of: [N, K] up to a constant per row."""
        return self.classifier.log_probabilities(
            self.similarities_of(embeddings), self.prototypes.labels, self.n_classes
        )

    def embed(self, inputs: Any, batch_size: int = 256) -> Tensor:
        """Returns embeddings [N, D]."""
        return self._batched(inputs, batch_size, lambda z: z)

    def similarities(self, inputs: Any, batch_size: int = 256) -> Tensor:
        """Returns the similarities to all prototypes [N, P]."""
        return self._batched(inputs, batch_size, self.similarities_of)

    def predict(self, inputs: Any, batch_size: int = 256) -> Tensor:
        """Returns the predicted classes [N]."""
        return self._batched(inputs, batch_size, lambda z: self.scores_of(z).argmax(1))

    def predict_proba(self, inputs: Any, batch_size: int = 256) -> Tensor:
        """Returns class probabilities [N, K]."""
        return self._batched(inputs, batch_size, self.probabilities_of)

    def to_pixels(self, inputs: Tensor) -> Tensor | None:
        """Returns network inputs [N, C, H, W] as uint8 pixels [N, H, W, C] to look at; None if they are no images."""
        checks.instance("inputs", inputs, Tensor, "a tensor [N, C, H, W]")
        if self.value_range is None or inputs.ndim != 4 or inputs.shape[1] != self.value_range.shape[1]:
            return None
        return pixels_of(inputs, self.value_range, self.preprocessing)

    def prototype_inputs(self, rank: int = 0) -> Tensor | None:
        """Returns the network inputs [P, C, H, W] of the training images nearest to each prototype.

        Args:
            rank: 0 for the nearest, 1 for the second, and so on.

        Returns:
            None if the model holds no images.
        """
        if self.images is None or self.value_range is None:
            return None
        checks.whole_number("rank", rank, 0, self.images.shape[1] - 1)
        low, high = self.value_range[:, :, None, None].to(self.device).unbind(0)
        pixels = self.images[:, rank].permute(0, 3, 1, 2).to(self.device) / 255
        if self.preprocessing is not None:
            pixels = self.preprocessing.reordered(pixels)
        return pixels * (high - low) + low

    @keeps_torch_settings
    @torch.no_grad()
    def decoded_prototypes(self) -> Tensor | None:
        """Returns what the network's own decoder makes of each prototype, uint8 pixels [P, H, W, C].

        Returns:
            None if it has none. A network with a method ``decode_embeddings``, embeddings [N, D] to inputs
            [N, C, H, W], as ProtoVAE's, has one.
        """
        network = self.encoder.model if isinstance(self.encoder, Encoder) else self.encoder
        decode = getattr(network, "decode_embeddings", None)
        if not callable(decode):
            return None
        return self.to_pixels(in_eval_mode(network, lambda: decode(self.prototypes.vectors)))

    def update(
        self,
        more: Any,
        *,
        previous: "EmbeddingStore | None" = None,
        n_prototypes: "NPrototypes | None" = None,
        seed: int | None = None,
        **options: "Unpack[UpdateOptions]",
    ) -> "PrototypeModel":
        """Returns a new model, updated with more data: new samples of its classes, new classes, or both.

        Classes that the model does not know are clustered and get prototypes. Samples of classes that it knows move
        the prototypes of their class, each to the mean of all samples that it stands for. The prototypes of other
        classes stay as they are, to the last bit. The temperature stays too, unless a number is given for it: the
        embeddings that it was fitted to are not at hand. Convert all data again to fit it again.

        Args:
            more: New data, as ``convert`` takes them, or their ``EmbeddingStore``. Their classes are matched by name,
                or by number where they have none.
            previous: Embeddings of the previous training data. With them counts, purity, nearest images and distances
                are found again and are exact; without, those of classes with both old and new samples are put
                together from both, and ``provenance`` says so.
            n_prototypes: Number of prototypes of each new class; None takes what the model was converted with.
            seed: Seed of the clustering; None takes the one that the model was converted with.
            **options: ``clusterer``, ``n_init``, ``temperature``, ``n_images``, ``batch_size``, ``num_workers``,
                ``on_error``, ``precision``, ``progress``, as of ``convert``.

        Returns:
            A new model; this one stays as it is. New samples are numbered on from the previous ones.

        Raises:
            LookalikeError: As ``convert``.
        """
        from lookalike.conversion.options import UPDATE_OPTIONS, settings_of
        from lookalike.conversion.update import update_model

        recorded = self.provenance
        number = recorded.get("n_prototypes", 5) if n_prototypes is None else n_prototypes
        if n_prototypes is None and isinstance(number, Mapping):  # of classes that are known already
            number = 5
        kept: dict[str, Any] = {name: recorded[name] for name in ("clusterer", "n_init") if name in recorded}
        seed = int(recorded.get("seed", 0)) if seed is None else seed
        settings = settings_of("update", number, seed, {**kept, **options}, UPDATE_OPTIONS)
        return update_model(self, more, previous, settings)

    def export(
        self,
        folder: str | Path,
        *,
        kind: str = "onnx",
        n_nearest: int | None = None,
        pixels: bool = False,
        images: bool = True,
        overwrite: bool = False,
    ) -> Path:
        """Writes the model to a folder that needs nothing of this library; see ``lookalike.export.export_model``."""
        from lookalike.export import export_model

        return export_model(
            self, folder, kind=kind, n_nearest=n_nearest, pixels=pixels, images=images, overwrite=overwrite
        )

    def plot_gallery(self, ax: "Axes | None" = None, per_prototype: int = 1) -> "Axes":
        """Draws the prototypes, a row per class, each by its nearest training images; first as decoded, if they can be.

        Raises:
            LookalikeError: If the model holds no images.
        """
        from lookalike.plots import plot_gallery

        if self.images is None:
            raise LookalikeError("the model holds no prototype images (it was saved or fitted without them)")
        checks.whole_number("per_prototype", per_prototype, 1)
        p, decoded = self.prototypes, self.decoded_prototypes()
        return plot_gallery(
            self.images[:, :per_prototype].numpy(),
            p.labels.cpu().numpy(),
            p.class_names,
            counts=p.counts.cpu().numpy(),
            purity=p.purity.cpu().numpy(),
            decoded=None if decoded is None else decoded.numpy(),
            ax=ax,
        )

    @keeps_random_states
    def save(
        self,
        folder: str | Path,
        *,
        images: bool = True,
        extra_files: Mapping[str, bytes] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Writes the model: ``model.safetensors``, ``config.json``, a model card and the prototypes' images.

        Args:
            folder: Where to; it appears only when it is complete.
            images: False leaves out every training pixel.
            extra_files: What else to put there, by name: a training's log, say.
            overwrite: Replace the folder if there is one.

        Raises:
            LookalikeError: If the folder exists, or the encoder is not one that can be saved.
        """
        checks.path("folder", folder)
        checks.flag("images", images)
        checks.flag("overwrite", overwrite)
        checks.optional(checks.mapping, "extra_files", extra_files)
        shown = self.images if images else None
        small = len(self.class_names) <= _GALLERY_CLASSES and len(self.prototypes) <= _GALLERY_PROTOTYPES
        write_model(
            folder,
            replace(self._parts(), images=shown),
            self.state_dict(),
            gallery=self._gallery_file() if shown is not None and small else None,
            extra_files=extra_files or {},
            overwrite=overwrite,
        )

    def _parts(self) -> ModelParts:
        return ModelParts(**{field.name: getattr(self, field.name) for field in fields(ModelParts)})

    def _gallery_file(self) -> bytes:
        from lookalike.plots import gallery_axes

        per_class = int(self.prototypes.labels.bincount().max())
        tiles = 1 if self.decoded_prototypes() is None else 2
        ax = self.plot_gallery(gallery_axes(self.class_names, per_class, tiles))
        buffer = io.BytesIO()
        ax.get_figure(root=True).savefig(buffer, format="png", dpi=130)  # type: ignore[union-attr]
        return buffer.getvalue()

    @keeps_torch_settings
    def _batched(self, inputs: Any, batch_size: int, read: Callable[[Tensor], Tensor]) -> Tensor:
        checks.whole_number("batch_size", batch_size, 1)
        results, finite, dtype = [], [], dtype_of(self.encoder)
        with torch.no_grad():
            for batch in self.read_inputs(inputs, batch_size):
                for start in range(0, max(n_rows(batch.inputs), 1), batch_size):
                    rows = take_rows(batch.inputs, slice(start, start + batch_size))
                    embeddings = self.encoder(place(rows, self.device, dtype))
                    finite.append(embeddings.isfinite().all(1))
                    results.append(read(embeddings))
            check_finite_rows(torch.cat(finite))  # at the end: a GPU is waited for once
        return torch.cat(results)

    def read_inputs(self, inputs: Any, batch_size: int = 256) -> Iterator[InputBatch]:
        """Yields what the network takes, from ready inputs, image files, folders, PIL images, pixels or data sets.

        Args:
            inputs: See ``lookalike.data.read_inputs``.
            batch_size: The most images in a batch, where they are read.

        Raises:
            LookalikeError: If images come in a form that is not known, or the model does not know what they go
                through.
        """
        described = getattr(self.encoder, "input_spec", None)
        row_shape = described.get("shape") if isinstance(described, Mapping) else None
        return read_inputs(inputs, self.preprocessing, row_shape, batch_size)


@keeps_random_states
def load(folder: str | Path, model: nn.Module | None = None) -> PrototypeModel:
    """Loads a saved model. Nothing in the folder is executed.

    Args:
        folder: What ``save`` wrote.
        model: The network, where it was made by the user's own code. A copy of it gets the saved weights; what wraps it
            for several devices or compilation comes off.

    Raises:
        LookalikeError: If a file is missing, altered or nonsense, the folder was written by a later version, or the
            network cannot be rebuilt without ``model`` or computes something else than the one that was saved.
    """
    checks.path("folder", folder)
    checks.optional(checks.model, "model", model)
    parts = read_model(folder, model)
    return PrototypeModel(**{field.name: getattr(parts, field.name) for field in fields(parts)})
