"""Where a prototype model goes on to: methods whose work other rooms do, which each imports when it is called."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lookalike._core.errors import LookalikeError

if TYPE_CHECKING:
    from typing import Unpack

    from lookalike.conversion.options import UpdateOptions
    from lookalike.conversion.per_class import NPrototypes
    from lookalike.editing import EditOptions, EditSession
    from lookalike.embedding import EmbeddingStore
    from lookalike.export import ExportOptions
    from lookalike.model.hub import PushOptions
    from lookalike.model.prototype_model import PrototypeModel
    from lookalike.parts.segmentation import Segments


class Onward:
    """The methods of a prototype model that update, edit, export, publish and segment."""

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

        New classes are clustered and get prototypes. New samples of known classes move the prototypes of their class:
        each prototype moves to the mean of all its samples. The prototypes of other classes stay as they are, to the
        last bit. The temperature stays too, unless a number is given, because the embeddings that it was fitted to are
        not available. To fit it again, convert all data again.

        Args:
            more: New data, as for ``convert``, or their ``EmbeddingStore``. Classes are matched by name, or by number
                if the data have no names.
            previous: Embeddings of the previous training data. With them, counts, purity, nearest images and distances
                are exact. Without, those of classes with previous and new samples are approximated from both, purity
                leaves out how old samples compare with new classes, and ``provenance`` says so.
            n_prototypes: Number of prototypes of each new class; None takes the number of the conversion.
            seed: Seed of the clustering; None takes the seed of the conversion.
            **options: ``clusterer``, ``n_init``, ``temperature``, ``n_images``, ``batch_size``, ``num_workers``,
                ``on_error``, ``precision``, ``progress``, as for ``convert``; without ``n_images``, each prototype
                keeps as many images as it has.

        Returns:
            A new model; this one is not changed. The numbers of new samples follow those of the previous ones.

        Raises:
            LookalikeError: As ``convert`` does; also if the prototypes are of patches, of a head or of a baseline, or
                ``previous`` is of another network or of other classes.
        """
        from lookalike.conversion.update import update_model

        return update_model(self._model(), more, previous, n_prototypes=n_prototypes, seed=seed, options=options)

    def edit(self, train: Any = None, **options: "Unpack[EditOptions]") -> "EditSession":
        """Returns a session that changes the prototypes, shows what each change does, and can undo it.

        Args:
            train: The training data, or their ``EmbeddingStore``; see ``lookalike.editing.EditSession``. Without
                them, prototypes can only be named, described and pinned.
            **options: ``embeddings``, ``validation``, ``test``, ``who``, ``seed``.
        """
        from lookalike.editing import EditSession

        if self._model().has_patches:
            raise LookalikeError("a model of patches is not edited: convert with level='image' to edit prototypes")
        return EditSession(self._model(), train, **options)

    def export(self, target: str | Path, **options: "Unpack[ExportOptions]") -> Path:
        """Writes the model so that it needs nothing of this library; see ``lookalike.export.export_model``.

        Args:
            target: Folder to write, or a file whose name ends in ``.onnx`` or ``.pt2``, with all inside.
            **options: ``kind``, ``n_nearest``, ``pixels``, ``images``, ``licence``, ``overwrite``.
        """
        from lookalike.export import export_model

        return export_model(self._model(), target, **options)

    def push_to_hub(self, repo: str, **options: "Unpack[PushOptions]") -> str:
        """Uploads the model to the Hugging Face Hub; see ``lookalike.model.hub.push_model``.

        Args:
            repo: ``"owner/name"``.
            **options: ``images``, ``names``, ``licence``, ``private``, ``message``.
        """
        from lookalike.model.hub import push_model

        return push_model(self._model(), repo, **options)

    def segment(self, inputs: Any, batch_size: int = 64) -> "Segments":
        """Finds the most similar prototype of each position of images; see ``lookalike.parts.segment``."""
        from lookalike.parts.segmentation import segment

        return segment(self._model(), inputs, batch_size)

    def _model(self) -> "PrototypeModel":
        return cast("PrototypeModel", self)
