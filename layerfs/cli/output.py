"""What the command line prints: results on stdout, one line for each error on stderr, whatever they hold."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterable

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import LayerfsError

if TYPE_CHECKING:
    from typing import TextIO


def out(text: str) -> None:
    """One result. Not flushed: `finish` does that, and `fail` does so that both streams are in order."""
    sys.stdout.write(f"{text}\n")


def fail(message: str, code: int = 1) -> int:
    """Print one line on stderr, whatever the message holds; returns the code."""
    sys.stdout.flush()
    with contextlib.suppress(OSError):  # nobody reads it; the exit code still says it
        sys.stderr.write(f"layerfs: {harmless(message)}\n")
        sys.stderr.flush()
    return code


def harmless(text: str) -> str:
    """What others have written, as one line that does nothing to a terminal."""
    line = " ".join(_decoded(text).split())
    return "".join(c if c.isprintable() else _escaped(c) for c in line)


def _decoded(text: str) -> str:
    """Bytes that came as surrogates because of the locale, as the UTF-8 that they are."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte, out of somebody's JSON
        return text.encode("utf-8", "backslashreplace").decode()


def _escaped(char: str) -> str:
    """Control characters, and the surrogates that stand for bytes that are no UTF-8."""
    return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))


def reason(error: OSError) -> str:
    """An error of the host in one line, as the shell's tools say it: `open x: no such file or directory`."""
    if isinstance(error, LayerfsError) or error.strerror is None:
        return str(error)
    text = error.strerror[:1].lower() + error.strerror[1:]
    return f"{os.fsdecode(error.filename)}: {text}" if isinstance(error.filename, str | bytes) else text


def for_each(names: Iterable[str], action: Callable[[str], object]) -> int:
    """Do it for all names, go on after an error, and tell by the exit code at the end (docker's rule)."""
    code = 0
    for name in names:
        try:
            action(name)
        except BrokenPipeError:
            raise
        except OSError as error:
            code = fail(reason(error))
    return code


def take_standard_streams() -> None:
    """Make the three streams usable whatever we were given: descriptors that are closed (the next file opened would
    get their number), an encoding that cannot say what has to be said, names that are no UTF-8.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream, errors in ((sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors=errors)


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123 (no objects for --version)


def silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere: what is left could not be written."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
