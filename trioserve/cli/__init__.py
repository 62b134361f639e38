"""The command line. `main` is what `trioserve` runs."""

from trioserve.cli.commands import main

__all__ = ["main"]
