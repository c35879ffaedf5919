"""Images, containers and changes as the rows that docker's tables, templates and JSON have."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import ContainerNotFound
from layerfs.image.text import ellipsis, history_ago, human_ago, human_duration, human_size

if TYPE_CHECKING:
    from typing import Any

    from layerfs.engine import Change, Container, GcResult, Store
    from layerfs.image.filters import ImageSummary
    from layerfs.image.history import HistoryRow

    Row = dict[str, Any]

_NONE = "<none>"
CACHE = {"ID": "ID", "KIND": "Kind", "SIZE": "Size", "LAST USED": "LastUsed", "IN USE": "InUse", "STEP": "Text"}


def moment(ns: int | None) -> str:
    """A local time as docker's `CreatedAt` has it."""
    if not ns:
        return "N/A"
    return datetime.fromtimestamp(ns // 10**9, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S %z %Z")


def _cut(digest: str, truncate: bool) -> str:
    return digest.removeprefix("sha256:")[:12] if truncate else digest


def image_rows(summaries: Iterable[ImageSummary], *, truncate: bool, digests: bool = False) -> list[Row]:
    """A row for each name, `<none>` where there is none (docker's rules)."""
    rows = []
    for summary in summaries:
        names = [
            (t.reference.familiar.rpartition(":")[::2], str(t.digest) if t.digest and digests else _NONE)
            for t in summary.tags
        ]
        tagged = {name[0] for name, _ in names}
        names += [
            ((t.reference.familiar.partition("@")[0], _NONE), str(t.reference.digest))
            for t in summary.digests
            if t.reference.familiar.partition("@")[0] not in tagged
        ]
        for (repository, tag), digest in names or [((_NONE, _NONE), _NONE)]:
            rows.append(
                {
                    "Repository": repository,
                    "Tag": tag,
                    "Digest": digest,
                    "ID": _cut(str(summary.record.id), truncate),
                    "CreatedSince": human_ago(summary.record.created_ns),
                    "CreatedAt": moment(summary.record.created_ns),
                    "Size": human_size(summary.size),
                    "VirtualSize": human_size(summary.size),
                    "SharedSize": "N/A",
                    "UniqueSize": "N/A",
                    "Containers": "N/A",
                }
            )
    return rows


def history_rows(history: Iterable[HistoryRow], *, truncate: bool, human: bool) -> list[Row]:
    rows = []
    for entry in history:
        created_by = _tamed(entry.created_by.replace("\t", " "))
        rows.append(
            {
                "ID": _cut(entry.id_text, truncate) if entry.id else entry.id_text,
                "CreatedSince": history_ago(entry.created_ns),
                "CreatedAt": _iso(entry.created_ns),
                "CreatedBy": ellipsis(created_by, 45) if truncate else created_by,
                "Size": human_size(entry.size) if human else str(entry.size),
                "Comment": _tamed(entry.comment),
            }
        )
    return rows


def _tamed(text: str) -> str:
    """An image's own words without what would command the terminal; lines stay lines."""
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _iso(ns: int | None) -> str:
    if not ns or ns < 0:
        return "N/A"
    return datetime.fromtimestamp(ns // 10**9, UTC).astimezone().isoformat().replace("+00:00", "Z")


def _quoted(words: Sequence[str]) -> str:
    return " ".join(f"'{word}'" if " " in word else word for word in words)


_SHORT = {
    '"': '\\"',
    "\\": "\\\\",
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\v": "\\v",
}


def go_quoted(text: str) -> str:
    """As docker quotes a command, by Go's rules: nothing in it is for the terminal."""
    raw = os.fsencode(text).decode(errors="surrogateescape")

    def shown(char: str) -> str:
        if char in _SHORT:
            return _SHORT[char]
        if char.isprintable():
            return char
        code = ord(char)
        if 0xDC80 <= code <= 0xDCFF:
            return f"\\x{code - 0xDC00:02x}"
        return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

    return f'"{"".join(map(shown, raw))}"'


def status_text(box: Container) -> str:
    """docker's STATUS."""
    state = box.state
    if state.restarting:
        return f"Restarting ({state.code}) {human_ago(state.finished_at)}"
    if state.running:
        health = box.health
        if box.status == "paused":
            return f"Up {human_duration((_now() - state.started_at) / 1e9)} (Paused)"
        shown = health and {"starting": "health: starting"}.get(health["Status"], health["Status"])
        return f"Up {human_duration((_now() - state.started_at) / 1e9)}" + (f" ({shown})" if shown else "")
    if state.status == "created":
        return "Created"
    return f"Exited ({state.code}) {human_ago(state.finished_at or state.started_at)}"


def _now() -> int:
    import time

    return time.time_ns()


def container_rows(boxes: Iterable[Container], *, truncate: bool, size: bool) -> list[Row]:
    """Without those that are removed meanwhile."""
    rows = []
    for box in boxes:
        with contextlib.suppress(ContainerNotFound):
            rows.append(_container_row(box, truncate=truncate, size=size))
    return rows


def _container_row(box: Container, *, truncate: bool, size: bool) -> Row:
    config = box.config()
    command = _quoted([*(config.entrypoint or ()), *(config.cmd or ())])
    record = box.record
    row: Row = {
        "ID": _cut(box.id, truncate),
        "Image": _image_shown(box.image_name, truncate),
        "Command": go_quoted(ellipsis(command, 20) if truncate else command),
        "RunningFor": human_ago(record.created_ns),
        "CreatedAt": moment(record.created_ns),
        "Status": status_text(box),
        "State": box.status,
        "Ports": _ports(box, config.exposed_ports),
        "Names": record.name,
        "Labels": ",".join(f"{k}={v}" for k, v in config.labels),
        "Mounts": ",".join(_shortened(source, truncate) for source in _sources(box)),
        "Networks": box.settings.network,
        "LocalVolumes": str(sum(not source.startswith("/") for source in _sources(box))),
    }
    if size:
        sizes = box.sizes()
        row["Size"] = f"{human_size(sizes.writable)} (virtual {human_size(sizes.writable + sizes.image)})"
    return row


def _image_shown(name: str, truncate: bool) -> str:
    """docker cuts IDs, and leaves out the digest of a name."""
    if name.startswith("sha256:"):
        return _cut(name, truncate)
    return name.partition("@")[0] if truncate else name


def _shortened(text: str, truncate: bool) -> str:
    return ellipsis(text, 15) if truncate else text


def change_row(change: Change) -> Row:
    return {
        "Kind": change.kind,
        "Path": printable(change.path),
        "OldSize": change.old_size,
        "NewSize": change.new_size,
        "Fields": list(change.fields),
    }


def printable(path: str) -> str:
    """A path on one line of any terminal: control characters and bytes that are no UTF-8 as escapes."""
    raw = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in raw)


def mount_rows(store: Store, *, dead: bool = False) -> list[Row]:
    alive = {record.id for record in store.mounts()}
    return [
        {
            "ID": record.id,
            "ShortID": record.id[:12],
            "Target": record.target,
            "Engine": record.engine,
            "Source": record.container[:12] or record.image[:12],
            "Container": record.container,
            "Image": record.image,
            "Mode": "ro" if record.read_only else "rw",
            "Options": ",".join(record.options),
            "Pid": str(record.pid),
            "Since": human_ago(record.since_ns or None),
            "State": "live" if record.id in alive else "dead",
        }
        for record in store.mounts(dead=dead)
    ]


def usage_rows(store: Store) -> list[Row]:
    """The rows of `system df`."""
    from layerfs.engine.space import containers_size

    usage, boxes = store.disk_usage(), store.containers()
    used = {box.record.image for box in boxes}
    active = [image for image in usage.images if image.record.id.hex in used]
    free = sum(image.unique for image in usage.images if image.record.id.hex not in used)
    running = {box.id for box in boxes if box.state.running}
    size, stopped = containers_size(store, boxes, running)
    return [
        _usage_row("Images", len(usage.images), len(active), usage.total, free),
        _usage_row("Containers", len(boxes), len(running), size, stopped),
        _volumes_row(store),
        _cache_row(store),
    ]


def _volumes_row(store: Store) -> Row:
    usage = store.volumes.usage()
    used = [size for size, is_used in usage.values() if is_used]
    total = sum(size for size, _ in usage.values())
    return _usage_row("Local Volumes", len(usage), len(used), total, total - sum(used))


def _cache_row(store: Store) -> Row:
    """Layers that images have too are in use, and their bytes are told with the images."""
    from layerfs.engine.buildcache import cache_records

    records = cache_records(store)
    active = sum(record.in_use for record in records)
    size = sum(record.size for record in records if not record.in_use)
    return _usage_row("Build Cache", len(records), active, size, size)


def _usage_row(kind: str, total: int, active: int, size: int, free: int) -> Row:
    share = f" ({free * 100 // size}%)" if size else ""
    return {
        "Type": kind,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size, 4),
        "Reclaimable": human_size(free, 4) + share,
    }


