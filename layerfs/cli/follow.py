"""A container that runs under its monitor, and this command beside it until its end."""

from __future__ import annotations

import contextlib

from layerfs._lazy import TYPE_CHECKING
from layerfs.cli.flags import option
from layerfs.cli.terminal import DETACH_KEYS, Detached, GaveUp, Monitored, carry
from layerfs.errors import InUse

if TYPE_CHECKING:
    from layerfs.engine import Container
    from layerfs.engine.attaching import Connection

DETACH = option("--detach-keys", default=DETACH_KEYS, metavar="KEYS", help="Keys that leave a container.")


def follow(
    box: Container, connection: Connection, *, stdin: bool, keys: str = DETACH_KEYS, proxy: bool = True
) -> int | None:
    """Its streams and ours until its end; the exit code, or None when we were detached. Cleans up after it."""
    from layerfs.engine.attaching import Connection
    from layerfs.engine.events import record_event
    from layerfs.engine.life import finish

    tty = box.settings.tty
    far = Monitored(connection, lambda: Connection.open(box.directory))
    with connection:
        try:
            carry(far, stdin=stdin, terminal=tty, keys=keys, proxy=proxy)
        except Detached:
            record_event(box, "detach")
            return None
        except GaveUp:
            _end(box, connection)
            raise KeyboardInterrupt from None
        code = far.ended.code if far.ended and not far.ended.lost else None
        if code is None:
            code = box.state.code
        finish(box)
        connection.done()
    return code


def _end(box: Container, connection: Connection) -> None:
    from layerfs.engine.life import finish

    with contextlib.suppress(InUse):
        box.kill()
    for _ in connection.messages():
        pass
    finish(box)
    connection.done()
