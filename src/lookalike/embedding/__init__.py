"""From images to embeddings: one pass of the encoder, kept with all that is needed to trust it later."""

from lookalike.embedding.precision import PRECISIONS, Precision
from lookalike.embedding.run import as_encoder, embed, name_samples
from lookalike.embedding.store import EmbeddingStore

__all__ = [
    "PRECISIONS",
    "EmbeddingStore",
    "Precision",
    "as_encoder",
    "embed",
    "name_samples",
]
