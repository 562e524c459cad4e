"""A trained classifier in a folder of its own: weights, what builds it again, what its images go through."""

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

_TENSORS_MORE, _VALUES_MORE = 4, 4  # builders make heads and auxiliary branches that they throw away


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
    """Reads a classifier that ``save_classifier`` wrote. Nothing in the folder is executed.

    Raises:
        LookalikeError: If it holds something else, or a file is missing, altered or of a later format.
    """
    record, weights = read_saved(folder, SavedClassifier)
    what = f"the saved classifier in {str(folder)!r}"
    spec = record.encoder.spec
    assert spec is not None  # noqa: S101 - checked with the record
    with refusing(f"{what} cannot be used"):
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
    """Says whether a folder holds a classifier that ``save_classifier`` wrote; its other files are not looked at."""
    return kind_of_folder(folder) == SavedClassifier.kind


def build_network(spec: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """Builds the architecture that a saved folder names, unless it is larger than the weights that are saved with it.

    Raises:
        LookalikeError: If it cannot be built, or is far larger; the reason in one line.
    """
    most = _TENSORS_MORE * len(weights) + 1_000, _VALUES_MORE * sum(t.numel() for t in weights.values()) + 2**24
    built = [0, 0]
    thread = threading.get_ident()

    def count(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        if threading.get_ident() != thread or parameter is None:
            return
        built[0] += 1
        built[1] += parameter.numel() if not isinstance(parameter, nn.UninitializedParameter) else 0
        if built[0] > most[0] or built[1] > most[1]:
            raise LookalikeError("the network that it describes is far larger than its weights")

    def counted() -> nn.Module:
        register_module_parameter_registration_hook(count)
        return rebuild(spec)

    def remove() -> None:
        for key in [key for key, hook in list(_global_parameter_registration_hooks.items()) if hook is count]:
            _global_parameter_registration_hooks.pop(key, None)

    try:
        return undoing(remove, counted)
    except LookalikeError:
        raise
    except Exception as error:  # of whatever library builds it
        raise LookalikeError(f"its network cannot be built: {type(error).__name__}: {one_line(error)}") from error
