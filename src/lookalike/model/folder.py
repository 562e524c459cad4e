"""A prototype model's folder: writing its parts, and reading them from a folder that may come from anyone."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.errors import LookalikeError
from lookalike._core.records import one_line, plain_json
from lookalike.data import Preprocessing
from lookalike.encoder import Encoder, blank_inputs, device_of, dtype_of, load_weights, place, unwrapped
from lookalike.encoder.saved import build_network
from lookalike.model.card import model_card
from lookalike.model.classifier import TransparentClassifier, make_classifier
from lookalike.model.prototypes import Prototypes
from lookalike.model.record import SavedModel
from lookalike.model.similarity import Similarity, make_similarity
from lookalike.model.tensors import TRAINING_KEYS, check_model_tensors
from lookalike.networks import without_head
from lookalike.saved import (
    NamedOptions,
    SavedClassifier,
    SavedEncoder,
    below,
    check_not_finite,
    encode_image,
    kind_of_folder,
    not_finite_buffers,
    read_pictures,
    read_saved,
    refusing,
    write_saved,
)

_PROBE_TOLERANCE = 1e-3  # of its norm; other processors round otherwise
_HALF_TOLERANCE = 3e-2


@dataclass(frozen=True)
class ModelParts:
    """What a prototype model is made of; the arguments of ``PrototypeModel``."""

    encoder: nn.Module
    prototypes: Prototypes
    similarity: Similarity
    classifier: TransparentClassifier
    preprocessing: Preprocessing | None
    images: Tensor | None
    value_range: Tensor | None
    provenance: dict[str, Any]
    training_keys: Tensor | None


def write_model(
    folder: str | Path,
    parts: ModelParts,
    state: Mapping[str, Any],
    *,
    gallery: bytes | None,
    extra_files: Mapping[str, bytes],
    overwrite: bool,
) -> None:
    """Writes a model's folder.

    Args:
        folder: Where to; it appears only when it is complete.
        parts: The model's; pictures are left out where ``images`` is None.
        state: The model's ``state_dict``.
        gallery: A PNG file of all prototypes, or None.
        extra_files: What else to put there, by name.
        overwrite: Replace the folder if there is one.

    Raises:
        LookalikeError: If the folder exists, or the model is not one that could be loaded again.
    """
    encoder = parts.encoder
    if not isinstance(encoder, Encoder):
        name = type(encoder).__name__
        raise LookalikeError(
            f"a {name} cannot be saved as an encoder; make the model with Encoder({name.lower()}, sample, "
            'head="output") in its place'
        )
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise LookalikeError(f"the network keeps state that is no tensor and cannot be saved: {', '.join(others[:5])}")
    files = dict(extra_files)
    names = None
    if parts.images is not None:
        names = [[f"images/{j:05d}-{rank}.png" for rank in range(len(row))] for j, row in enumerate(parts.images)]
        for row, line in zip(parts.images, names, strict=True):
            files |= {name: encode_image(pixels) for pixels, name in zip(row, line, strict=True)}
    if gallery is not None:
        files["gallery.png"] = gallery
    with refusing("the model cannot be saved"):
        record = SavedModel(
            encoder=SavedEncoder(
                network=type(encoder.model).__name__,
                spec=plain_json(encoder.spec),
                head=encoder.head_name,
                output=encoder.output_key,
                inputs=plain_json(encoder.input_spec),
                embedding_dim=encoder.embedding_dim,
                not_finite=not_finite_buffers(encoder.model),
                output_names=list(encoder.outputs.names) if encoder.outputs and encoder.outputs.names else None,
            ),
            similarity=NamedOptions(parts.similarity.name, plain_json(parts.similarity.options())),
            classifier=NamedOptions(parts.classifier.name, plain_json(parts.classifier.options())),
            class_names=list(parts.prototypes.class_names),
            preprocessing=parts.preprocessing,
            value_range=None if parts.value_range is None else tuple(parts.value_range.tolist()),
            images=names,
            gallery=gallery is not None,
            provenance=plain_json(dict(parts.provenance)),
        )
        tensors = {**state, "probe": encoder.probe()}
        if parts.training_keys is not None:
            tensors[TRAINING_KEYS] = parts.training_keys
        check_model_tensors(record, tensors)
    files["README.md"] = model_card(record, parts.prototypes).encode("utf-8", "backslashreplace")
    write_saved(folder, record, tensors, files, overwrite=overwrite)


def read_model(folder: str | Path, network: nn.Module | None) -> ModelParts:
    """Reads a model's folder. Nothing in it is executed, and everything is checked before the network is built.

    Args:
        folder: What ``write_model`` wrote.
        network: The network, where it was made by the user's own code. A copy of it gets the saved weights.

    Raises:
        LookalikeError: If a file is missing or altered, or the network cannot be rebuilt or computes something else.
    """
    if kind_of_folder(folder) == SavedClassifier.kind:
        raise LookalikeError(
            f"{str(folder)!r} holds a classifier, which has no prototypes yet: convert it first (lookalike convert, "
            "or convert(load_classifier(folder), data))"
        )
    record, tensors = read_saved(folder, SavedModel)
    what = f"the saved model in {str(folder)!r}"
    with refusing(f"{what} cannot be used"):
        check_model_tensors(record, tensors)
        images = read_pictures(Path(folder), record.images) if record.images is not None else None
        values = torch.tensor(record.value_range) if record.value_range is not None else None
        if images is not None and values is not None and images.shape[-1] != values.shape[1]:
            raise LookalikeError(f"its pictures have {images.shape[-1]} channels, its value_range {values.shape[1]}")
        prototypes = _prototypes(record, tensors)
        similarity, classifier = _similarity(record, tensors), _classifier(record, tensors)
        _try(prototypes, similarity, classifier)
    encoder = _encoder(record, tensors, network, what)
    return ModelParts(
        encoder,
        prototypes,
        similarity,
        classifier,
        record.preprocessing,
        images,
        values,
        record.provenance,
        tensors.get(TRAINING_KEYS),
    )


def _encoder(record: SavedModel, tensors: Mapping[str, Tensor], network: nn.Module | None, what: str) -> Encoder:
    """Builds the encoder and compares what it computes with what the saved one did."""
    described, weights = record.encoder, below("encoder.model", tensors)
    if network is None:
        if described.spec is None:
            raise LookalikeError(
                f"the network of {what}, a {described.network}, was given as an object and cannot be rebuilt from its "
                "name; make it yourself and call load(folder, model=network)"
            )
        with refusing(f"{what} cannot be used"):
            network = build_network(described.spec, weights)
    else:
        network = copy.deepcopy(unwrapped(network))
        if (described.spec or {}).get("name") == "without-head":  # its weights had none when it was converted
            assert described.spec is not None  # noqa: S101 - as just seen
            without_head(network, head=described.spec["args"]["head"])
    network.eval()
    with refusing(f"{what} cannot be used"):
        check_not_finite(network, described.not_finite)
    load_weights(network, weights, f"the saved weights in {what}")
    try:
        sample = place(blank_inputs(described.inputs), device_of(network), dtype_of(network))
        encoder = Encoder(
            network,
            sample,
            head=described.head or "output",
            output=described.output,
            spec=described.spec,
            output_names=described.output_names or [],
        )
        probe = encoder.probe()
    except LookalikeError as error:
        raise LookalikeError(f"{what} cannot be used: {one_line(error)}") from error
    except Exception as error:  # a network raises whatever it likes at inputs that are not its own
        raise LookalikeError(
            f"{what} cannot be used: its network cannot run its inputs: {type(error).__name__}: {one_line(error)}"
        ) from error
    expected = tensors["probe"]
    half = dtype_of(network) in (torch.float16, torch.bfloat16)
    if not _is_near(probe, expected, _HALF_TOLERANCE if half else _PROBE_TOLERANCE):
        raise LookalikeError(
            f"the network does not compute what the one saved in {what.removeprefix('the saved model in ')} did, "
            "though its weights fit: another architecture (strides, padding, activations) or another input size"
        )
    return encoder


def _is_near(probe: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Compares probes relative to their norm; what is not finite in one must be the same in the other."""
    if probe.shape != expected.shape:
        return False
    finite = expected.isfinite()
    if not torch.equal(finite, probe.isfinite()):
        return False
    difference = (probe - expected)[finite].double().norm()
    return bool(difference <= tolerance * (expected[finite].double().norm() + 1e-6))


