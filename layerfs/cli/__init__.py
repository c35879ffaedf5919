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
    from layerfs.cli.quick import attempt

    code = attempt(sys.argv[1:])
    if code is not None:
        return code
    from layerfs.cli.app import run

    return run(sys.argv[1:])


def entry() -> int:
    """`main` as a process of its own: without Python's search for cycles and its long goodbye, which take longer than
    some commands do."""
    import gc

    gc.set_threshold(100_000, 50, 50)
    try:
        code = main()
    except KeyboardInterrupt:  # before the command had begun, or after it
        code = 130
    _leave(code)
    return code


def _leave(code: int) -> None:
    """Ends the process, unless a thread of it has something left to do."""
    import atexit
    import os

    threads = sys.modules.get("threading")
    if threads and any(not each.daemon for each in threads.enumerate() if each is not threads.main_thread()):
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # Python says what is to be said
    os._exit(code)


__all__ = ["entry", "main"]
