"""Helpers for all packages that do not depend on models: errors, checks, files, folders, provenance."""
