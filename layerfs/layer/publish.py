"""Publishing layers: their files go to their places and are made durable, then rows name them.

A flush of the disk costs the same for many files as for one, so layers that are ready meanwhile share the next one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from layerfs._record import dataclass
from layerfs.digest import DiffID, Digest
from layerfs.errors import Corrupt
from layerfs.layer.layers import Layer, Source, add_source, has_layer, put_layer
from layerfs.layer.tree import Tree
from layerfs.store.format import ID_SIZE, KIND_PACK, UNKNOWN, ContentValue

if TYPE_CHECKING:
    from layerfs.native import LayerResult
    from layerfs.oci.descriptor import Descriptor
    from layerfs.store import StoreRoot
    from layerfs.store.blobs import BlobWriter
    from layerfs.store.index import Txn
    from layerfs.store.leases import Lease
    from layerfs.store.writer import ContentWriter

LARGE = 64 << 20  # bytes of tar from which data is synced before the lock is taken
WAITING = 32  # layers that are published together at most


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Wish:
    """How a layer is to be published. `blob`: its compressed form, which is kept; `writer` has its bytes, checked;
    `source`: where it came from; `before`: called before anything is made durable; `done`: when all is.
    """

    blob: Descriptor | None = None
    writer: BlobWriter | None = None
    source: Source | None = None
    before: Callable[[], object] = _nothing
    done: Callable[[Layer], object] = _nothing


class Ready:
    """A layer that was read to its end. Its files lie below the lease's directory until it is published."""

    def __init__(self, contents: ContentWriter, result: LayerResult, tree: Path, split: Path, wish: Wish) -> None:
        self.contents, self.tree, self.split, self.wish = contents, tree, split, wish
        self.diff_id = DiffID(Digest.from_raw(result.diff_id))
        self.rows = contents.seal(result.contents, result.pack_blocks)
        self.layer = Layer(
            self.diff_id,
            result.tar_size,
            result.content_size,
            result.entries,
            result.unresolved_links,
            time.time_ns(),
            Tree.open(tree).packs,
            wish.blob,
        )
        self.placed: list[Path] | None = None  # contents that are new, once they are in their places

    @property
    def pins(self) -> bytes:
        return self.diff_id.raw + (self.wish.blob.digest.raw if self.wish.blob is not None else b"")

    @property
    def files(self) -> list[Path]:
        """What is to be made durable."""
        blob = [self.wish.writer.path] if self.wish.writer is not None else []
        return [*(self.placed or ()), self.tree, self.split, *blob]

    def close(self) -> None:
        """Removes what was not published."""
        self.contents.close()
        if self.wish.writer is not None:
            self.wish.writer.close()
        for path in (self.tree, self.split):
            path.unlink(missing_ok=True)


class _Group:
    """Layers that become visible together, each of them once. `withdraw`: tells that a layer brings no contents; true
    when it has to, as others have begun to use them.
    """

    def __init__(
        self, root: StoreRoot, lease: Lease, ready: Sequence[Ready], withdraw: Callable[[Ready], bool]
    ) -> None:
        self._root, self._lease, self._ready, self._withdraw = root, lease, ready, withdraw
        self._known: dict[DiffID, Layer] = {}
        self._spared: set[DiffID] = set()  # known, and their contents are not needed either

    def publish(self) -> list[Layer]:
        """All that is asked for, durable; a layer that another process published meanwhile is used instead."""
        self._lease.pin(b"".join(each.pins for each in self._ready))
        self._look()
        for each in self._ready:
            each.wish.before()
            if each.diff_id not in self._spared:
                each.placed = each.contents.place()
        if sum(each.layer.tar_size for each in self._ready) > LARGE:
            self._root.durable([path for each in self._ready for path in each.files])
        if not self._news():
            return list(self._known.values())
        with self._root.lock("trees"):
            self._look()
            self._root.durable([path for each in self._ready for path in self._place(each)])
            with self._root.index.update() as txn:
                return [self._put(txn, each) for each in self._ready]

    def _news(self) -> bool:
        """Whether there is anything that the store does not have."""
        if self._known.keys() == self._spared and len(self._known) == len(self._ready):
            return any(each.wish.source or each.wish.blob for each in self._ready)
        return True

    def _look(self) -> None:
        for each in self._ready:
            if each.diff_id in self._known or (layer := has_layer(self._root, each.diff_id)) is None:
                continue
            self._known[each.diff_id] = layer
            if not self._withdraw(each):
                self._spared.add(each.diff_id)
                each.contents.drop_pack()  # objects may be somebody's by now and are left to gc
                each.placed = None

    def _place(self, ready: Ready) -> list[Path]:
        """What has a new place, and is durable when `publish` has waited for it."""
        root, placed = self._root, list(ready.placed or ())
        if ready.wish.writer is not None:
            placed.append(ready.wish.writer.move())
        if ready.diff_id in self._known:
            return placed
        hex = ready.diff_id.hex
        for temporary, place in ((ready.tree, root.tree_path("layer", hex)), (ready.split, root.split_path(hex))):
            root.place(temporary, place)
            placed.append(place)
        return placed

    def _put(self, txn: Txn, ready: Ready) -> Layer:
        wish, layer = ready.wish, ready.layer
        if ready.placed is not None:
            ready.contents.publish(txn)
        if wish.writer is not None:
            wish.writer.publish(txn)
        if ready.diff_id in self._known:
            layer = self._note(txn, ready.diff_id, wish.blob)
        else:
            put_layer(txn, layer)
        if wish.source is not None:
            add_source(txn, ready.diff_id, wish.source)
        return layer

    def _note(self, txn: Txn, diff_id: DiffID, blob: Descriptor | None) -> Layer:
        """What this reading adds to a layer that is known: a kept blob."""
        row = txn.get_json("layers", diff_id.raw)
        if row is None:
            raise Corrupt(f"layer {diff_id} went away")
        if blob is not None and row["blob"] is None:
            row["blob"] = blob.document()
            txn.put_json("layers", diff_id.raw, row)
        return Layer.from_row(diff_id, row)


