"""Checks that stored embeddings are those of an encoder, and of given data."""

from lookalike._core.errors import LookalikeError
from lookalike._core.identity import identifying_as
from lookalike.data import Batches
from lookalike.embedding.key import fingerprint_layers, identify_weights
from lookalike.embedding.store import EmbeddingStore
from lookalike.encoder import Encoder


def check_store(store: EmbeddingStore, encoder: Encoder, batches: Batches | None) -> None:
    """Checks that stored embeddings were made by this encoder and from these data.

    Raises:
        LookalikeError: If not.
    """
    if store.embeddings.shape[1] != encoder.embedding_dim:
        raise LookalikeError(
            f"the stored embeddings have {store.embeddings.shape[1]} dimensions, the encoder's {encoder.embedding_dim}"
        )
    expected = {"head": encoder.head_name, "layers": fingerprint_layers(encoder.model)}
    with identifying_as(store.info.get("weights")):  # embeddings of an earlier version are compared in its way
        expected |= identify_weights(encoder)
        if batches is not None:
            expected |= {"data": batches.fingerprint(), "transform": batches.transform_fingerprint()}
    differing = [name for name, value in expected.items() if name in store.info and store.info[name] != value]
    n_samples = None if batches is None else batches.total
    if n_samples is not None and int(store.indices.max(initial=-1)) >= n_samples:
        raise LookalikeError(
            f"the stored embeddings are of more samples than the data have ({n_samples}); embed the data again"
        )
    if differing:
        raise LookalikeError(
            f"the stored embeddings were made with other {' and '.join(differing)}; embed the data again"
        )
