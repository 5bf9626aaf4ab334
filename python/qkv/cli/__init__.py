"""The command line of the package: `qkv`."""

from qkv.cli.app import main

__all__ = ["main"]