def box_usage_rows(boxes: Sequence[Container]) -> list[Row]:
    """Of `system df -v`: with what each takes of its limits, and what is freed with it."""
    from layerfs.engine.space import frozen_sizes

    found, frozen = [], frozen_sizes(boxes[0].store) if boxes else {}
    for box in boxes:
        with contextlib.suppress(ContainerNotFound):  # removed meanwhile
            row, usage = _container_row(box, truncate=True, size=True), box.usage()
            freed = usage.bytes + frozen.get(box.id, 0)
            limits = [human_size(usage.bytes_limit)] if usage.bytes_limit else []
            limits += [f"{usage.entries_limit} entries"] if usage.entries_limit else []
            row |= {"DiskSize": human_size(usage.bytes), "Entries": str(usage.entries)}
            row |= {"Limits": ", ".join(limits) or "-"}
            found.append(row | {"Reclaimable": "-" if box.state.running else human_size(freed)})
    return found


def cache_rows(store: Store) -> list[Row]:
    """Of `builder df` and `system df -v`."""
    from layerfs.cli.buildprogress import printable
    from layerfs.engine.buildcache import cache_records

    return [
        {
            "ID": record.id[:12],
            "Kind": record.kind,
            "Size": human_size(record.size),
            "LastUsed": human_ago(record.used_ns),
            "InUse": "true" if record.in_use else "false",
            "Text": printable(record.text.split("\n")[0][:60]),
        }
        for record in cache_records(store)
    ]


