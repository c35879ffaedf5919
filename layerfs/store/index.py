"""The index: tables in LMDB, read in snapshots and changed in transactions that are the only commit points.

The tables are key ranges of LMDB's one unnamed database, not named databases: opening the latter takes the writer's
lock, so a command that only reads would wait for another's commit.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import Corrupt, InvalidInput, StoreError, StoreReadOnly
from layerfs.store import environment
from layerfs.store.environment import translate, translated
from layerfs.store.format import TABLES

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from typing import Any

    import lmdb

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
KEY_MAX = 510  # LMDB's 511 less the table's byte
_PREFIX = {name: bytes([number]) for number, name in enumerate(TABLES, 1)}


class Txn:
    """A transaction. Values are copies: nothing points into the map after it. Use it on the thread that began it."""

    __slots__ = ("_path", "_txn")

    def __init__(self, txn: lmdb.Transaction, path: Path) -> None:
        self._txn, self._path = txn, path

    def get(self, table: str, key: bytes) -> bytes | None:
        try:
            value = self._txn.get(_PREFIX[table] + key)
        except Exception as error:
            raise translate(error, self._path) from error
        return None if value is None else bytes(value)

    def get_many(self, table: str, keys: Iterable[bytes]) -> dict[bytes, bytes]:
        """The rows that there are: quicker than `get` for thousands."""
        prefix, get = _PREFIX[table], self._txn.get
        with translated(self._path):
            return {key: bytes(value) for key in keys if (value := get(prefix + key)) is not None}

    def put(self, table: str, key: bytes, value: bytes, *, overwrite: bool = True) -> bool:
        """Stores a row; False when it exists and `overwrite` is false. Raises InvalidInput, NoSpace, StoreReadOnly."""
        if not 0 < len(key) <= KEY_MAX:
            raise InvalidInput(f"a name or key is empty or longer than {KEY_MAX} bytes")
        try:
            return bool(self._txn.put(_PREFIX[table] + key, value, overwrite=overwrite))
        except Exception as error:
            raise translate(error, self._path) from error

    def put_many(self, table: str, rows: Iterable[tuple[bytes, bytes]], *, overwrite: bool = True) -> int:
        """Stores rows, over what is there or only where nothing is: quicker than `put` for thousands. How many were
        stored. Errors as `put`."""
        prefix = _PREFIX[table]
        with translated(self._path), self._txn.cursor() as cursor:
            return cursor.putmulti([(prefix + key, value) for key, value in rows], overwrite=overwrite)[1]

    def delete(self, table: str, key: bytes) -> bool:
        """Removes a row; False when there is none."""
        with translated(self._path):
            return bool(self._txn.delete(_PREFIX[table] + key))

    def scan(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows whose key starts with `prefix`, in byte order. Make a list of it before changing the table."""
        start = _PREFIX[table] + prefix
        with translated(self._path), self._txn.cursor() as cursor:
            if not cursor.set_range(start):
                return
            for found, value in cursor:
                key = bytes(found)
                if not key.startswith(start):
                    return
                yield key[1:], bytes(value)

    def keys(self, table: str) -> list[bytes]:
        return [key for key, _ in self.scan(table)]

    def count(self, table: str) -> int:
        return sum(1 for _ in self.scan(table))

    def get_json(self, table: str, key: bytes) -> Any:
        """The decoded value, None when there is no row. Raises Corrupt when it is no JSON."""
        value = self.get(table, key)
        return None if value is None else decode_json(value, table)

    def put_json(self, table: str, key: bytes, value: Any, *, overwrite: bool = True) -> bool:
        return self.put(table, key, encode_json(value), overwrite=overwrite)

    def scan_json(self, table: str, prefix: bytes = b"") -> Iterator[tuple[bytes, Any]]:
        for key, value in self.scan(table, prefix):
            yield key, decode_json(value, table)


