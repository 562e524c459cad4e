"""Identity of data and weights: are these the arrays that stored results were made from?

Identity needs no cryptography: nobody gains from data that pass for others, and SHA-256 reads memory ten times slower
than it could be read. So arrays are identified by XXH3 (128 bits), whose texts end in ``:xxh3``. Saved models are
checked by SHA-256, see ``lookalike._core.provenance``: there a file may come from anyone.

Earlier versions identified arrays by SHA-256. What they stored stays usable: inside ``identifying_as(stored)``
everything is identified as it was then.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np
import xxhash
from torch import Tensor

from lookalike._core.provenance import (
    add_array,
    add_tensors,
    canonical_json,
    fingerprint_array,
    fingerprint_json,
    fingerprint_tensors,
)

Scheme = Literal["xxh3", "sha256"]
_ENDING = ":xxh3"
_scheme: ContextVar[Scheme] = ContextVar("scheme", default="xxh3")


def scheme_of(identity: str) -> Scheme:
    """Returns how a stored text identifies data."""
    return "xxh3" if identity.endswith(_ENDING) else "sha256"


def current_scheme() -> Scheme:
    """Returns how data are identified here; ``identifying_as`` changes it."""
    return _scheme.get()


@contextmanager
def identifying_as(identity: Any) -> Iterator[None]:
    """Identifies data inside the ``with`` block as ``identity`` does, so that both can be compared.

    Args:
        identity: A stored identity, or ``"sha256"``; None changes nothing.
    """
    token = _scheme.set(scheme_of(identity) if isinstance(identity, str) else current_scheme())
    try:
        yield
    finally:
        _scheme.reset(token)


def are_comparable(first: Any, second: Any) -> bool:
    """Says whether two stored identities are of one scheme. If not, they differ even for the same data."""
    return isinstance(first, str) and isinstance(second, str) and scheme_of(first) == scheme_of(second)


def identify_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Returns an identity of names, types, shapes and values; order and device do not matter."""
    if current_scheme() == "sha256":
        return fingerprint_tensors(tensors)
    digest = xxhash.xxh3_128()
    add_tensors(digest, tensors)
    return digest.hexdigest() + _ENDING


def identify_array(array: np.ndarray[Any, Any]) -> str:
    """Returns an identity of an array's type, shape and values."""
    if current_scheme() == "sha256":
        return fingerprint_array(array)
    digest = xxhash.xxh3_128()
    add_array(digest, array)
    return digest.hexdigest() + _ENDING


def identify_json(value: Any) -> str:
    """Returns an identity of a JSON value, usually one that contains identities; the order of keys does not matter."""
    if current_scheme() == "sha256":
        return fingerprint_json(value)
    return xxhash.xxh3_128_hexdigest(canonical_json(value)) + _ENDING
