"""Plumbing that every room uses and that knows nothing of models: errors, checks, files, folders, provenance."""
