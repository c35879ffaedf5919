"""Filters of `ps`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import ImageNotFound, InvalidInput

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.engine.image import Image
    from layerfs.engine.store import Store

_HEALTH = ("starting", "healthy", "unhealthy", "none")
_STATUSES = ("created", "restarting", "running", "removing", "paused", "exited", "dead")


def select_containers(
    store: Store, boxes: Sequence[Container], filters: Mapping[str, Sequence[str]], *, running_only: bool
) -> list[Container]:
    """docker's rules: filters of different names are all needed, of one name any is enough, `label` all.

    Raises:
        InvalidInput: an unknown filter or value. ContainerNotFound: of `before` and `since`.
    """
    tests = [_test(store, name, values) for name, values in filters.items()]
    chosen = [box for box in boxes if all(test(box) for test in tests)]
    return [box for box in chosen if box.state.running] if running_only else chosen


def _test(store: Store, name: str, values: Sequence[str]) -> Callable[[Container], bool]:
    if name in ("id", "name"):
        patterns = [_pattern(name, value) for value in values]
        if name == "id":
            return lambda box: any(p.match(box.id) for p in patterns)
        return lambda box: any(p.search(text) for p in patterns for text in (box.name, f"/{box.name}"))
    if name == "status":
        if unknown := [value for value in values if value not in _STATUSES]:
            raise InvalidInput(f"invalid filter 'status={unknown[0]}'")
        return lambda box: box.status in values
    if name == "exited":
        codes = [_number(v) for v in values]
        return lambda box: box.state.status == "exited" and box.state.code in codes
    if name == "health":
        if unknown := [value for value in values if value not in _HEALTH]:
            raise InvalidInput(f"invalid filter 'health={unknown[0]}'")
        return lambda box: _health(box) in values
    if name == "is-task":
        return lambda box: not {"1", "true"} & {value.lower() for value in values}
    if name == "label":
        return lambda box: all(_labelled(dict(box.config().labels), v) for v in values)
    if name == "network":
        return _in_network(store, values)
    if name in ("publish", "expose"):
        wanted = {port for value in values for port in _ports(name, value)}
        return lambda box: not wanted.isdisjoint(_published(box) if name == "publish" else _exposed(box))
    if name == "isolation":  # of Windows
        return lambda box: True
    if name == "volume":
        from layerfs.engine.volumes import wanted_of

        return lambda box: any(
            v in (each.source, os.fsdecode(each.target)) for each in wanted_of(box.settings) for v in values
        )
    if name == "ancestor":
        images = {_image(store, v) for v in values}
        return lambda box: any(image in images for image in _ancestors(box))
    if name in ("before", "since"):
        moment = store.container(values[0]).record.created_ns
        if name == "before":
            return lambda box: box.record.created_ns < moment
        return lambda box: box.record.created_ns > moment
    raise InvalidInput(f"invalid filter '{name}'")


def _in_network(store: Store, values: Sequence[str]) -> Callable[[Container], bool]:
    """By name, or by the start of an ID."""
    from layerfs.engine.connections import networks_of
    from layerfs.engine.networks import Networks

    named = {network.name for network in Networks(store).all() if any(network.id.startswith(v) for v in values if v)}
    return lambda box: not named.union(values).isdisjoint(networks_of(box.settings))


def _ports(name: str, text: str) -> Iterator[tuple[int, str]]:
    """`80`, `80/udp`, `80-90`."""
    from layerfs.runtime.ports import parse_expose

    if ":" in text:
        raise InvalidInput(f"filter for '{name}' should not contain ':': {text}")
    yield from parse_expose(text)


def _published(box: Container) -> set[tuple[int, str]]:
    """Ports of the host's that lead to it now."""
    from layerfs.engine.connections import bindings

    return {(number, port.partition("/")[2]) for port, _, number in bindings(box)} if box.state.running else set()


def _exposed(box: Container) -> set[tuple[int, str]]:
    """Ports of its own, while it runs; as with docker a stopped container has none."""
    from layerfs.engine.connections import bindings

    if not box.state.running:
        return set()
    texts = [*box.config().exposed_ports, *box.settings.expose, *(port for port, _, _ in bindings(box))]
    return {port for text in texts for port in _ports("expose", text)}


def _health(box: Container) -> str:
    health = box.health if box.state.running else None
    return str(health["Status"]) if health else "none"


def _pattern(name: str, value: str) -> re.Pattern[str]:
    try:
        return re.compile(value)
    except re.error:
        raise InvalidInput(f"invalid filter '{name}={value}'") from None


def _ancestors(box: Container) -> Iterator[str]:
    """The IDs of a container's image and of the local images that one was made on."""
    image: Image | None = box.image
    while image is not None:
        yield image.id
        try:
            image = image.parent
        except ImageNotFound:
            return


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(f"invalid filter 'exited={text}'") from None


def _image(store: Store, name: str) -> str:
    try:
        return store.image(name).id
    except ImageNotFound:
        return ""


def _labelled(labels: Mapping[str, str], wanted: str) -> bool:
    key, equals, value = wanted.partition("=")
    return key in labels and (not equals or labels[key] == value)
