"""Saves a trained classifier in a folder, with its architecture and preprocessing, and loads it again."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _global_parameter_registration_hooks, register_module_parameter_registration_hook

from lookalike._core.errors import LookalikeError
from lookalike._core.records import one_line, plain_json
from lookalike._core.untouched import undoing
from lookalike.encoder.head import OUTPUT
from lookalike.encoder.specs import LoadedClassifier, rebuild
from lookalike.encoder.weights import load_weights
from lookalike.saved import (
    SavedClassifier,
    SavedNetwork,
    check_not_finite,
    check_weights,
    kind_of_folder,
    not_finite_buffers,
    read_saved,
    refusing,
    write_saved,
)

# how many times more tensors and values a builder may create than are saved: some discard heads and branches
_TENSOR_FACTOR, _VALUE_FACTOR = 4, 4


def save_classifier(
    loaded: LoadedClassifier,
    folder: str | Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
    overwrite: bool = False,
) -> None:
    """Saves a classifier that ``load_classifier(folder)`` loads again.

    Args:
        loaded: The classifier, with a spec that ``rebuild`` understands.
        folder: The folder to write; it appears only when it is complete.
        provenance: Options, seeds and versions of its training.
        files: Content of further files by name.
        overwrite: Replace an existing folder.
    """
    weights = loaded.model.state_dict()
    with refusing("the classifier cannot be saved"):
        record = SavedClassifier(
            SavedNetwork(
                type(loaded.model).__name__, plain_json(loaded.spec), not_finite=not_finite_buffers(loaded.model)
            ),
            loaded.class_names,
            loaded.preprocessing,
            plain_json(dict(provenance or {})),
        )
        check_weights(weights, record.encoder.not_finite)
    write_saved(folder, record, weights, files or {}, overwrite=overwrite)


def open_classifier(folder: str | Path) -> LoadedClassifier:
    """Loads a classifier that ``save_classifier`` wrote. No code in the folder is run.

    Raises:
        LookalikeError: If the folder holds something else, or a file is missing, altered or of a later format.
    """
    record, weights = read_saved(folder, SavedClassifier)
    spec = record.encoder.spec
    assert spec is not None  # checked with the record
    with refusing(f"the saved classifier in {str(folder)!r} cannot be used"):
        check_weights(weights, record.encoder.not_finite)
        model = build_network(spec, weights).eval()
        check_not_finite(model, record.encoder.not_finite)
    load_weights(model, weights, f"the saved weights in {str(folder)!r}")
    return LoadedClassifier(
        model,
        spec,
        record.preprocessing,
        record.class_names,
        head=OUTPUT if spec.get("name") == "without-head" else None,
        provenance=record.provenance,
    )


def is_saved_classifier(folder: str | Path) -> bool:
    """Says whether a folder holds a classifier that ``save_classifier`` wrote; reads only ``config.json``."""
    return kind_of_folder(folder) == SavedClassifier.kind


def build_network(spec: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Builds the architecture that a saved folder names.

    A hostile folder could name a network that fills the memory. A hook therefore counts parameters while the network is
    built, and stops if there are far more than the saved weights.

    Raises:
        LookalikeError: If it cannot be built, or is far larger than its weights; the message gives the reason.
    """
    limits = _TENSOR_FACTOR * len(weights) + 1_000, _VALUE_FACTOR * sum(t.numel() for t in weights.values()) + 2**24
    counts = [0, 0]
    thread = threading.get_ident()

    def count(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        if threading.get_ident() != thread or parameter is None:
            return
        counts[0] += 1
        counts[1] += parameter.numel() if not isinstance(parameter, nn.UninitializedParameter) else 0
        if counts[0] > limits[0] or counts[1] > limits[1]:
            raise LookalikeError("the network that it describes is far larger than its weights")

    def build_and_count() -> nn.Module:
        register_module_parameter_registration_hook(count)
        return rebuild(spec)

    def remove_hook() -> None:
        for key in [key for key, hook in list(_global_parameter_registration_hooks.items()) if hook is count]:
            _global_parameter_registration_hooks.pop(key, None)

    try:
        return undoing(remove_hook, build_and_count)
    except LookalikeError:
        raise
    except Exception as error:  # whatever the library that builds it raises
        raise LookalikeError(f"its network cannot be built: {type(error).__name__}: {one_line(error)}") from error
