"""What all verbs share: the store, and what becomes of errors and signals. Loads no parser of command lines."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from layerfs._lazy import TYPE_CHECKING
from layerfs.cli.output import fail, reason, silence_stdout
from layerfs.errors import LayerfsError

if TYPE_CHECKING:
    from layerfs.engine import Store


class Session:
    """What the verbs share: the store's place, and the store once it is opened."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        if self._store is None:
            from layerfs.engine import Store

            self._store = Store(self.path)
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _orderly_end() -> Iterator[None]:
    """TERM and HUP unwind as Ctrl-C does: temporary mounts and files are taken away."""
    main = threading.current_thread() is threading.main_thread()
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if main and signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _terminate)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def guarded(action: Callable[[], int]) -> int:
    """The exit code of a whole command. Errors are one line on stderr."""
    try:
        with _orderly_end():
            code = action()
            sys.stdout.flush()
            return code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except BrokenPipeError:
        silence_stdout()
        return 128 + signal.SIGPIPE
    except LayerfsError as error:
        return _fail_last(str(error), error.exit_code)
    except OSError as error:
        return _fail_last(reason(error))
    except MemoryError:
        return _fail_last("out of memory")
    except Exception as error:
        if os.environ.get("LAYERFS_DEBUG"):
            raise
        return _fail_last(f"internal error ({type(error).__name__}: {error}); LAYERFS_DEBUG=1 shows where")


def _fail_last(message: str, code: int = 1) -> int:
    """`fail`, where stdout may be what does not work (a full disk)."""
    try:
        return fail(message, code)
    except OSError:
        silence_stdout()
        return fail(message, code)
