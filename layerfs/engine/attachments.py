"""How a container is to be on one of its networks: docker's `--network name=N,alias=A,ip=I,…`, kept as that text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass, replace
from layerfs.errors import InvalidInput

if TYPE_CHECKING:
    from typing import Any, Final

    from layerfs.engine.settings import Settings


@dataclass(frozen=True, slots=True)
class Attachment:
    """`links`: CONTAINER[:ALIAS], names that this container alone has for others. The network with the highest
    `priority` is the way out, of equal ones the first."""

    network: str
    aliases: tuple[str, ...] = ()
    ip: str | None = None
    mac_address: str | None = None
    links: tuple[str, ...] = ()
    priority: int = 0

    @classmethod
    def parse(cls, text: str) -> Attachment:
        """A name alone, or `name=N` with what else there is. Raises InvalidInput."""
        if "=" not in text:
            return cls(text)
        found = cls("")
        for part in text.split(","):
            key, _, value = part.partition("=")
            found = _with(found, key.strip().lower(), value.strip(), text)
        if not found.network:
            raise InvalidInput(f"--network {text} names no network")
        return found

    def text(self) -> str:
        parts = [f"name={self.network}", *(f"alias={each}" for each in self.aliases)]
        parts += [f"{key}={value}" for key, value in (("ip", self.ip), ("mac-address", self.mac_address)) if value]
        parts += [f"link={each}" for each in self.links]
        return ",".join([*parts, *([f"gw-priority={self.priority}"] if self.priority else [])])


_ABSENT: Final = {
    "driver-opt": "there are no options of endpoints",
    **dict.fromkeys(("ip6", "link-local-ip"), "networks have IPv4 only"),
}


def _with(found: Attachment, key: str, value: str, text: str) -> Attachment:
    if key == "name":
        return replace(found, network=value)
    if key == "alias":
        return replace(found, aliases=(*found.aliases, value))
    if key == "link":
        return replace(found, links=(*found.links, value))
    if key == "ip":
        return replace(found, ip=check_address(value))
    if key == "mac-address":
        return replace(found, mac_address=value)
    if key == "gw-priority":
        return replace(found, priority=check_priority(value))
    why = _ABSENT.get(key)
    raise InvalidInput(f"invalid field {key} in --network {text}{f': {why}' if why else ''}")


def check_address(text: str) -> str:
    """Raises InvalidInput."""
    import ipaddress

    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise InvalidInput(f"invalid IPv4 address: {text}") from None


def check_priority(value: Any) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InvalidInput(f"invalid gw-priority: {value}") from None


def taken_apart(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings `network` and `networks` as names, what else their texts say as `attachments`."""
    given = [values.get("network"), *(values.get("networks") or ())]
    if not any("=" in name for name in given if isinstance(name, str)):
        return dict(values)
    found = [Attachment.parse(name) if isinstance(name, str) else Attachment(name or "none") for name in given]
    own = [each.text() for each in found if each != Attachment(each.network)]
    names = {"network": found[0].network, "networks": [each.network for each in found[1:]]}
    return {**values, **names, "attachments": own}


def attachment_of(settings: Settings, name: str) -> Attachment:
    """On one of its networks. `ip` and `mac_address` are of the first one, aliases of all."""
    mine = next((each for each in map(Attachment.parse, settings.attachments) if each.network == name), None)
    mine = mine or Attachment(name)
    mine = replace(mine, aliases=tuple(dict.fromkeys((*settings.network_aliases, *mine.aliases))))
    if name != settings.network:
        return mine
    return replace(mine, ip=mine.ip or settings.ip, mac_address=mine.mac_address or settings.mac_address)


def changed(texts: Iterable[str], network: str, new: Attachment | None) -> list[str]:
    """With another attachment to one network, or none."""
    left = [text for text in texts if Attachment.parse(text).network != network]
    return [*left, new.text()] if new is not None and new != Attachment(network) else left
