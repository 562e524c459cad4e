"""Checks the tensors of a saved prototype model: names, types, shapes and values."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lookalike._core.errors import LookalikeError
from lookalike._core.records import shown
from lookalike.doubt import Doubt
from lookalike.model.classifier import LinearHead, RectifiedLinearHead
from lookalike.model.decision import PatchLinear
from lookalike.model.prototypes import N_QUANTILES
from lookalike.model.record import SavedModel
from lookalike.saved import below, check_weights, is_finite, prototype_dim

ENCODER = "encoder.model"
PROBE = "probe"
TRAINING_KEYS = "training_keys"
_WEIGHTED = (LinearHead.name, RectifiedLinearHead.name, PatchLinear.name)
_ROUNDING = 1e-4  # relative: quantiles and shares are rounded, and averaged in an update


def check_model_tensors(record: SavedModel, tensors: Mapping[str, Tensor]) -> None:
    """Checks the tensors of a prototype model against its record and each other.

    Raises:
        LookalikeError: If a tensor is missing, unknown, of another type or shape, or has invalid values.
    """
    prefixes = tuple(f"{name}." for name in (ENCODER, "prototypes", "similarity", "classifier", "doubt"))
    unknown = [name for name in tensors if not name.startswith(prefixes) and name not in (PROBE, TRAINING_KEYS)]
    if unknown:
        raise LookalikeError(f"there is an unknown tensor {shown(unknown[0])}")
    _check_prototypes(record, below("prototypes", tensors))
    for name, tensor in below("similarity", tensors).items():
        _require(bool(is_finite(tensor)), f"similarity.{name} has values that are not finite")
    _check_classifier(record, below("classifier", tensors), len(tensors["prototypes.vectors"]))
    restored_doubt(record, tensors)
    check_weights(below(ENCODER, tensors), record.encoder.not_finite)
    probe = tensors.get(PROBE)
    if probe is None:
        raise LookalikeError(f"the tensor {PROBE!r} is missing")
    _check_shape(PROBE, probe, torch.float32, (record.encoder.embedding_dim,))
    keys = tensors.get(TRAINING_KEYS)
    if keys is not None:
        _check_shape(TRAINING_KEYS, keys, torch.int64, (keys.numel(),))


def restored_doubt(record: SavedModel, tensors: Mapping[str, Tensor]) -> Doubt | None:
    """Returns the model's calibration, or None if it has none.

    Raises:
        LookalikeError: If record and tensors do not fit together.
    """
    stored = below("doubt", tensors)
    if record.doubt is None:
        if stored:
            raise LookalikeError(f"there is an unknown tensor {shown('doubt.' + next(iter(stored)))}")
        return None
    return Doubt.from_saved(record.doubt, stored, len(record.class_names), len(tensors["prototypes.vectors"]))


def _check_prototypes(record: SavedModel, tensors: Mapping[str, Tensor]) -> None:
    """Checks the tensors of the prototypes: names, types, shapes, ranges and consistency."""
    names = ("vectors", "labels", "counts", "purity", "nearest", "distances", "percentiles", "quantiles")
    optional = ("positions",) if record.encoder.patches is not None else ()
    missing = [name for name in names if name not in tensors]
    unknown = [name for name in tensors if name not in (*names, *optional)]
    if missing or unknown:
        problem, name = ("missing", missing[0]) if missing else ("unknown", unknown[0])
        raise LookalikeError(f"the tensor {shown(f'prototypes.{name}')} is {problem}")
    p = {f"prototypes.{name}": tensors[name] for name in names}
    vectors, labels, counts, purity, nearest, distances, percentiles, quantiles = p.values()
    n_prototypes, n_nearest = len(vectors) if vectors.ndim else 0, nearest.shape[1] if nearest.ndim == 2 else 0
    _require(n_prototypes > 0, "there are no prototypes")
    shapes: dict[str, tuple[torch.dtype | None, tuple[int, ...]]] = {
        "vectors": (None, (n_prototypes, prototype_dim(record.encoder))),
        "labels": (torch.int64, (n_prototypes,)),
        "counts": (torch.int64, (n_prototypes,)),
        "purity": (None, (n_prototypes,)),
        "nearest": (torch.int64, (n_prototypes, n_nearest)),
        "distances": (None, (n_prototypes, n_nearest)),
        "percentiles": (None, (n_prototypes, n_nearest)),
        "quantiles": (None, (n_prototypes, N_QUANTILES)),
    }
    for name, (dtype, shape) in shapes.items():
        _check_shape(f"prototypes.{name}", tensors[name], dtype, shape)
    n_classes = len(record.class_names)
    _require(is_finite(vectors), "prototypes.vectors has values that are not finite")
    _require(
        bool(((labels >= 0) & (labels < n_classes)).all()),
        f"prototypes.labels must be classes from 0 to {n_classes - 1}",
    )
    positions = tensors.get("positions")
    if positions is not None:
        assert record.encoder.patches is not None  # else it is unknown
        _check_shape("prototypes.positions", positions, torch.int64, (n_prototypes, n_nearest))
        is_position = (positions >= -1) & (positions < record.encoder.patches.n_patches)
        _require(bool(is_position.all()), "prototypes.positions must be positions of the feature map")
    if record.classifier.name not in _WEIGHTED:
        n_of_class = torch.bincount(labels, minlength=n_classes)
        _require(bool(n_of_class.all()), f"class {record.class_names[int(n_of_class.argmin())]!r} has no prototypes")
    _require(bool((counts >= 0).all()), "prototypes.counts has negative numbers")
    _require(_within(purity, 0, 1), "prototypes.purity must lie between 0 and 1")
    _require(bool((nearest >= -1).all()), "prototypes.nearest has numbers below -1")
    exists = nearest >= 0
    _require(
        bool((distances >= 0).all()) and is_finite(distances[exists]),
        "prototypes.distances must be finite and not negative",
    )
    _require(_within(percentiles, 0, 100), "prototypes.percentiles must lie between 0 and 100")
    _check_quantiles(quantiles, counts)
    if record.annotations is not None:
        _require(
            len(record.annotations) == n_prototypes,
            f"annotations are of {len(record.annotations)} prototypes; there are {n_prototypes}",
        )
    if record.images is not None:
        _require(
            len(record.images) == n_prototypes,
            f"images lists pictures of {len(record.images)} prototypes; there are {n_prototypes}",
        )


def _check_quantiles(quantiles: Tensor, counts: Tensor) -> None:
    """Checks that quantiles do not fall, and are given exactly for prototypes with training samples."""
    empty = quantiles.isnan().all(1)
    rows = quantiles[~empty].double()
    _require(is_finite(rows) and bool((rows >= 0).all()), "prototypes.quantiles must be finite and not negative")
    slack = _ROUNDING * rows.amax(1, keepdim=True) if len(rows) else 0
    _require(bool((rows.diff(dim=1) >= -slack).all()), "prototypes.quantiles must not fall")
    _require(
        torch.equal(empty, counts == 0), "prototypes.quantiles must be given where prototypes.counts is not 0, only"
    )


def _check_classifier(record: SavedModel, tensors: Mapping[str, Tensor], n_prototypes: int) -> None:
    """Checks the tensors of the classifier, which only linear heads have."""
    linear = record.classifier.name in _WEIGHTED
    unknown = [name for name in tensors if not linear or name not in ("weight", "bias")]
    if unknown:
        raise LookalikeError(f"the tensor {shown(f'classifier.{unknown[0]}')} is unknown")
    if not linear:
        return
    if "weight" not in tensors:
        raise LookalikeError("the tensor 'classifier.weight' is missing")
    n_classes = len(record.class_names)
    _check_shape("classifier.weight", tensors["weight"], None, (n_classes, n_prototypes))
    if "bias" in tensors:
        _check_shape("classifier.bias", tensors["bias"], None, (n_classes,))
    for name, tensor in tensors.items():
        _require(is_finite(tensor), f"classifier.{name} has values that are not finite")
    if record.classifier.name == PatchLinear.name:
        _require(bool((tensors["weight"] >= 0).all()), "classifier.weight has negative numbers")


def _within(tensor: Tensor, low: float, high: float) -> bool:
    """Returns whether all values but NaN are in a range, up to rounding."""
    values = tensor[~tensor.isnan()].double()
    slack = _ROUNDING * (high - low)
    return bool(((values >= low - slack) & (values <= high + slack)).all())


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise LookalikeError(message)


def _check_shape(name: str, tensor: Tensor, dtype: torch.dtype | None, shape: tuple[int, ...]) -> None:
    """Checks type and shape; a type of None stands for any floating-point type."""
    if dtype is None and not tensor.is_floating_point():
        raise LookalikeError(f"{name} must be floating-point numbers, not {tensor.dtype}")
    if dtype is not None and tensor.dtype != dtype:
        raise LookalikeError(f"{name} must be {dtype}, not {tensor.dtype}")
    if tuple(tensor.shape) != shape:
        raise LookalikeError(f"{name} must have the shape {shape}, not {shown(tuple(tensor.shape))}")
