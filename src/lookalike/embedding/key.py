"""What embeddings depend on, so that no others are taken for them."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from lookalike._core.provenance import fingerprint_json, fingerprint_tensors
from lookalike._core.working_folder import differences
from lookalike.encoder import Encoder

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def embedding_key(encoder: Encoder, data: str, transform: str, *, precision: str, dtype: str) -> dict[str, Any]:
    """Returns everything that the embeddings of a data set depend on.

    What is not in it changes no more than the last digits of a row: the batch size, the number of workers, the device
    and the versions of libraries.

    Args:
        encoder: Makes the embeddings.
        data: The data's fingerprint.
        transform: That of what the samples go through.
        precision: As it was asked for; what ``"auto"`` chose is noted with the first batch.
        dtype: In which the embeddings are kept.

    Returns:
        JSON values by name.
    """
    outputs = None if encoder.outputs is None else asdict(encoder.outputs)
    return {
        "weights": fingerprint_tensors(encoder.model.state_dict()),
        "data": data,
        "transform": transform,
        "head": encoder.head_name,
        "layers": fingerprint_layers(encoder.model),
        "outputs": outputs,
        "dtype": dtype,
        "precision": precision,
    }


def fingerprint_layers(model: nn.Module) -> str:
    """Returns a SHA-256 of a network's layers and their settings, which have no weights: which activation, say."""
    layers = [
        [name, type(layer).__qualname__, _ADDRESS.sub("", layer.extra_repr())] for name, layer in model.named_modules()
    ]
    return fingerprint_json(layers)


def other_than(held: Mapping[str, Any], key: Mapping[str, Any], chosen: Any = None) -> str:
    """Names what differs between the key of embeddings that are there and one that is asked for.

    Args:
        held: The key of those that are there.
        key: What is asked for.
        chosen: The precision that they were made in: ``"auto"`` and what it chose are the same embeddings.
    """
    same = chosen is not None and key["precision"] == chosen
    return differences({**held, "precision": key["precision"]} if same else held, key)
