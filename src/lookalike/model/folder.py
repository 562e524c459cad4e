"""A prototype model's folder: writing its parts, and reading them from a folder that may come from anyone.

- ``config.json``: what the model says of itself (``record.py``), with a checksum of each file (``saved/folder.py``)
- ``model.safetensors``: weights, prototypes, what similarity and classifier learned (``tensors.py``)
- ``images/``, ``gallery.png``: the training images that show the prototypes
- ``README.md``: the model card (``card.py``)
"""

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lookalike._core.cores import n_cores
from lookalike._core.errors import LookalikeError
from lookalike._core.records import one_line, plain_json
from lookalike._core.untouched import copy_of
from lookalike.data import Preprocessing
from lookalike.doubt import Doubt
from lookalike.encoder import Encoder, blank_inputs, device_of, dtype_of, load_weights, place, unwrapped
from lookalike.encoder.patches import PatchEncoder
from lookalike.encoder.saved import build_network
from lookalike.model.annotations import Annotations
from lookalike.model.card import model_card
from lookalike.model.classifier import TransparentClassifier
from lookalike.model.decision import make_classifier
from lookalike.model.images import Origin
from lookalike.model.prototypes import Prototypes
from lookalike.model.record import SavedModel
from lookalike.model.similarity import Similarity, make_similarity
from lookalike.model.tensors import TRAINING_KEYS, check_model_tensors, restored_doubt
from lookalike.networks import without_head
from lookalike.saved import (
    NamedOptions,
    SavedClassifier,
    SavedEncoder,
    SavedPatches,
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

_PROBE_TOLERANCE = 1e-3  # of the probe's norm: other processors round differently
_HALF_TOLERANCE = 3e-2  # the same for networks in half precision

GALLERY = "gallery.png"  # all prototypes in one picture


@dataclass(frozen=True)
class ModelParts:
    """The parts of a prototype model: the arguments of ``PrototypeModel``."""

    encoder: nn.Module
    prototypes: Prototypes
    similarity: Similarity
    classifier: TransparentClassifier
    preprocessing: Preprocessing | None
    origin: Origin
    doubt: Doubt | None
    annotations: Annotations | None


def write_model(
    folder: str | Path,
    parts: ModelParts,
    state: Mapping[str, Any],
    *,
    gallery: bytes | None,
    extra_files: Mapping[str, bytes],
    overwrite: bool,
    discard_edits: bool,
) -> None:
    """Writes a model's folder.

    Args:
        folder: Path of the folder. It appears only when it is complete.
        parts: The model's parts. If its origin has no images, no pictures are written.
        state: The model's ``state_dict``.
        gallery: A PNG file of all prototypes, or None.
        extra_files: Contents of further files, by name.
        overwrite: Replace an existing folder.
        discard_edits: Replace it even if a history of edits is lost.

    Raises:
        LookalikeError: If the folder exists, or the model could not be loaded again.
    """
    encoder = parts.encoder
    if not isinstance(encoder, Encoder):
        name = type(encoder).__name__
        raise LookalikeError(
            f"a {name} cannot be saved as an encoder; make the model with Encoder({name.lower()}, sample, "
            'head="output") in its place'
        )
    not_tensors = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if not_tensors:
        raise LookalikeError(
            f"the network keeps state that is no tensor and cannot be saved: {', '.join(not_tensors[:5])}"
        )
    files = dict(extra_files)
    picture_names = None
    if parts.origin.images is not None:
        picture_names, pictures = _encoded_pictures(parts.origin.images)
        files |= pictures
    if gallery is not None:
        files[GALLERY] = gallery
    with refusing("the model cannot be saved"):
        record = _record_of(parts, encoder, picture_names, has_gallery=gallery is not None)
        tensors = {**state, "probe": encoder.probe()}
        if parts.origin.training_keys is not None:
            tensors[TRAINING_KEYS] = parts.origin.training_keys
        check_model_tensors(record, tensors)
    files["README.md"] = model_card(record, parts.prototypes).encode("utf-8", "backslashreplace")
    write_saved(folder, record, tensors, files, overwrite=overwrite, discard_edits=discard_edits)


def _encoded_pictures(images: Tensor) -> tuple[list[list[str]], dict[str, bytes]]:
    """Encodes images [P, M, H, W, C] as PNG; returns their file names [P, M], and the files by name."""
    names = [[f"images/{j:05d}-{rank}.png" for rank in range(images.shape[1])] for j in range(len(images))]
    with ThreadPoolExecutor(n_cores()) as pool:
        files = list(pool.map(encode_image, images.flatten(0, 1)))
    return names, dict(zip(itertools.chain(*names), files, strict=True))


def _record_of(
    parts: ModelParts, encoder: Encoder, picture_names: list[list[str]] | None, *, has_gallery: bool
) -> SavedModel:
    """Returns the content of ``config.json``."""
    origin = parts.origin
    return SavedModel(
        encoder=SavedEncoder(
            network=type(encoder.model).__name__,
            spec=plain_json(encoder.spec),
            head=encoder.head_name,
            output=encoder.output_key,
            inputs=plain_json(encoder.input_spec),
            embedding_dim=encoder.embedding_dim,
            not_finite=not_finite_buffers(encoder.model),
            output_names=list(encoder.outputs.names) if encoder.outputs and encoder.outputs.names else None,
            patches=SavedPatches(list(encoder.layers), list(encoder.scales), encoder.grid)
            if isinstance(encoder, PatchEncoder)
            else None,
        ),
        similarity=NamedOptions(parts.similarity.name, plain_json(parts.similarity.options())),
        classifier=NamedOptions(parts.classifier.name, plain_json(parts.classifier.options())),
        class_names=list(parts.prototypes.class_names),
        preprocessing=parts.preprocessing,
        value_range=None if origin.value_range is None else tuple(origin.value_range.tolist()),
        images=picture_names,
        training_names={str(index): name for index, name in sorted((origin.training_names or {}).items())},
        gallery=has_gallery,
        provenance=plain_json(dict(origin.provenance)),
        doubt=None if parts.doubt is None else parts.doubt.facts,
        annotations=parts.annotations,
    )


def read_model(folder: str | Path, network: nn.Module | None) -> ModelParts:
    """Reads a model's folder. Nothing in it is executed, and everything is checked before the network is built.

    Args:
        folder: A folder written by ``write_model``.
        network: The network, if it comes from the user's own code. A copy of it gets the saved weights.

    Raises:
        LookalikeError: If a file is missing or changed, or the network cannot be rebuilt or computes other values.
    """
    if kind_of_folder(folder) == SavedClassifier.kind:
        raise LookalikeError(
            f"{str(folder)!r} holds a classifier, which has no prototypes yet: convert it first (lookalike convert, "
            "or convert(load_classifier(folder), data))"
        )
    record, tensors = read_saved(folder, SavedModel)
    described = f"the saved model in {str(folder)!r}"
    with refusing(f"{described} cannot be used"):
        check_model_tensors(record, tensors)
        images = read_pictures(Path(folder), record.images) if record.images is not None else None
        value_range = torch.tensor(record.value_range, dtype=torch.float32) if record.value_range is not None else None
        if images is not None and value_range is not None and images.shape[-1] != value_range.shape[1]:
            raise LookalikeError(
                f"its pictures have {images.shape[-1]} channels, its value_range {value_range.shape[1]}"
            )
        prototypes = _restored_prototypes(record, tensors)
        similarity, classifier = _restored_similarity(record, tensors), _restored_classifier(record, tensors)
        _check_parts_fit(prototypes, similarity, classifier)
        doubt = restored_doubt(record, tensors)
    encoder = _restored_encoder(record, tensors, network, described)
    return ModelParts(
        encoder,
        prototypes,
        similarity,
        classifier,
        record.preprocessing,
        Origin(
            images=images,
            value_range=value_range,
            provenance=record.provenance,
            training_keys=tensors.get(TRAINING_KEYS),
            training_names={int(index): name for index, name in record.training_names.items()},
        ),
        doubt,
        record.annotations,
    )


def _restored_encoder(
    record: SavedModel, tensors: Mapping[str, Tensor], network: nn.Module | None, described: str
) -> Encoder:
    """Builds the encoder, and checks that it computes the same embedding as the saved one."""
    saved, weights = record.encoder, below("encoder.model", tensors)
    if network is None:
        if saved.spec is None:
            raise LookalikeError(
                f"the network of {described}, a {saved.network}, was given as an object and cannot be rebuilt from its "
                "name; make it yourself and call load(folder, model=network)"
            )
        with refusing(f"{described} cannot be used"):
            network = build_network(saved.spec, weights)
    else:
        network = copy_of(unwrapped(network))
        if (saved.spec or {}).get("name") == "without-head":  # it had no head when it was converted
            assert saved.spec is not None  # as just seen
            without_head(network, head=saved.spec["args"]["head"])
    network.eval()
    with refusing(f"{described} cannot be used"):
        check_not_finite(network, saved.not_finite)
    load_weights(network, weights, f"the saved weights in {described}")
    try:
        sample = place(blank_inputs(saved.inputs), device_of(network), dtype_of(network))
        encoder = Encoder(
            network,
            sample,
            head=saved.head or "output",
            output=saved.output,
            spec=saved.spec,
            output_names=saved.output_names or [],
        )
        if saved.patches is not None:
            encoder = _restored_patches(encoder, sample, saved.patches)
        probe = encoder.probe()
    except LookalikeError as error:
        raise LookalikeError(f"{described} cannot be used: {one_line(error)}") from error
    except Exception as error:  # a network may raise any exception if it cannot run these inputs
        raise LookalikeError(
            f"{described} cannot be used: its network cannot run its inputs: {type(error).__name__}: {one_line(error)}"
        ) from error
    expected = tensors["probe"]
    is_half = dtype_of(network) in (torch.float16, torch.bfloat16)
    if not _is_near(probe, expected, _HALF_TOLERANCE if is_half else _PROBE_TOLERANCE):
        raise LookalikeError(
            f"the network does not compute what the one saved in {described.removeprefix('the saved model in ')} did, "
            "though its weights fit: another architecture (strides, padding, activations) or another input size"
        )
    return encoder


def _restored_patches(encoder: Encoder, sample: Any, saved: SavedPatches) -> PatchEncoder:
    """Restores an encoder of patches from one of whole images."""
    restored = PatchEncoder(encoder, sample, saved.layers, scales=saved.scales)
    if restored.grid != saved.grid:
        raise LookalikeError(f"its feature maps have {restored.grid} positions; the saved ones have {saved.grid}")
    return restored


def _is_near(probe: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Returns whether two probes agree relative to their norm, with non-finite values in the same places."""
    if probe.shape != expected.shape:
        return False
    finite = expected.isfinite()
    if not torch.equal(finite, probe.isfinite()):
        return False
    difference = (probe - expected)[finite].double().norm()
    return bool(difference <= tolerance * (expected[finite].double().norm() + 1e-6))


def _restored_prototypes(record: SavedModel, tensors: Mapping[str, Tensor]) -> Prototypes:
    stored = below("prototypes", tensors)
    return Prototypes(stored.pop("vectors"), stored.pop("labels"), record.class_names, **stored)


def _restored_similarity(record: SavedModel, tensors: Mapping[str, Tensor]) -> Similarity:
    """Restores the similarity with everything that it has learned."""
    similarity = make_similarity(record.similarity.name, record.similarity.options)
    learned = below("similarity", tensors)
    state = similarity.state_dict()
    blank = {
        name for name, buffer in similarity._buffers.items() if buffer is None
    }  # of a metric that is not fitted yet
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


def _restored_classifier(record: SavedModel, tensors: Mapping[str, Tensor]) -> TransparentClassifier:
    return make_classifier(record.classifier.name, record.classifier.options, below("classifier", tensors))


def _check_parts_fit(prototypes: Prototypes, similarity: Similarity, classifier: TransparentClassifier) -> None:
    """Checks that the parts fit together, by classifying two prototypes as if they were embeddings."""
    vectors = prototypes.vectors
    try:
        with torch.no_grad():
            similarities = similarity(vectors[:2], vectors)
            evidence = similarities[:, None] if classifier.of_patches else similarities
            scores = classifier(evidence, prototypes.labels, prototypes.n_classes)
    except LookalikeError:
        raise
    except Exception as error:  # a user's similarity may raise any exception
        raise LookalikeError(f"its parts do not fit: {type(error).__name__}: {one_line(error)}") from error
    if similarities.shape != (len(vectors[:2]), len(vectors)) or bool(similarities.isnan().any()):
        raise LookalikeError(f"the similarity {similarity.name!r} gives no similarities of its prototypes")
    if scores.shape != (len(similarities), prototypes.n_classes):
        raise LookalikeError(f"the classifier {classifier.name!r} gives no scores of its classes")
