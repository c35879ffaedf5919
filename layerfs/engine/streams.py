"""Streams of programs that are Python's alone (io.BytesIO, a zip member, an upload): bytes go through a pipe, carried
by a thread, so that the program has a descriptor and memory stays bounded.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import threading
from collections.abc import Iterator
from typing import Any

from layerfs._threads import join
from layerfs.errors import InvalidInput

_CHUNK = 1 << 16


def needs_carrying(stream: Any) -> bool:
    """Whether it is an object without a descriptor. Raises InvalidInput for what is no stream at all."""
    if stream is None or isinstance(stream, int | bytes):
        return False
    try:
        stream.fileno()
    except (AttributeError, OSError, ValueError):
        if isinstance(stream, str | bytearray | memoryview) or hasattr(stream, "read") or hasattr(stream, "write"):
            return True
        raise InvalidInput(f"{stream!r} is no stream: want a file, a descriptor, PIPE, DEVNULL or bytes") from None
    return False


@contextlib.contextmanager
def carried(stdin: Any, stdout: Any, stderr: Any) -> Iterator[tuple[Any, Any, Any]]:
    """The streams with what needs carrying replaced by pipes; at the end all that was written is in the objects, and
    what went wrong with them is raised. A text given as `stdin` is its UTF-8."""
    if isinstance(stdin, str | bytearray | memoryview):
        stdin = stdin.encode() if isinstance(stdin, str) else bytes(stdin)
    with contextlib.ExitStack() as stack:
        given = [stdin, stdout, stderr]
        for number, stream in enumerate(given):
            if not needs_carrying(stream):
                continue
            if not hasattr(stream, "write" if number else "read"):
                raise InvalidInput(f"{stream!r} cannot be {'written to' if number else 'read'}")
            given[number] = stack.enter_context(_output(stream) if number else _input(stream))
        yield given[0], given[1], given[2]


@contextlib.contextmanager
def _output(stream: Any) -> Iterator[int]:
    source, sink = os.pipe()
    problems: list[BaseException] = []

    def carry() -> None:
        decode = codecs.getincrementaldecoder("utf-8")("replace") if isinstance(stream, io.TextIOBase) else None
        try:
            while data := os.read(source, _CHUNK):
                _write(stream, decode.decode(data) if decode else data)
            if decode:
                _write(stream, decode.decode(b"", final=True))
        except BaseException as error:
            problems.append(error)
        finally:
            os.close(source)  # who still writes is told by a signal, as in a shell's pipe

    thread = threading.Thread(target=carry, name="layerfs-output", daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        os.close(sink)
        join([thread])
    if problems:
        raise problems[0]


def _write(stream: Any, data: str | bytes) -> None:
    """All of it: what has no buffer may take a part. Objects of others may not say how much they took."""
    while data:
        taken = stream.write(data)
        data = data[taken:] if isinstance(taken, int) else data[:0]


@contextlib.contextmanager
def _input(stream: Any) -> Iterator[int]:
    """Whoever waits in `stream.read` when the program ends is left there."""
    source, sink = os.pipe()
    problems: list[BaseException] = []

    def carry() -> None:
        try:
            with open(sink, "wb", buffering=0) as file:  # noqa: PTH123 (unbuffered)
                while data := stream.read(_CHUNK):
                    left = memoryview(data.encode() if isinstance(data, str) else data)
                    while left:
                        left = left[file.write(left) :]
        except BrokenPipeError:  # the program has ended, or does not want it
            pass
        except BaseException as error:
            problems.append(error)

    threading.Thread(target=carry, name="layerfs-input", daemon=True).start()
    try:
        yield source
    finally:
        os.close(source)
    if problems:
        raise problems[0]
