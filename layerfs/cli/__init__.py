"""The command line: docker's verbs on a layerfs store. Arguments in, text out; no logic."""

from __future__ import annotations

import sys


def main() -> int:
    """Entry point of `layerfs`; returns the exit code."""
    if sys.argv[1:] in (["--version"], ["-v"]):  # answered without loading anything
        from layerfs._version import __version__

        print(f"layerfs version {__version__}")
        return 0
    from layerfs.cli.app import run

    return run(sys.argv[1:])


__all__ = ["main"]
