"""The command ``lookalike``: one module per command."""

from lookalike.cli.app import app, main

__all__ = ["app", "main"]