def _prototypes(record: SavedModel, tensors: Mapping[str, Tensor]) -> Prototypes:
    stored = below("prototypes", tensors)
    return Prototypes(stored.pop("vectors"), stored.pop("labels"), record.class_names, **stored)


def _similarity(record: SavedModel, tensors: Mapping[str, Tensor]) -> Similarity:
    """Makes the similarity again, with what it has learned."""
    similarity = make_similarity(record.similarity.name, record.similarity.options)
    learned = below("similarity", tensors)
    state = similarity.state_dict()
    blank = {name for name, buffer in similarity._buffers.items() if buffer is None}  # of a metric not yet learned
    for name in learned:
        if name not in state and name not in blank:
            raise LookalikeError(f"the tensor 'similarity.{name}' is unknown")
    missing = [name for name in state if name not in learned]
    if missing:
        raise LookalikeError(f"the tensor 'similarity.{missing[0]}' is missing")
    for name in blank & set(learned):
        similarity.register_buffer(name, learned[name])
    try:
        similarity.load_state_dict(learned)
    except RuntimeError as error:
        raise LookalikeError(f"the similarity {record.similarity.name!r} does not fit: {one_line(error)}") from error
    return similarity


def _classifier(record: SavedModel, tensors: Mapping[str, Tensor]) -> TransparentClassifier:
    return make_classifier(record.classifier.name, record.classifier.options, below("classifier", tensors))


def _try(prototypes: Prototypes, similarity: Similarity, classifier: TransparentClassifier) -> None:
    """Compares a few prototypes with all, as an embedding would be."""
    vectors = prototypes.vectors
    try:
        with torch.no_grad():
            similarities = similarity(vectors[:2], vectors)
            scores = classifier(similarities, prototypes.labels, prototypes.n_classes)
    except LookalikeError:
        raise
    except Exception as error:  # a user's own similarity raises whatever it likes
        raise LookalikeError(f"its parts do not fit: {type(error).__name__}: {one_line(error)}") from error
    if similarities.shape != (len(vectors[:2]), len(vectors)) or bool(similarities.isnan().any()):
        raise LookalikeError(f"the similarity {similarity.name!r} gives no similarities of its prototypes")
    if scores.shape != (len(similarities), prototypes.n_classes):
        raise LookalikeError(f"the classifier {classifier.name!r} gives no scores of its classes")
