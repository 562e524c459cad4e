"""A trained classifier in a folder of its own: weights, what builds it again, what its images go through."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lookalike.artifact import read_artifact, read_config, write_artifact
from lookalike.data import Preprocessing
from lookalike.encoder.specs import LoadedClassifier, rebuild
from lookalike.encoder.weights import load_weights
from lookalike.errors import LookalikeError

KIND = "classifier"


def save_classifier(
    loaded: LoadedClassifier,
    folder: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a classifier that ``load_classifier(folder)`` reads again.

    Args:
        loaded: The classifier, with a spec that ``rebuild`` understands.
        folder: Where to; it appears only when it is complete.
        provenance: Options, seeds and versions that it was made with.
        files: Further files by their names.
        overwrite: Replace the folder if there is one.
    """
    config = {
        "kind": KIND,
        "encoder": {"class": type(loaded.model).__name__, "spec": loaded.spec},
        "class_names": loaded.class_names,
        "preprocessing": loaded.preprocessing.to_dict() if loaded.preprocessing else None,
        "provenance": dict(provenance or {}),
    }
    write_artifact(folder, config, loaded.model.state_dict(), files or {}, overwrite=overwrite)


def open_classifier(folder: str | Path) -> LoadedClassifier:
    """Reads a classifier that ``save_classifier`` wrote. Nothing in the folder is executed.

    Raises:
        LookalikeError: If it holds something else, or a file is missing or altered.
    """
    config, tensors = read_artifact(folder)
    if config.get("kind") != KIND:
        raise LookalikeError(f"{str(folder)!r} holds a prototype model, not a classifier")
    try:
        spec, given = config["encoder"]["spec"], config["preprocessing"]
        model = rebuild(spec).eval()
        load_weights(model, tensors, f"the saved weights in {str(folder)!r}")
        preprocessing = Preprocessing.from_dict(given) if given else None
        return LoadedClassifier(model, spec, preprocessing, config["class_names"], provenance=config["provenance"])
    except (KeyError, TypeError, AttributeError) as error:
        raise LookalikeError(f"the saved classifier in {str(folder)!r} is not as this version writes it") from error


def is_saved_classifier(folder: str | Path) -> bool:
    """Says whether a folder holds a classifier that ``save_classifier`` wrote; its other files are not looked at."""
    try:
        return bool(read_config(folder).get("kind") == KIND)
    except LookalikeError:
        return False
