"""Rows that must point at rows: references at images, images at blobs and layers, names at containers, containers and
snapshots at states, these at layers or a directory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from layerfs.errors import Corrupt
from layerfs.store.index import decode_json

if TYPE_CHECKING:
    from layerfs.store.index import Txn
    from layerfs.store.problems import Findings, Kind
    from layerfs.store.root import StoreRoot

JSON_TABLES = (
    "packs",
    "layers",
    "trees",
    "blobs",
    "images",
    "references",
    "containers",
    "sources",
    "states",
    "snapshots",
)


def check_links(root: StoreRoot, txn: Txn, found: Findings) -> bool:
    """Adds what points nowhere to `found`. False when a row cannot even be read: more checks make no sense then."""
    if not _readable(txn, found):
        return False
    images = set(txn.keys("images"))
    for key, row in txn.scan_json("references"):
        if _raw(row.get("image")) not in images:
            found.rows.append(("references", key))
            found.error("reference", key_text(key), "names an image that is not there", repairable=True)
    for key, row in txn.scan_json("images"):
        for message in _image(txn, key, row):
            found.error("image", key.hex(), message)
    for key, row in txn.scan_json("trees"):
        if any(txn.get("layers", _raw(layer) or b"?") is None for layer in row.get("layers", ())):
            found.merged.add(key)
            found.error("merged", key.hex(), "is of a layer that is not there", repairable=True)
    _containers(root, txn, found)
    _states(root, txn, found)
    return True


def _readable(txn: Txn, found: Findings) -> bool:
    good = True
    for table in JSON_TABLES:
        for key, value in txn.scan(table):
            try:
                wanted = list if table == "sources" else dict
                if not isinstance(decode_json(value, table), wanted):
                    raise Corrupt(f"a row of the table {table} is not what it should be")
            except Corrupt as error:
                good = False
                found.error("row", key_text(key), str(error))
    return good


def _image(txn: Txn, key: bytes, row: Any) -> Iterable[str]:
    if txn.get("blobs", key) is None:
        yield "its config is not in the store"
    manifest = row.get("manifest")
    if manifest and txn.get("blobs", _raw(manifest) or b"?") is None:
        yield "its manifest is not in the store"
    for layer in row.get("diff_ids", ()):
        if txn.get("layers", _raw(layer) or b"?") is None:
            yield f"its layer {layer} is not in the store"


def _containers(root: StoreRoot, txn: Txn, found: Findings) -> None:
    containers = dict(txn.scan_json("containers"))
    for key, row in containers.items():
        image = _raw(row.get("image"))
        if image is None or (txn.get("images", image) is None and txn.get("blobs", image) is None):
            found.error("container", key_text(key), "its image is not there")
        home = root.path / "containers" / key_text(key)
        if not row.get("parent") and not home.is_dir() and _still_there(root, "containers", key):  # a fork's is remade
            found.error("container", key_text(key), "its directory is missing")
    for key, value in txn.scan("names"):
        if value not in containers:
            found.rows.append(("names", key))
            found.error("name", key_text(key), "names a container that is not there", repairable=True)


def _states(root: StoreRoot, txn: Txn, found: Findings) -> None:
    states = dict(txn.scan_json("states"))
    users = [("container", key, row.get("base")) for key, row in txn.scan_json("containers")]
    users += [("snapshot", key, row.get("state")) for key, row in txn.scan_json("snapshots")]
    users += [("state", key, row.get("parent")) for key, row in states.items() if row.get("place")]
    for kind, key, state in users:
        if state and state.encode() not in states:
            found.error(cast("Kind", kind), key_text(key), f"the state {state} that it needs is not there")
    for key, row in states.items():
        for layer in row.get("layers", ()):
            if txn.get("layers", _raw(layer) or b"?") is None:
                found.error("state", key_text(key), f"its layer {layer} is not in the store")
        place = row.get("place")
        if place and not (root.path / place / "upper").is_dir() and _still_there(root, "states", key):
            found.error("state", key_text(key), "the frozen directory is missing")


def _still_there(root: StoreRoot, table: str, key: bytes) -> bool:
    """Rows go before directories: one that was removed, or absorbed, since our view began is no error."""
    with root.index.view() as now:
        row = now.get_json(table, key)
    return row is not None and (table != "states" or bool(row.get("place")))


def _raw(text: Any) -> bytes | None:
    try:
        raw = bytes.fromhex(text.removeprefix("sha256:"))
    except (AttributeError, ValueError):
        return None
    return raw or None


def key_text(key: bytes) -> str:
    try:
        text = key.decode("utf-8")
    except UnicodeDecodeError:
        return key.hex()
    return text if text.isprintable() else key.hex()
