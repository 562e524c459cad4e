"""Identity of data and weights: are these the arrays that stored results were made from?

Identity needs no cryptography: nobody gains from data that pass for others, and SHA-256 reads memory ten times slower
than it could be read. So arrays are identified by XXH3 (128 bits); large ones in parts, as many at a time as there are
cores, since one core reads memory slower than a GPU embeds it. Such texts end in ``:xxh3p``. Saved models are checked
by SHA-256, see ``lookalike._core.provenance``: there a file may come from anyone.

Earlier versions identified arrays by SHA-256, or by XXH3 in one piece (``:xxh3``). What they stored stays usable:
inside ``identifying_as(stored)`` everything is identified as it was then.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import numpy as np
import xxhash
from torch import Tensor

from lookalike._core.cores import n_cores
from lookalike._core.provenance import (
    add_array,
    add_tensors,
    canonical_json,
    fingerprint_array,
    fingerprint_json,
    fingerprint_tensors,
)

Scheme = Literal["xxh3p", "xxh3", "sha256"]
_scheme: ContextVar[Scheme] = ContextVar("scheme", default="xxh3p")
_PART = 1 << 25  # bytes


def scheme_of(identity: str) -> Scheme:
    """Returns how a stored text identifies data."""
    return next((scheme for scheme in get_args(Scheme) if identity.endswith(f":{scheme}")), "sha256")


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
    digest = _new_digest()
    add_tensors(digest, tensors)
    return _text(digest.hexdigest())


def identify_array(array: np.ndarray[Any, Any]) -> str:
    """Returns an identity of an array's type, shape and values."""
    if current_scheme() == "sha256":
        return fingerprint_array(array)
    digest = _new_digest()
    add_array(digest, array)
    return _text(digest.hexdigest())


def identify_json(value: Any) -> str:
    """Returns an identity of a JSON value, usually one that contains identities; the order of keys does not matter."""
    if current_scheme() == "sha256":
        return fingerprint_json(value)
    return _text(xxhash.xxh3_128_hexdigest(canonical_json(value)))


def _text(digest: str) -> str:
    return f"{digest}:{current_scheme()}"


def _new_digest() -> "_InParts | xxhash.xxh3_128":
    return _InParts() if current_scheme() == "xxh3p" else xxhash.xxh3_128()


class _InParts:
    """XXH3 of data of which large pieces stand for themselves by the hashes of their parts."""

    def __init__(self) -> None:
        self._digest = xxhash.xxh3_128()

    def update(self, data: Any) -> None:
        """Adds bytes."""
        view = memoryview(data)
        if view.nbytes <= _PART:
            self._digest.update(view)
            return
        numbers = np.frombuffer(view, np.uint8)
        parts = (numbers[start : start + _PART] for start in range(0, len(numbers), _PART))
        with ThreadPoolExecutor(n_cores()) as pool:
            self._digest.update(b"".join(pool.map(xxhash.xxh3_128_digest, parts)))

    def hexdigest(self) -> str:
        """Returns the hash of all that was added."""
        return self._digest.hexdigest()
