"""Embeds data sets in one pass of the encoder, and stores the embeddings with a record of what they depend on."""

from lookalike.embedding.options import EmbeddingOptions, EmbeddingSettings
from lookalike.embedding.precision import PRECISIONS, Precision
from lookalike.embedding.run import as_encoder, embed, name_samples
from lookalike.embedding.store import EmbeddingStore

__all__ = [
    "PRECISIONS",
    "EmbeddingOptions",
    "EmbeddingSettings",
    "EmbeddingStore",
    "Precision",
    "as_encoder",
    "embed",
    "name_samples",
]
