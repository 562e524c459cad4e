"""The command ``lookalike``: one module per command."""

from lookalike._core.startup import ending_at_once

with ending_at_once():  # the imports of the command line take some tenths of a second
    from lookalike.cli.app import app, main

__all__ = ["app", "main"]
