"""The key of embeddings: everything that they depend on, so that stored ones are used only where they fit."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from lookalike._core.identity import identify_tensors
from lookalike._core.provenance import fingerprint_json
from lookalike._core.working_folder import differences
from lookalike.encoder import Encoder
from lookalike.encoder.patches import PatchEncoder
from lookalike.encoder.unsaved import split_tensors, unsaved_values

UNSAVED, SETTINGS = "unsaved_weights", "python_attributes"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def embedding_key(encoder: Encoder, data: str, transform: str, *, precision: str, dtype: str) -> dict[str, Any]:
    """Returns everything that the embeddings of a data set depend on.

    The batch size, the number of workers, the device and the versions of libraries are left out: they change at most
    the last digits of a row.

    Args:
        encoder: Encoder that computes the embeddings.
        data: Fingerprint of the data.
        transform: Fingerprint of the samples' transform.
        precision: The requested precision. The one that ``"auto"`` stands for is noted with the first batch.
        dtype: Type in which the embeddings are stored.

    Returns:
        JSON values by name.
    """
    outputs = None if encoder.outputs is None else asdict(encoder.outputs)
    return {
        **identify_weights(encoder),
        "data": data,
        "transform": transform,
        "head": encoder.head_name,
        "layers": fingerprint_layers(encoder.model),
        "outputs": outputs,
        "dtype": dtype,
        "precision": precision,
        **patches_key(encoder),
        **({} if encoder.embedding_from in (None, "its output") else {"embedding": encoder.embedding_from}),
    }


def identify_weights(encoder: Encoder) -> dict[str, str]:
    """Returns the identity of a network's weights; and of what it computes with and does not save, if anything."""
    return {"weights": identify_tensors(encoder.model.state_dict()), **identify_unsaved(encoder)}


def identify_unsaved(encoder: Encoder) -> dict[str, str]:
    """Returns the identity of what a network computes with and does not save; empty if it saves everything.

    What its own passes write into, such as counters and memory for features, does not count.
    """
    values = {name: value for name, value in unsaved_values(encoder.model).items() if name in encoder.constants}
    tensors, others = split_tensors(values)
    identities = {UNSAVED: identify_tensors(tensors)} if tensors else {}
    return identities | ({SETTINGS: fingerprint_json(others)} if others else {})


def as_recorded(key: Mapping[str, Any], recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a key without what a recorded one does not say: an earlier version looked at saved weights alone."""
    return {name: value for name, value in key.items() if name not in (UNSAVED, SETTINGS) or name in recorded}


def patches_key(encoder: Encoder) -> dict[str, Any]:
    """Returns the layers that an encoder of patches reads; empty for an encoder of whole images."""
    return {"patches": [encoder.layers, encoder.scales]} if isinstance(encoder, PatchEncoder) else {}


def fingerprint_layers(model: nn.Module) -> str:
    """Returns a SHA-256 of a network's layers and their settings, such as activations, which weights do not show."""
    layers = [
        [name, type(layer).__qualname__, _ADDRESS.sub("", layer.extra_repr())] for name, layer in model.named_modules()
    ]
    return fingerprint_json(layers)


def key_differences(stored_key: Mapping[str, Any], key: Mapping[str, Any], used_precision: Any = None) -> str:
    """Names the entries in which the key of stored embeddings differs from a requested one; empty if they agree.

    Args:
        stored_key: Key of the stored embeddings.
        key: The requested key.
        used_precision: The precision that the stored embeddings were computed in. If it was chosen by ``"auto"``, a
            request for that very precision agrees with them.
    """
    key = as_recorded(key, stored_key)
    same_precision = used_precision is not None and key["precision"] == used_precision
    return differences({**stored_key, "precision": key["precision"]} if same_precision else stored_key, key)
