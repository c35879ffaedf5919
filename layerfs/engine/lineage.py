"""Where containers come from: images, the states between, snapshots, forks; as records, as a picture, as DOT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from layerfs._record import dataclass, field
from layerfs.errors import LayerfsError
from layerfs.snapshot.states import States

if TYPE_CHECKING:
    from layerfs.engine.store import Store

__all__ = ["Event", "as_dot", "as_tree", "lineage"]


@dataclass
class Event:
    """A moment: an image (`state` is ""), or a frozen state above it; what it is called; what came of it.

    `snapshots` are (container, name), `containers` the names of those that stand on it now.
    """

    id: str
    kind: str  # "image", "state"
    name: str
    created_ns: int
    snapshots: list[tuple[str, str]] = field(default_factory=list)
    containers: list[str] = field(default_factory=list)
    children: list[Event] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "kind": self.kind,
            "name": self.name,
            "created_ns": self.created_ns,
            "snapshots": [{"container": container, "name": name} for container, name in self.snapshots],
            "containers": self.containers,
            "children": [child.document() for child in self.children],
        }


def lineage(store: Store, container: str | None = None) -> list[Event]:
    """One tree for each image that containers stand on, oldest first; only that of a container's image, and in it only
    what leads to it and its forks, when one is named.

    Raises:
        ContainerNotFound.
    """
    wanted = store.container_table.get(container) if container is not None else None
    boxes = {record.id: record for record in store.container_table.list()}
    with store.root.index.view() as txn:
        states, snapshots = States(txn).all(), States(txn).snapshots()
    images: dict[str, Event] = {}
    events: dict[str, Event] = {}
    for record in sorted(boxes.values(), key=lambda record: record.created_ns):
        if record.image not in images:
            images[record.image] = _image_event(store, record.image)
    for state in states:
        events[state.id] = Event(state.id, "state", "", state.created_ns)
    for state in sorted(states, key=lambda state: state.created_ns):
        parent = events.get(state.parent) or images.setdefault(state.image, _image_event(store, state.image))
        parent.children.append(events[state.id])
    for each in snapshots:
        box = boxes.get(each.container)
        if box is not None:
            (events.get(each.state) or images[box.image]).snapshots.append((box.name, each.name))
    for record in sorted(boxes.values(), key=lambda record: record.created_ns):
        (events.get(record.base) or images[record.image]).containers.append(record.name)
    if wanted is None:
        return list(images.values())
    return [_only(images[wanted.image], wanted.name) or images[wanted.image]]


def _image_event(store: Store, image: str) -> Event:
    try:
        found = store.image(f"sha256:{image}")
        return Event(image, "image", next(iter(found.tags), ""), found.record.created_ns or 0)
    except LayerfsError:  # removed by force
        return Event(image, "image", "", 0)


def _only(event: Event, container: str) -> Event | None:
    """What the container, or a snapshot of it, is in or above; None when neither is."""
    children = [found for child in event.children if (found := _only(child, container))]
    snapshots = [each for each in event.snapshots if each[0] == container]
    containers = [name for name in event.containers if name == container]
    if not (children or snapshots or containers):
        return None
    return Event(event.id, event.kind, event.name, event.created_ns, snapshots, event.containers, children)


def as_tree(events: list[Event], ago: Any) -> Iterator[str]:
    """Lines for a terminal; `ago` says a time."""
    for event in events:
        yield _label(event, ago)
        yield from _below(event, "", ago)


def _label(event: Event, ago: Any) -> str:
    names = " ".join(f"{container}@{name}" for container, name in event.snapshots)
    if event.kind == "image":
        return " ".join(filter(None, [event.name or f"sha256:{event.id[:12]}", names]))
    return f"{names or event.id[:12]}  ({ago(event.created_ns)})"


def _below(event: Event, prefix: str, ago: Any) -> Iterator[str]:
    parts: list[Event | str] = [*event.children, *event.containers]
    stack = [(prefix, list(parts))]
    while stack:
        prefix, parts = stack[-1]
        if not parts:
            stack.pop()
            continue
        part = parts.pop(0)
        branch, line = ("├─ ", "│  ") if parts else ("└─ ", "   ")
        if isinstance(part, str):
            yield f"{prefix}{branch}[{part}]"
        else:
            yield f"{prefix}{branch}{_label(part, ago)}"
            stack.append((prefix + line, [*part.children, *part.containers]))


def as_dot(events: list[Event], ago: Any) -> Iterator[str]:
    """For Graphviz."""
    yield "digraph lineage {"
    yield "  rankdir=LR;"
    pending = list(events)
    while pending:
        event = pending.pop(0)
        shape = "box3d" if event.kind == "image" else "ellipse"
        yield f"  {_quoted(event.id)} [shape={shape}, label={_quoted(_label(event, ago))}];"
        for child in event.children:
            yield f"  {_quoted(event.id)} -> {_quoted(child.id)};"
        for name in event.containers:
            yield f"  {_quoted('container ' + name)} [shape=box, label={_quoted(name)}];"
            yield f"  {_quoted(event.id)} -> {_quoted('container ' + name)};"
        pending += event.children
    yield "}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
