"""The prototype model: encoder → prototypes → similarity → transparent classifier (paper section 2)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lookalike._core import checks
from lookalike._core.display import as_html
from lookalike._core.errors import LookalikeError
from lookalike._core.names import visible
from lookalike._core.untouched import in_eval_mode, keeps_random_states, keeps_torch_settings
from lookalike._core.wording import counted
from lookalike.data import InputBatch, Preprocessing, Split, TrainingRecord, read_inputs
from lookalike.doubt import Doubt
from lookalike.encoder import Encoder, device_of, dtype_of, place, rows_at_once
from lookalike.encoder.calls import split_rows
from lookalike.encoder.finite import check_zeros, zeros_if_finite
from lookalike.encoder.patches import PatchEncoder
from lookalike.encoder.side_by_side import SideBySide
from lookalike.model.annotations import Annotations
from lookalike.model.classifier import TransparentClassifier
from lookalike.model.doubting import Doubting
from lookalike.model.folder import GALLERY, ModelParts, read_model, write_model
from lookalike.model.hub import downloaded, is_address
from lookalike.model.images import Origin, pixels_of
from lookalike.model.onward import Onward
from lookalike.model.prototypes import Prototypes
from lookalike.model.similarity import Similarity, at_least_float32, euclidean_distances, is_traced

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["PrototypeModel", "Prototypes", "load"]

_GALLERY_CLASSES = 60  # a saved gallery has at most so many rows,
_GALLERY_PROTOTYPES = 600  # and at most so many images: a larger picture is too big to look at


class PrototypeModel(Doubting, Onward, nn.Module):
    """A prototypical self-explainable model.

    ``forward`` is differentiable and passes NaN values on. All other methods work without gradients, process any number
    of rows in batches of ``batch_size``, leave the encoder unchanged, and refuse inputs with embeddings that are not
    finite.

    Args:
        encoder: Maps inputs to embeddings [N, D].
        prototypes: The prototypes.
        similarity: Compares embeddings with prototypes.
        classifier: Turns similarities into class scores.
        preprocessing: Preprocessing of the inputs' images, if it is known.
        origin: What it remembers of its training data. Its fields are attributes of the model, too: ``images``,
            ``value_range``, ``provenance``, ``training_keys`` and ``training_names``. None for nothing.
        doubt: What ``calibrate`` found out on held-out images; None if the model is not calibrated.
        annotations: Names, descriptions, pins and regions that people gave the prototypes; None for none.
    """

    def __init__(
        self,
        encoder: nn.Module,
        prototypes: Prototypes,
        similarity: Similarity,
        classifier: TransparentClassifier,
        *,
        preprocessing: Preprocessing | None = None,
        origin: Origin | None = None,
        doubt: Doubt | None = None,
        annotations: Annotations | None = None,
    ) -> None:
        super().__init__()
        device = device_of(checks.model("encoder", encoder))
        checks.instance("prototypes", prototypes, Prototypes, "Prototypes")
        checks.instance("similarity", similarity, Similarity, "a Similarity")
        checks.instance("classifier", classifier, TransparentClassifier, "a TransparentClassifier")
        checks.optional(checks.instance, "preprocessing", preprocessing, Preprocessing, "a Preprocessing")
        checks.optional(checks.instance, "origin", origin, Origin, "an Origin")
        origin = (origin or Origin()).checked(len(prototypes))
        checks.optional(checks.instance, "doubt", doubt, Doubt, "a Doubt")
        self.encoder = encoder
        self.prototypes = prototypes.to(device)
        self.similarity = similarity.to(device)
        self.classifier = classifier.to(device)
        self.preprocessing = preprocessing
        self.images = origin.images
        self.value_range = origin.value_range
        self.provenance = dict(origin.provenance)
        self.training_keys = origin.training_keys
        self.training_names = dict(origin.training_names or {})
        self.doubt = None if doubt is None else doubt.to(device)
        checks.optional(checks.instance, "annotations", annotations, Annotations, "an Annotations")
        if annotations is not None and len(annotations) != len(prototypes):
            raise LookalikeError(f"annotations are of {len(annotations)} prototypes; there are {len(prototypes)}")
        self.annotations = annotations
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
    def all_annotations(self) -> Annotations:
        """What people have said about the prototypes; empty texts where they have said nothing."""
        return self.annotations or Annotations.empty(len(self.prototypes))

    @property
    def origin(self) -> Origin:
        """What the model remembers of its training data, to make another model of the same data."""
        return Origin(**{field.name: getattr(self, field.name) for field in fields(Origin)})

    @property
    def training_record(self) -> TrainingRecord:
        """What identifies the training data, to keep them apart from test data."""
        fingerprints = self.provenance.get("fingerprints")
        return TrainingRecord(
            fingerprints.get("data") if isinstance(fingerprints, Mapping) else None,
            Split.from_dict(self.provenance.get("split")),
            None if self.training_keys is None else self.training_keys.numpy(),
            tuple(entry.get("data") for entry in self.provenance.get("joined") or ()),
            self.provenance.get("n_samples"),
        )

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.prototypes.vectors.device

    def forward(self, inputs: Any) -> Tensor:
        """Returns class scores [N, K]."""
        if self.encoder.training and not self.training and not isinstance(self.encoder, Encoder):
            return self.scores_of(in_eval_mode(self.encoder, lambda: self.encoder(inputs)))  # not told of eval() yet
        return self.scores_of(self.encoder(inputs))

    @property
    def has_patches(self) -> bool:
        """Whether the prototypes are parts of images: patches, of which an embedding holds S in one row [S · D]."""
        return self.classifier.of_patches

    def similarities_of(self, embeddings: Tensor) -> Tensor:
        """Compares embeddings [N, D] with the prototypes; [N, P].

        In a model of patches it is the similarity of the most similar patch [ours].
        """
        evidence = self.evidence_of(embeddings)
        similarities: Tensor = evidence.amax(1) if self.has_patches else evidence
        return similarities

    def evidence_of(self, embeddings: Tensor) -> Tensor:
        """Returns what the classifier decides by: similarities [N, P], or those of each patch [N, S, P]."""
        vectors = self.prototypes.vectors
        if not self.has_patches:
            if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or embeddings.shape[1] != vectors.shape[1]:
                raise checks.unfit("embeddings", embeddings, f"a tensor [N, {vectors.shape[1]}]")
            return self._compared(at_least_float32(embeddings))
        patches = self.patches_of(embeddings)
        similarities = self._compared(patches.flatten(0, 1))
        by_patch: Tensor = similarities.unflatten(0, patches.shape[:2])
        return by_patch

    def _compared(self, rows: Tensor) -> Tensor:
        """Returns similarities [n, P] of rows [n, D] to the prototypes; NaN of a similarity of one's own is refused."""
        similarities: Tensor = self.similarity(rows, self.prototypes.vectors)
        is_own = not type(self.similarity).__module__.startswith("lookalike.")
        if is_own and not is_traced() and bool(similarities.isnan().any()):
            n_rows_of_nan = int(similarities.isnan().any(1).sum())
            raise LookalikeError(
                f"the similarity {self.similarity.name!r} is NaN for {n_rows_of_nan} of {len(rows)} embeddings, so "
                "that no prototype is the most similar one; let it return numbers for all finite embeddings"
            )
        return similarities

    def patches_of(self, embeddings: Tensor) -> Tensor:
        """Returns embeddings as rows of prototypes' dimensions [N, S, D]; S = 1 in a model of whole images."""
        dim = self.prototypes.vectors.shape[1]
        if not isinstance(embeddings, Tensor) or embeddings.ndim != 2 or embeddings.shape[1] % dim:
            raise checks.unfit("embeddings", embeddings, f"a tensor [N, S · {dim}]")
        patches: Tensor = at_least_float32(embeddings).unflatten(1, (-1, dim))
        return patches

    def distances_of(self, embeddings: Tensor) -> Tensor:
        """Returns the distances [N, P] of embeddings, or of their nearest patch, in the space of the clustering."""
        patches, project = self.patches_of(embeddings), self.similarity.project
        distances = euclidean_distances(project(patches.flatten(0, 1)), project(self.prototypes.vectors))
        nearest: Tensor = distances.unflatten(0, patches.shape[:2]).amin(1)
        return nearest

    def scores_of(self, embeddings: Tensor) -> Tensor:
        """Scores the classes of embeddings [N, D]; [N, K]."""
        evidence = self.evidence_of(embeddings)
        return self.classifier(evidence, self.prototypes.labels, self.n_classes)  # type: ignore[no-any-return]

    def probabilities_of(self, embeddings: Tensor) -> Tensor:
        """Returns class probabilities [N, K] of embeddings [N, D]."""
        return self.classifier.probabilities(self.evidence_of(embeddings), self.prototypes.labels, self.n_classes)

    def log_probabilities_of(self, embeddings: Tensor) -> Tensor:
        """Returns log-probabilities [N, K] of embeddings [N, D], up to an additive constant per row."""
        return self.classifier.log_probabilities(self.evidence_of(embeddings), self.prototypes.labels, self.n_classes)

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
        """Returns class probabilities [N, K].

        ``is_calibrated`` says whether they were calibrated on held-out images. If not, only the temperature that the
        conversion fitted to training images stands behind them.
        """
        return self._batched(inputs, batch_size, self.probabilities_of)

    def to_pixels(self, inputs: Tensor) -> Tensor | None:
        """Converts network inputs [N, C, H, W] to uint8 pixels [N, H, W, C]; None if they are not images."""
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
        rank = checks.whole_number("rank", rank, 0, self.images.shape[1] - 1)
        black, white = self.value_range[:, :, None, None].to(self.device).unbind(0)
        pixels = self.images[:, rank].permute(0, 3, 1, 2).contiguous().to(self.device) / 255
        if self.preprocessing is not None:
            pixels = self.preprocessing.reordered(pixels)
        return pixels * (white - black) + black

    @keeps_torch_settings
    @torch.no_grad()
    def decoded_prototypes(self) -> Tensor | None:
        """Returns the prototypes as images, uint8 [P, H, W, C], if the network has a decoder.

        A decoder is a method ``decode_embeddings`` from embeddings [N, D] to inputs [N, C, H, W], as ProtoVAE has it.

        Returns:
            None if the network has no decoder.
        """
        network = self.encoder.model if isinstance(self.encoder, Encoder) else self.encoder
        decode = getattr(network, "decode_embeddings", None)
        if not callable(decode):
            return None
        return self.to_pixels(in_eval_mode(network, lambda: decode(self.prototypes.vectors)))

    def patch_boxes(self) -> Tensor | None:
        """Returns where the prototypes' nearest patches lie in their images [P, M, 4]; None for whole images.

        The four numbers are top, left, bottom and right, as shares of height and width.
        """
        positions = self.prototypes.positions
        if positions is None or not isinstance(self.encoder, PatchEncoder):
            return None
        return self.encoder.boxes(positions.cpu().clamp_min(0))

    def plot_gallery(
        self, ax: "Axes | None" = None, per_prototype: int = 1, *, classes: Sequence[int] | None = None
    ) -> "Axes":
        """Draws the prototypes, a row per class, by their nearest training images (and decoded, if there is a decoder).

        A prototype of patches is a frame on its nearest training image (paper, Figure 10).

        Args:
            ax: Axes to draw on; None makes a figure that fits.
            per_prototype: Number of images of each prototype of whole images.
            classes: Classes to draw, for a model of patches; None draws all.

        Raises:
            LookalikeError: If the model holds no images.
        """
        from lookalike.plots import Captions, plot_gallery, plot_patches

        if self.images is None:
            raise LookalikeError("the model holds no prototype images (it was saved or fitted without them)")
        per_prototype = checks.whole_number("per_prototype", per_prototype, 1)
        p, decoded = self.prototypes, self.decoded_prototypes()
        boxes = self.patch_boxes()
        if boxes is not None:
            return plot_patches(
                self.images[:, 0].numpy(),
                boxes[:, 0].numpy(),
                p.labels.cpu().numpy(),
                p.class_names,
                purity=p.purity.cpu().numpy(),
                classes=classes,
                ax=ax,
            )
        if classes is not None:
            raise LookalikeError("classes=... chooses rows of a model of patches; this is a model of whole images")
        return plot_gallery(
            self.images[:, :per_prototype].numpy(),
            p.labels.cpu().numpy(),
            p.class_names,
            Captions(
                p.counts.cpu().numpy(),
                p.purity.cpu().numpy(),
                names=[self.training_names.get(index) for index in p.nearest[:, 0].tolist()]
                if self.training_names
                else None,
                titles=None if self.annotations is None else self.annotations.names,
            ),
            decoded=None if decoded is None else decoded.numpy(),
            ax=ax,
        )

    @keeps_random_states
    def save(
        self,
        folder: str | Path,
        *,
        images: bool = True,
        names: bool = True,
        extra_files: Mapping[str, bytes] | None = None,
        overwrite: bool = False,
        discard_edits: bool = False,
    ) -> None:
        """Writes the model: ``model.safetensors``, ``config.json``, a model card and the prototypes' images.

        Args:
            folder: Path of the folder. It appears only when it is complete.
            images: False leaves out all pixels of training images.
            names: False leaves out the file names of training images.
            extra_files: Contents of further files by name, such as a training log. A ``gallery.png`` among them
                takes the place of a new drawing.
            overwrite: Replace an existing folder.
            discard_edits: Replace it even if a history of edits is lost; edited models are saved by their session.

        Raises:
            LookalikeError: If the folder exists or has a history of edits, or the encoder cannot be saved.
        """
        checks.path("folder", folder)
        checks.flag("images", images)
        checks.flag("names", names)
        checks.flag("overwrite", overwrite)
        checks.flag("discard_edits", discard_edits)
        checks.optional(checks.mapping, "extra_files", extra_files)
        origin = replace(
            self.origin, images=self.images if images else None, training_names=self.training_names if names else {}
        )
        gallery, other_files = None, dict(extra_files or {})
        if origin.images is not None and self._fits_gallery():
            gallery = other_files.pop(GALLERY, None) or self._gallery_file()
        write_model(
            folder,
            replace(self._parts(), origin=origin),
            self.state_dict(),
            gallery=gallery,
            extra_files=other_files,
            overwrite=overwrite,
            discard_edits=discard_edits,
        )

    def __repr__(self) -> str:
        network = self.encoder.model if isinstance(self.encoder, Encoder) else self.encoder
        return (
            f"{type(self).__name__}({type(network).__name__}, {counted(len(self.prototypes), 'prototype')} of "
            f"{self.n_classes} classes, similarity={self.similarity.name!r}, dim={self.prototypes.vectors.shape[1]})"
        )

    def _repr_html_(self) -> str:
        """Shows the gallery in a notebook, if it is small enough to look at; else a table of the prototypes."""
        if self.images is None or not self._fits_gallery():
            return self.prototypes._repr_html_().replace("<div>", f"<div><p>{escape(visible(repr(self)))}</p>", 1)
        return as_html(repr(self), picture=self._gallery_file())

    def _fits_gallery(self) -> bool:
        return len(self.class_names) <= _GALLERY_CLASSES and len(self.prototypes) <= _GALLERY_PROTOTYPES

    def with_parts(self, **changes: Any) -> "PrototypeModel":
        """Returns a model of the same parts, but for those given by name, as the constructor takes them.

        What is not given is shared with this model.
        """
        return type(self)(**{**vars(self._parts()), **changes})

    def _parts(self) -> ModelParts:
        return ModelParts(**{field.name: getattr(self, field.name) for field in fields(ModelParts)})

    def _gallery_file(self) -> bytes:
        """Returns a PNG file of all prototypes."""
        from lookalike.plots import gallery_axes, patch_axes
        from lookalike.plots.pixels import figure_png

        per_class = int(self.prototypes.labels.bincount().max())
        if self.patch_boxes() is not None:
            ax = patch_axes(self.class_names, per_class)
        else:
            ax = gallery_axes(
                self.class_names,
                per_class,
                1 if self.decoded_prototypes() is None else 2,
                named=bool(self.training_names),
                titled=self.annotations is not None and any(self.annotations.names),
            )
        return figure_png(self.plot_gallery(ax), dpi=130)

    @keeps_torch_settings
    def _batched(self, inputs: Any, batch_size: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Embeds inputs in batches, and applies a function to each batch of embeddings."""
        batch_size = checks.whole_number("batch_size", batch_size, 1)
        results, zeros, dtype = [], [], dtype_of(self.encoder)
        side_by_side = SideBySide(self.encoder)
        with torch.no_grad():
            for batch in self.read_inputs(inputs, batch_size):
                n_at_once = rows_at_once(batch.inputs, batch_size, self.device)
                parts = split_rows(batch.inputs, n_at_once)
                for embeddings in side_by_side.run(lambda net, rows: net(place(rows, self.device, dtype)), parts):
                    zeros.append(zeros_if_finite(embeddings))
                    results.append(compute(embeddings))
        check_zeros(_joined(zeros))
        return _joined(results)

    def read_inputs(self, inputs: Any, batch_size: int = 256) -> Iterator[InputBatch]:
        """Yields batches of network inputs from ready inputs, image files, folders, PIL images, pixels or data sets.

        Args:
            inputs: See ``lookalike.data.read_inputs``.
            batch_size: Largest number of images in a batch, if images are read.

        Raises:
            LookalikeError: If the form of the images is not known, or the model does not know their preprocessing.
        """
        described = getattr(self.encoder, "input_spec", None)
        row_shape = described.get("shape") if isinstance(described, Mapping) else None
        return read_inputs(inputs, self.preprocessing, row_shape, batch_size)


def _joined(parts: list[Tensor]) -> Tensor:
    if not parts:
        raise LookalikeError("there are no inputs: an array or a data set without images")
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@keeps_random_states
def load(folder: str | Path, model: nn.Module | None = None) -> PrototypeModel:
    """Loads a saved model. Nothing in the folder is executed.

    Args:
        folder: A folder written by ``save``, or ``"hub:owner/name"`` on the Hugging Face Hub, with ``@revision`` for
            another revision than the newest.
        model: The network, if it comes from the user's own code. A copy of it gets the saved weights. Wrappers for
            several devices or for compilation are removed.

    Raises:
        LookalikeError: If a file is missing, changed or invalid, the folder was written by a later version, or the
            network cannot be rebuilt without ``model`` or computes other values than the saved one.
    """
    checks.path("folder", folder)
    checks.optional(checks.model, "model", model)
    if is_address(folder):
        with downloaded(str(folder)) as temporary:
            return load(temporary, model)
    return PrototypeModel(**vars(read_model(folder, model)))