def image_usage_rows(store: Store) -> list[Row]:
    counts: dict[str, int] = {}
    for box in store.containers():
        counts[box.record.image] = counts.get(box.record.image, 0) + 1
    rows = []
    for usage in store.disk_usage().images:
        tags = [t.reference.familiar for t in usage.tags if not t.by_digest]
        repository, _, tag = tags[0].rpartition(":") if tags else (_NONE, "", _NONE)
        rows.append(
            {
                "Repository": repository,
                "Tag": tag,
                "ID": usage.record.id.short,
                "CreatedSince": human_ago(usage.record.created_ns),
                "Size": human_size(usage.size),
                "SharedSize": human_size(usage.shared),
                "UniqueSize": human_size(usage.unique),
                "Containers": str(counts.get(usage.record.id.hex, 0)),
            }
        )
    return rows


def snapshot_rows(boxes: Iterable[Container], *, truncate: bool, sizes: bool) -> list[Row]:
    from layerfs.engine.space import snapshot_sizes

    found = [(box.name, each) for box in boxes for each in box.snapshots()]
    taken = snapshot_sizes(found[0][1].store, [each.record for _, each in found]) if found and sizes else {}
    return [
        {
            "ID": _cut(each.id, truncate),
            "Container": name,
            "Name": each.name,
            "CreatedSince": human_ago(each.created_ns),
            "CreatedAt": moment(each.created_ns),
            "SharedSize": human_size(taken[each.id].shared) if sizes else "N/A",
            "PrivateSize": human_size(taken[each.id].private) if sizes else "N/A",
        }
        for name, each in found
    ]


def gc_text(result: GcResult) -> str:
    """One line: what went, and how much that freed."""
    counts = {name: getattr(result, name) for name in ("layers", "trees", "blobs", "contents", "packs", "orphans")}
    parts = [f"{count} {name if count != 1 else name[:-1]}" for name, count in counts.items() if count]
    did = "would remove" if result.dry_run else "removed"
    text = f"{did} {', '.join(parts) or 'nothing'}, {human_size(result.bytes)}"
    return text + (f"; left contents alone: {result.damage}" if result.damage else "")


def event_row(event: Mapping[str, Any]) -> Row:
    """As docker's JSON has it."""
    actor = event["Actor"]
    known: Row = {"status": event["Action"], "id": actor["ID"]} if event["Type"] == "container" else {}
    if "image" in actor["Attributes"]:
        known["from"] = actor["Attributes"]["image"]
    return {
        **known,
        "Type": event["Type"],
        "Action": event["Action"],
        "Actor": {"ID": actor["ID"], "Attributes": dict(sorted(actor["Attributes"].items()))},
        "scope": "local",
        "time": event["timeNano"] // 10**9,
        "timeNano": event["timeNano"],
    }


def event_text(event: Mapping[str, Any]) -> str:
    """docker's line: time, type, action, ID, attributes."""
    moment = datetime.fromtimestamp(event["timeNano"] // 10**9, UTC).astimezone()
    zone = moment.strftime("%z")
    zone = "Z" if zone == "+0000" else f"{zone[:3]}:{zone[3:]}"
    when = f"{moment.strftime('%Y-%m-%dT%H:%M:%S')}.{event['timeNano'] % 10**9:09d}{zone}"
    attributes = ", ".join(f"{key}={value}" for key, value in sorted(event["Actor"]["Attributes"].items()))
    text = f"{when} {event['Type']} {event['Action']} {event['Actor']['ID']} ({attributes})"
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _ports(box: Container, exposed_ports: Iterable[str]) -> str:
    """`0.0.0.0:8080->80/tcp, 90/tcp`: what is published while it runs, and what is exposed."""
    from layerfs.engine.connections import bindings

    if not box.state.running:
        return ""
    found = bindings(box)
    shown = [f"{address}:{number}->{port}" for port, address, number in found]
    exposed = {port if "/" in port else f"{port}/tcp" for port in exposed_ports}
    return ", ".join([*sorted(exposed - {port for port, _, _ in found}), *shown])


def _sources(box: Container) -> list[str]:
    from layerfs.engine.volumes import wanted_of

    return [each.source for each in wanted_of(box.settings) if each.source]