def publish_layer(root: StoreRoot, lease: Lease, ready: Ready) -> Layer:
    """One layer, at once."""
    try:
        return _Group(root, lease, [ready], lambda _: False).publish()[0]
    finally:
        ready.close()


class Publisher:
    """Takes layers that are ready, from several threads, and publishes many at once: as soon as there are enough, and
    when somebody says that he has nothing better to do (`flush`; to be called at the end, too). One thread
    publishes at a time, what comes meanwhile too; the others go on. After an error it takes nothing more. A context
    manager: when it is left nobody works with it, and what waits still is dropped.

    Contents that wait to be published are found by those who read layers meanwhile (`known`): theirs come later.
    """

    def __init__(self, root: StoreRoot, lease: Lease) -> None:
        self.root, self.lease = root, lease
        self._changed = threading.Condition()
        self._waiting: list[Ready] = []
        self._busy = self._wanted = False
        self._error: BaseException | None = None
        self._rows: dict[bytes, bytes] = {}
        self._relied: set[int] = set()  # packs of such contents

    def add(self, ready: Ready) -> None:
        """It will be published, at the next `flush` at the latest. Raises as that."""
        with self._changed:
            while self._busy and self._is_full():
                self._changed.wait()
            if self._error is not None:
                ready.close()
                raise self._error
            self._waiting.append(ready)
            self._rows.update(ready.rows)
        self._work()

    def flush(self) -> None:
        """What waits is published when this returns, or before another thread's `add` or `flush` does. Raises what any
        of those that are published together meets: NoSpace, Corrupt, StoreError.
        """
        with self._changed:
            self._wanted = True
        self._work()

    def _is_full(self) -> bool:
        return len(self._waiting) >= WAITING or sum(each.layer.tar_size for each in self._waiting) > LARGE

    def _work(self) -> None:
        with self._changed:
            if self._busy:
                return
            self._busy = True
        try:
            while group := self._next():
                self._publish(group)
        except BaseException as error:
            self._fail(error)
            raise

    def _next(self) -> list[Ready]:
        """What waits; when that is nothing, or not enough yet, the turn is over. A layer that is there twice waits
        once more.
        """
        with self._changed:
            due = self._waiting if self._error is None and (self._wanted or self._is_full()) else ()
            group = {each.diff_id: each for each in reversed(due)}
            self._waiting = [each for each in self._waiting if group.get(each.diff_id) is not each]
            self._wanted = self._wanted and bool(self._waiting)
            self._busy = bool(group)
            self._changed.notify_all()
            return list(reversed(group.values()))

    def _publish(self, group: list[Ready]) -> None:
        try:
            layers = _Group(self.root, self.lease, group, self._withdraw).publish()
        finally:
            self._forget(group)
            for each in group:
                each.close()
        for each, layer in zip(group, layers, strict=True):
            each.wish.done(layer)

    def known(self, identities: bytes, values: bytes) -> bytes:
        """What the index has said of these identities, and of those that it does not have what waits to be there."""
        found = [values[at : at + ID_SIZE] for at in range(0, len(values), ID_SIZE)]
        with self._changed:
            if not self._rows:
                return values
            for number, value in enumerate(found):
                if value == UNKNOWN:
                    found[number] = self._waits(identities[number * ID_SIZE : (number + 1) * ID_SIZE])
        return b"".join(found)

    def _waits(self, identity: bytes) -> bytes:
        value = self._rows.get(identity, UNKNOWN)
        if value[0] == KIND_PACK:
            self._relied.add(ContentValue.decode(value).pack)
        return value

    def _forget(self, group: Sequence[Ready]) -> None:
        """The index has their contents."""
        with self._changed:
            if not self._waiting:
                self._rows.clear()
        for each in group if self._rows else ():
            self._withdraw(each)

    def _withdraw(self, ready: Ready) -> bool:
        """Nobody finds its contents here any more; whether somebody has."""
        with self._changed:
            for identity, _ in ready.rows:
                self._rows.pop(identity, None)
            return ready.contents.pack_id in self._relied

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error, self._busy = error, False
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        waiting, self._waiting = self._waiting, []
        self._forget(waiting)
        for each in waiting:
            each.close()
