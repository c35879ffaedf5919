"""The build cache: what a step made, by a key of all that decides about it. Rows of the index's table `build`.

A key holds the chain ID of the layers below, never how they came about: so equal layers are found whatever built them.
A layer that a row names is kept by gc until the row is pruned.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from layerfs._record import dataclass
from layerfs.digest import DiffID, Digest, chain_id
from layerfs.errors import Corrupt
from layerfs.layer.layers import has_layer
from layerfs.store.index import Txn
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot

TABLE = "build"
_VERSION = b"layerfs build 1"
_STALE = 3600 * 10**9  # ns; how old the note of a row's last use may be


@dataclass(frozen=True, slots=True)
class Made:
    """What a step made: a layer, or none when it changed nothing. `text` and `kind` are for people."""

    key: bytes
    layer: DiffID | None
    created_ns: int
    used_ns: int
    kind: str = ""
    text: str = ""

    def row(self) -> dict[str, Any]:
        return {
            "layer": self.layer.hex if self.layer else None,
            "created": self.created_ns,
            "used": self.used_ns,
            "kind": self.kind,
            "text": self.text,
        }

    @classmethod
    def from_row(cls, key: bytes, row: Any) -> Made:
        try:
            layer = DiffID(Digest(str(row["layer"]))) if row["layer"] else None
            return cls(key, layer, int(row["created"]), int(row["used"]), str(row["kind"]), str(row["text"]))
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"the row {key.hex()} of the build cache is damaged ({error})") from None


def step_key(kind: str, layers: Sequence[DiffID] | None, *parts: bytes | str | Iterable[str]) -> bytes:
    """Of a step on these layers (None: it depends on none) with these inputs, told apart by their lengths."""
    sha = hashlib.sha256(_VERSION)
    base = b"-" if layers is None else chain_id(layers).raw if layers else b"scratch"
    for part in (kind, base, *parts):
        for each in (part,) if isinstance(part, str | bytes) else (str(len(listed := list(part))), *listed):
            data = each.encode("utf-8", "surrogateescape") if isinstance(each, str) else each
            sha.update(b"%d:%b" % (len(data), data))
    return sha.digest()


class BuildCache:
    """Of one store, during one build. Safe from threads.

    Args:
        elsewhere: asked for what is not here; it brings the layer, under the same lease.

    `steps` has what this build found and made, by key.
    """

    def __init__(self, root: StoreRoot, lease: Lease, elsewhere: Callable[[bytes], Made | None] | None = None) -> None:
        self._root, self._lease, self._elsewhere = root, lease, elsewhere
        self._used: set[bytes] = set()
        self.steps: dict[bytes, Made] = {}

    def find(self, key: bytes) -> Made | None:
        """What is known, with its layer kept for this build; None when the layer is gone."""
        made = self._here(key)
        if made is None and self._elsewhere is not None and (made := self._elsewhere(key)) is not None:
            self.keep(made)
        if made is not None:
            self.steps[key] = made
        return made

    def _here(self, key: bytes) -> Made | None:
        with self._root.index.view() as txn:
            row = txn.get_json(TABLE, key)
        if row is None:
            return None
        made = Made.from_row(key, row)
        if made.layer is not None:
            self._lease.pin(made.layer.raw)
            if has_layer(self._root, made.layer) is None:
                return None
        if time.time_ns() - made.used_ns > _STALE:
            self._used.add(key)
        return made

    def keep(self, made: Made) -> None:
        with self._root.index.update() as txn:
            txn.put_json(TABLE, made.key, made.row())
        self.steps[made.key] = made

    def note_uses(self) -> None:
        """At the end of a build: one transaction, and none when all was used not long ago."""
        used, self._used = self._used, set()
        if not used:
            return
        now = time.time_ns()
        with self._root.index.update() as txn:
            for key in used:
                row = txn.get_json(TABLE, key)
                if row is not None:
                    txn.put_json(TABLE, key, row | {"used": now})


def scan(txn: Txn) -> list[Made]:
    """All rows."""
    return [Made.from_row(key, row) for key, row in txn.scan_json(TABLE)]


def cached_layers(txn: Txn) -> frozenset[bytes]:
    """What gc keeps for the cache."""
    return frozenset(made.layer.raw for made in scan(txn) if made.layer is not None)
