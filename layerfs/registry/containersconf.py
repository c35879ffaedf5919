"""podman's registries.conf, as far as it is of whole registries: which are insecure, and their mirrors.

A `[[registry]]` for a part of a registry, with a `location` elsewhere, a pattern, or a mirror below a path or for
digests only, has no counterpart here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from layerfs._record import dataclass, field
from layerfs.errors import InvalidInput
from layerfs.oci.fields import Fields
from layerfs.registry.names import domain_of
from layerfs.registry.watched import Watched

SYSTEM = Path("/etc/containers/registries.conf")
_TABLES = ("[[registry", "[registries")


@dataclass(slots=True)
class Told:
    insecure: list[str] = field(default_factory=list)
    mirrors: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read(environ: Mapping[str, str], personal: Path, watched: Watched) -> Told:
    """What the files say; a later one's `[[registry]]` counts instead of an earlier one's of the same prefix.

    Raises:
        InvalidInput: a file that cannot be understood.
    """
    entries: dict[str, Fields] = {}
    told = Told()
    for path in _files(environ, personal, watched):
        watched.look(path)
        document = _document(path)
        for entry in document.children("registry"):
            entries[entry.text("prefix") or entry.text("location")] = entry
        old = document.child("registries")  # the first version of the format
        old = old.child("insecure") if old else None
        told.insecure += [_domain(host, document.where) for host in (old and old.texts("registries")) or ()]
    for prefix, entry in entries.items():
        _take(told, prefix, entry)
    return told


def _take(told: Told, prefix: str, entry: Fields) -> None:
    if not _is_host(prefix) or (entry.text("location") or prefix) != prefix:
        return
    domain = _domain(prefix, entry.where)
    if entry.flag("insecure"):
        told.insecure.append(domain)
    mirrors = [] if entry.flag("mirror-by-digest-only") else entry.children("mirror")
    usable = [m for m in mirrors if _is_host(m.text("location")) and m.text("pull-from-mirror", "all") == "all"]
    told.insecure += [_domain(m.text("location"), m.where) for m in usable if m.flag("insecure")]
    if usable:
        told.mirrors[domain] = tuple(_domain(m.text("location"), m.where) for m in usable)


def _is_host(text: str) -> bool:
    return bool(text) and "/" not in text and "*" not in text


def _domain(text: str, where: str) -> str:
    try:
        return domain_of(text)
    except InvalidInput as error:
        raise InvalidInput(error.message, path=where) from None


def _files(environ: Mapping[str, str], personal: Path, watched: Watched) -> Iterator[Path]:
    """The user's file counts instead of the system's; what lies in the directories counts over both."""
    if alone := environ.get("CONTAINERS_REGISTRIES_CONF"):
        yield Path(alone)
        return
    own = personal / "containers/registries.conf"
    watched.look(own)
    yield own if own.exists() else SYSTEM
    for main in (SYSTEM, own):
        directory = main.with_name("registries.conf.d")
        watched.look(directory)
        yield from sorted(directory.glob("*.conf")) if directory.is_dir() else ()


def _document(path: Path) -> Fields:
    try:
        text = path.read_text(encoding="utf-8")
        if not any(line.lstrip().startswith(_TABLES) for line in text.splitlines()):
            return Fields({}, str(path))  # short names and the like: not worth a parser
        import tomllib

        return Fields(tomllib.loads(text), str(path))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return Fields({}, str(path))
    except (ValueError, OSError) as error:
        raise InvalidInput(f"not valid TOML: {error}", path=str(path)) from None