class Draft(Txn):
    """What `get` and `put` do on a snapshot, to be done in an update later: in next to no time, as all is known.

    with index.view() as view:
        change(draft := Draft(view))
    ...
    with index.update() as txn:
        draft.apply(txn) or change(txn)
    """

    __slots__ = ("_read", "_written")

    def __init__(self, view: Txn) -> None:
        super().__init__(view._txn, view._path)
        self._read: dict[tuple[str, bytes], bytes | None] = {}
        self._written: dict[tuple[str, bytes], bytes] = {}

    def get(self, table: str, key: bytes) -> bytes | None:
        at = table, key
        if at in self._written:
            return self._written[at]
        if at not in self._read:
            self._read[at] = super().get(table, key)
        return self._read[at]

    def put(self, table: str, key: bytes, value: bytes, *, overwrite: bool = True) -> bool:
        found = self.get(table, key)
        if found is not None and not overwrite:
            return False
        if found != value:
            self._written[table, key] = value
        return True

    def apply(self, txn: Txn) -> bool:
        """False, and nothing is changed, when something that was read is another now."""
        if any(txn.get(*at) != value for at, value in self._read.items()):
            return False
        for (table, key), value in self._written.items():
            txn.put(table, key, value)
        return True


def encode_json(value: Any) -> bytes:
    """The one encoding of a value: sorted keys, no spaces, ASCII."""
    return _encode(value).encode("ascii")


def decode_json(value: bytes, table: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise Corrupt(f"a row of the table {table} is no JSON") from error


class _Transaction:
    """The context manager of both kinds of transaction."""

    __slots__ = ("_durable", "_environment", "_index", "_txn", "_write")

    def __init__(self, index: Index, shared: environment.Environment, write: bool, durable: bool = True) -> None:
        self._index = index  # which holds the environment
        self._environment, self._write, self._durable = shared, write, durable

    def __enter__(self) -> Txn:
        shared = self._environment
        if self._write:
            self._take_writer()
        try:
            shared.enter()
            try:
                self._txn = shared.begin(self._write)
            except BaseException as error:
                shared.leave()
                if isinstance(error, Exception):
                    raise translate(error, shared.path) from error
                raise
        except BaseException:
            self._free_writer()
            raise
        return Txn(self._txn, shared.path)

    def _take_writer(self) -> None:
        shared = self._environment
        if shared.read_only:
            raise StoreReadOnly("the store is read-only", path=str(shared.path.parent))
        if shared.writer == threading.get_ident():
            raise StoreError("update() inside update() of the same thread: pass the open transaction on instead")
        shared.write_lock.acquire()
        shared.writer = threading.get_ident()

    def _free_writer(self) -> None:
        if self._write:
            self._environment.writer = None
            self._environment.write_lock.release()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._write and error is None:
                self._commit()
            else:
                self._txn.abort()
        finally:
            self._environment.leave()
            self._free_writer()

    def _commit(self) -> None:
        shared = self._environment
        try:
            self._txn.commit()
            shared.pending = True
            if self._durable:
                shared.sync()
        except Exception as error:
            raise translate(error, shared.path) from error


class Index:
    """The store's tables (docs/format.md). Safe from many threads and processes.

    Readers see the state at the time their `view()` began and never block. Keep views short: pages freed by later
    commits are not used again while an old view is open. Writers queue, one at a time over all processes.
    """

    _shared: environment.Environment | None = None

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self.path = path
        self._shared = environment.acquire(path, read_only=read_only)

    def __del__(self, forget: Callable[[environment.Environment], None] = environment.forget) -> None:
        if self._shared is not None:  # nobody has closed it
            forget(self._shared)

    @property
    def read_only(self) -> bool:
        return self._environment().read_only

    def _environment(self) -> environment.Environment:
        if self._shared is None:
            raise StoreError("the store is closed", path=str(self.path.parent))
        return self._shared

    def view(self) -> AbstractContextManager[Txn]:
        """A read snapshot."""
        return _Transaction(self, self._environment(), False)

    def update(self, *, durable: bool = True) -> AbstractContextManager[Txn]:
        """The write transaction: commits at exit, aborts on an exception, durable on return.

        Without `durable` a power cut may take it, and what was committed since, as long as nobody has committed, or
        called `sync`, after it; the index is whole in any case. It spares one of two flushes. For what nobody wants
        after a power cut, or what nothing stands on yet: delete no file because of it, and write none behind it.

        Raises:
            StoreError: this thread has an update open already (LMDB would wait for itself for ever).
            StoreReadOnly, NoSpace: at entry or at the commit.
        """
        return _Transaction(self, self._environment(), True, durable)

    def sync(self) -> None:
        """Makes durable what was committed, by whomever."""
        shared = self._environment()
        if not shared.read_only:
            with translated(shared.path):
                shared.sync()

    def check_readers(self) -> int:
        """Frees the slots of readers that died; their number."""
        return int(self._environment().env.reader_check())

    def close(self) -> None:
        """Idempotent."""
        shared, self._shared = self._shared, None
        if shared is not None:
            environment.release(shared)
