"""The command line: docker's verbs on a layerfs store. Arguments in, text out; no logic."""

from __future__ import annotations

import sys


def main() -> int:
    """Entry point of `layerfs`; returns the exit code."""
    from layerfs.cli.output import silence_stdout, take_standard_streams

    take_standard_streams()
    if sys.argv[1:] in (["--version"], ["-v"]):  # answered without loading anything more
        from layerfs._version import __version__

        try:
            print(f"layerfs version {__version__}", flush=True)
        except OSError:  # a closed pipe, a full disk
            silence_stdout()
            return 1
        return 0
    from layerfs.cli.app import run

    return run(sys.argv[1:])


__all__ = ["main"]
