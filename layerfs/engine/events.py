"""Events of a store: one JSON object a line in `events`, in docker's form, appended by commands and by monitors.

A file that has grown to some size becomes `events.1`; what is older than that is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import InvalidInput

if TYPE_CHECKING:
    from typing import Any

    from layerfs.engine.container import Container
    from layerfs.engine.store import Store

    Event = dict[str, Any]

_SIZE_MAX = 8 << 20


def events_path(store: Store) -> Path:
    return store.path / "events"


def _actor(box: Container) -> dict[str, Any]:
    record = box.record
    attributes = {**box.labels_by(record), "image": box.image_name_by(record), "name": record.name}
    return {"ID": box.id, "Attributes": attributes}


def attributes_of(box: Container) -> bytes:
    """What each event of a container has, open at its end: a monitor adds to it."""
    return f'"Actor":{json.dumps(_actor(box))[:-2]}'.encode()


def record_event(box: Container, action: str, **attributes: str) -> None:
    """One event of a container. Never an error: the deed is done."""
    with contextlib.suppress(OSError):
        actor = _actor(box)
        actor["Attributes"].update(attributes)
        append(box.store, {"timeNano": time.time_ns(), "Type": "container", "Action": action, "Actor": actor})


def append(store: Store, event: Event) -> None:
    path = events_path(store)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
    try:
        os.write(fd, json.dumps(event, separators=(",", ":")).encode() + b"\n")
        full = os.fstat(fd).st_size > _SIZE_MAX
    finally:
        os.close(fd)
    if full:
        with store.root.lock("events"):
            if path.stat().st_size > _SIZE_MAX:
                path.rename(path.with_name("events.1"))


def _parsed(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:  # a line that a full disk cut
        return None
    return event if isinstance(event, dict) and "timeNano" in event else None


def _existing(paths: list[Path]) -> Iterator[Event]:
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            for line in path.read_bytes().splitlines():
                if event := _parsed(line):
                    yield event


def read_events(store: Store, since_ns: int | None = None, until_ns: int | None = None) -> Iterator[Event]:
    """Those since a time (only new ones when None), and on as they come, up to `until_ns` (for ever when None)."""
    path = events_path(store)
    if not path.exists():
        if store.root.read_only:
            return
        path.touch(0o640)
    with contextlib.ExitStack() as stack:
        from layerfs.engine.watch import Watch

        watch = stack.enter_context(Watch(path.parent))
        file = stack.enter_context(path.open("rb"))
        if since_ns is not None:
            yield from _between(_existing([path.with_name("events.1")]), since_ns, until_ns)
        else:
            file.seek(0, os.SEEK_END)
            since_ns = 0
        while True:
            yield from _between(_lines(file), since_ns, until_ns)
            left = None if until_ns is None else (until_ns - time.time_ns()) / 1e9
            if left is not None and left <= 0:
                return
            if _replaced(path, file):
                yield from _between(_lines(file), since_ns, until_ns)
                file = stack.enter_context(path.open("rb"))
                continue
            if select.select([watch], [], [], left)[0]:
                watch.clear()


def _lines(file: Any) -> Iterator[Event]:
    """Whole lines that are there now; the beginning of one is left for later."""
    while line := file.readline():
        if not line.endswith(b"\n"):
            file.seek(-len(line), os.SEEK_CUR)
            return
        if event := _parsed(line):
            yield event


def _between(events: Iterator[Event], since_ns: int, until_ns: int | None) -> Iterator[Event]:
    for event in events:
        if event["timeNano"] >= since_ns and (until_ns is None or event["timeNano"] <= until_ns):
            yield event


def _replaced(path: Path, file: Any) -> bool:
    try:
        return path.stat().st_ino != os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def select_events(store: Store, events: Iterator[Event], filters: Mapping[str, Sequence[str]]) -> Iterator[Event]:
    """docker's rules: any value of a name, all names. Raises InvalidInput for an unknown name."""
    tests = [_test(store, name, values) for name, values in filters.items()]
    return (event for event in events if all(test(event) for test in tests))


def _test(store: Store, name: str, values: Sequence[str]) -> Callable[[Event], bool]:
    if name == "type":
        return lambda event: event["Type"] in values
    if name == "event":
        return lambda event: event["Action"] in values or event["Action"].partition(":")[0] in values
    if name == "container":
        return lambda event: any(
            event["Actor"]["ID"].startswith(value) or event["Actor"]["Attributes"].get("name") == value
            for value in values
        )
    if name == "image":
        return lambda event: (
            event["Actor"]["Attributes"].get("image", "").split(":")[0] in values
            or (event["Actor"]["Attributes"].get("image") in values)
        )
    if name == "label":
        pairs = [value.partition("=") for value in values]
        return lambda event: all(
            key in event["Actor"]["Attributes"] and (not equals or event["Actor"]["Attributes"][key] == wanted)
            for key, equals, wanted in pairs
        )
    raise InvalidInput(f"invalid filter '{name}'")
