"""Embeddings to prototypes: clusters each class, finds the data behind each prototype, and fits the temperature."""
