"""`--cache-from` and `--cache-to`: caches that are elsewhere, and what is written there, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

from layerfs._record import dataclass
from layerfs.build.cachekeys import Made
from layerfs.digest import DiffID
from layerfs.errors import InvalidArchive, InvalidInput, Unsupported
from layerfs.oci.fields import Fields, dump, load, load_object

Kind = Literal["registry", "local", "inline"]
Mode = Literal["min", "max"]
MEDIA_TYPE = "application/vnd.layerfs.buildcache.v1+json"  # of the config of a cache's manifest
INLINE = "layerfs.buildcache.v1"  # the key in an image's config
RECORDS_MAX = 100_000
SIZE_MAX = 64 << 20  # bytes of a list of records
_TEXT_MAX = 1024  # characters of a step's text that go along
_LATEST = 253_402_300_799 * 10**9  # the end of the year 9999
_ELSEWHERE = ("gha", "s3", "azblob")  # types that BuildKit knows beside
_COMMON = {"type", "mode", "compression", "ignore-error", "oci-mediatypes", "image-manifest"}
_KEYS: dict[Kind, set[str]] = {
    "registry": _COMMON | {"ref"},
    "local": _COMMON | {"src", "dest", "tag", "digest"},
    "inline": {"type", "mode"},
}


@dataclass(frozen=True, slots=True)
class CachePlace:
    """`place`: a name in a registry, or a directory; `name`: the tag or digest in its layout."""

    kind: Kind
    place: str = ""
    name: str = "latest"
    mode: Mode = "min"
    compression: Literal["gzip", "zstd", "none"] = "gzip"
    ignore_error: bool = False

    def __str__(self) -> str:
        return self.place or self.kind

    @classmethod
    def parse(cls, text: str, *, export: bool = False) -> CachePlace:
        """`type=registry,ref=NAME`, `type=local,src=DIR` (`dest=DIR` to write), `type=inline`, or a NAME alone.

        Raises:
            InvalidInput, Unsupported: one of BuildKit's types that is not there.
        """
        if "=" not in text:
            return cls("registry", text)
        values: dict[str, str] = {}
        for field in text.split(","):
            key, equals, value = field.partition("=")
            if not equals:
                raise InvalidInput(f"invalid value {field!r} in cache {text!r}")
            values[key.strip().lower()] = value
        return _checked(values, text, export)


def _checked(values: Mapping[str, str], text: str, export: bool) -> CachePlace:
    given = values.get("type", "")
    if given in _ELSEWHERE:
        raise Unsupported(f"the cache type {given} is not supported (there are registry, local and inline)")
    if given not in _KEYS:
        raise InvalidInput(f"unknown cache type {given!r} in {text!r} (there are registry, local and inline)")
    kind: Kind = given
    unknown = set(values) - _KEYS[kind]
    if unknown:
        raise InvalidInput(f"unknown key {min(unknown)!r} in cache {text!r}")
    if kind == "inline" and not export:
        raise InvalidInput("an inline cache is read by type=registry,ref=NAME")
    needed = {"registry": "ref", "local": "dest" if export else "src", "inline": "type"}[kind]
    if not values.get(needed):
        raise InvalidInput(f"{needed} is required for cache {text!r}")
    for key in ("oci-mediatypes", "image-manifest"):
        if values.get(key, "true") != "true":
            raise Unsupported(f"{key}={values[key]} in cache {text!r}: it is always true")
    return CachePlace(
        kind,
        "" if kind == "inline" else values[needed],
        values.get("digest") or values.get("tag") or "latest",
        cast(Mode, _one_of(values, "mode", ("min", "max"), "min")),
        cast(
            Any,
            _one_of(values, "compression", ("gzip", "zstd", "uncompressed"), "gzip").replace("uncompressed", "none"),
        ),
        _one_of(values, "ignore-error", ("true", "false"), "false") == "true",
    )


def _one_of(values: Mapping[str, str], key: str, options: tuple[str, ...], otherwise: str) -> str:
    value = values.get(key, otherwise)
    if value not in options:
        raise InvalidInput(f"invalid {key} {value!r} (there are {', '.join(options)})")
    return value


# records


def chosen(records: Iterable[Made], layers: Iterable[DiffID], mode: Mode) -> list[Made]:
    """Of the steps of a build those that go into a cache: with `min` only what the image itself has."""
    wanted = set(layers)
    kept = [made for made in records if mode == "max" or made.layer is None or made.layer in wanted]
    return sorted(kept, key=lambda made: made.key)


def layers_of(records: Iterable[Made]) -> list[DiffID]:
    """Each once, in an order that depends on nothing else."""
    return sorted({made.layer for made in records if made.layer is not None})


def rows(records: Iterable[Made]) -> list[dict[str, Any]]:
    return [
        {
            "key": made.key.hex(),
            **({"layer": str(made.layer)} if made.layer else {}),
            "created": made.created_ns,
            "kind": made.kind,
            "text": made.text[:_TEXT_MAX].encode("utf-8", "replace").decode(),
        }
        for made in records
    ]


def document(records: Iterable[Made]) -> bytes:
    """The config of a cache's manifest, whose layers are `layers_of` the records."""
    kept = list(records)
    return dump({"version": 1, "layers": [str(layer) for layer in layers_of(kept)], "records": rows(kept)})


def parse_document(raw: bytes, what: str) -> tuple[list[Made], tuple[DiffID, ...]]:
    """Records, and the diff IDs of the manifest's layers. Raises InvalidArchive."""
    fields = load_object(raw, what, limit=SIZE_MAX)
    if fields.integer("version") != 1:
        raise InvalidArchive(f"{what}: version {fields.integer('version')} of a build cache is not known")
    return _records(fields, "records", what), tuple(map(DiffID, fields.digests("layers")))


def parse_inline(raw: bytes, what: str) -> list[Made]:
    """Records in the config of an image; none in one that was built without."""
    fields = load_object(raw, what, limit=SIZE_MAX)
    return _records(fields, INLINE, what) if fields.has(INLINE) else []


def _records(fields: Fields, name: str, what: str) -> list[Made]:
    children = fields.children(name)
    if len(children) > RECORDS_MAX:
        raise InvalidArchive(f"{what}: more than {RECORDS_MAX} records")
    return [_record(child, what) for child in children]


def _record(fields: Fields, what: str) -> Made:
    key, created = fields.text("key"), fields.integer("created")
    try:
        raw = bytes.fromhex(key)
    except ValueError:
        raw = b""
    if len(raw) != 32 or not 0 <= created <= _LATEST:
        raise InvalidArchive(f"{what}: the record {key[:80]!r} is damaged")
    layer = DiffID(fields.digest("layer")) if fields.has("layer") else None
    return Made(raw, layer, created, 0, fields.text("kind")[:40], fields.text("text")[:_TEXT_MAX])


def with_inline(config: bytes, records: Iterable[Made]) -> bytes:
    """An image's config with its cache."""
    return dump(dict(sorted((load(config, "config", limit=SIZE_MAX) | {INLINE: rows(records)}).items())))
