from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from layerfs.errors import Corrupt, NotFound, StoreError
from layerfs.native import hash_fd
from layerfs.store import ContentValue, NewContent, StoreRoot
from layerfs.store.format import (
    FLAG_SPARSE,
    KIND_OBJECT,
    KIND_PACK,
    UNKNOWN,
    new_contents,
    new_objects,
    new_size,
    packed_rows,
)
from tests.unit.store.content import Filler, identity_of, store

SMALL, BIG = b"small" * 1000, os.urandom(200_000)


def test_value_and_record_survive_encoding() -> None:
    value = ContentValue(KIND_PACK, 0, 7, 2**63, 5, 2**64 - 1)
    assert ContentValue.decode(value.encode()) == value
    record = NewContent(b"i" * 32, 1, 2, 3, KIND_OBJECT, FLAG_SPARSE)
    assert new_contents(record.encode()) == [record]


def test_packed_rows_are_the_values_of_the_records() -> None:
    packed = [NewContent(os.urandom(32), 5000, 2**64 - 1, block, KIND_PACK, 0) for block in (0, 2, 2**32 - 1)]
    big = NewContent(b"i" * 32, 1 << 40, 2, 0, KIND_OBJECT, FLAG_SPARSE)
    records = b"".join(each.encode() for each in (packed[0], big, *packed[1:]))
    assert packed_rows(records, 9) == [(each.identity, each.value(9).encode()) for each in packed]
    assert new_objects(records) == [big]
    assert new_size(records) == 15000 + (1 << 40)


def test_a_row_of_an_unknown_kind_is_corrupt() -> None:
    with pytest.raises(Corrupt):
        ContentValue.decode(b"\x07" + bytes(31))


@pytest.mark.parametrize("data", [b"x", SMALL, b"y" * 131072, b"y" * 131073, BIG])
def test_what_is_published_reads_back(root: StoreRoot, data: bytes) -> None:
    (identity,) = store(root, data)
    assert root.contents.read(identity, verify=True) == data
    with root.contents.open(identity) as reader:
        assert reader.size == len(data)
        assert reader.pread(len(data) - 1, 100) == data[-1:]
        assert reader.pread(len(data), 5) == b""
        assert reader.read(3) + reader.read() == data
        assert list(reader.extents()) == [(0, len(data))]


def test_files_lie_where_the_format_says(root: StoreRoot) -> None:
    small, big = store(root, SMALL, BIG)
    value = root.contents.stat(small)
    pack = root.path / "packs" / f"{value.pack:016x}"
    assert pack.stat().st_size == 8192
    assert pack.stat().st_mode & 0o777 == 0o400
    name = big.hex()
    assert (root.path / "objects" / name[:2] / name[2:]).read_bytes() == BIG


def test_lookup_answers_in_order_and_pins(root: StoreRoot) -> None:
    small, big = store(root, SMALL, BIG)
    with root.leases.acquire("look") as lease:
        answer = root.contents.lookup(small + b"?" * 32 + big, lease)
        assert ContentValue.decode(answer[:32]).size == len(SMALL)
        assert answer[32:64] == UNKNOWN
        assert ContentValue.decode(answer[64:]).kind == KIND_OBJECT
        assert root.leases.pins() == {small, b"?" * 32, big}
    assert root.leases.pins() == set()


def test_a_content_whose_file_is_gone_is_unknown_and_mended_by_the_next_import(root: StoreRoot) -> None:
    small, big = store(root, SMALL, BIG)
    root.contents.pack_path(root.contents.stat(small).pack).unlink()
    root.contents.object_path(big).unlink()
    assert root.contents.lookup(small + big) == UNKNOWN * 2
    with pytest.raises(Corrupt, match="missing"):
        root.contents.open(big)
    store(root, SMALL, BIG)
    assert root.contents.read(small) == SMALL
    assert root.contents.read(big) == BIG


def test_an_unknown_identity_is_not_found(root: StoreRoot) -> None:
    with pytest.raises(NotFound):
        root.contents.open(bytes(32))


def test_a_truncated_file_is_corrupt(root: StoreRoot) -> None:
    small, big = store(root, SMALL, BIG)
    os.truncate(root.contents.object_path(big), 5)
    os.truncate(root.contents.pack_path(root.contents.stat(small).pack), 4096)
    for identity in (small, big):
        with pytest.raises(Corrupt):
            root.contents.read(identity)


def test_verify_finds_a_flipped_bit(root: StoreRoot) -> None:
    small, big = store(root, SMALL, BIG)
    for path in (root.contents.object_path(big), root.contents.pack_path(root.contents.stat(small).pack)):
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(b"\xff")
    for identity in (small, big):
        root.contents.open(identity).close()
        with pytest.raises(Corrupt):
            root.contents.open(identity, verify=True)


def test_a_row_that_exists_stays(root: StoreRoot) -> None:
    (identity,) = store(root, SMALL)
    first = root.contents.stat(identity)
    store(root, SMALL, b"other")
    assert root.contents.stat(identity) == first


def test_an_object_that_is_published_keeps_its_inode(root: StoreRoot) -> None:
    (identity,) = store(root, BIG)
    inode = root.contents.object_path(identity).stat().st_ino
    store(root, BIG)
    assert root.contents.object_path(identity).stat().st_ino == inode


def test_an_orphan_object_is_replaced(root: StoreRoot) -> None:
    path = root.contents.object_path(identity_of(BIG))
    path.parent.mkdir()
    path.write_bytes(b"half")
    assert root.contents.read(store(root, BIG)[0]) == BIG


def test_an_empty_pack_is_not_kept(root: StoreRoot) -> None:
    store(root, BIG)
    assert list((root.path / "packs").iterdir()) == []
    with root.index.view() as txn:
        assert txn.keys("packs") == []


def test_what_is_not_staged_goes_with_the_writer(root: StoreRoot) -> None:
    with root.leases.acquire("x") as lease:
        with root.contents.writer(lease) as writer:
            filler = Filler(writer)
            filler.add(SMALL)
            filler.add(BIG)
        assert {path.name for path in lease.tmp.iterdir()} == {"lease", "pins"}


def test_publish_before_stage_and_staging_twice_are_refused(root: StoreRoot) -> None:
    with root.leases.acquire("x") as lease, root.contents.writer(lease) as writer:
        with root.index.update() as txn, pytest.raises(StoreError):
            writer.publish(txn)
        writer.stage(b"", 0)
        with pytest.raises(StoreError):
            writer.stage(b"", 0)


def test_a_pack_that_is_not_as_long_as_said_is_refused(root: StoreRoot) -> None:
    with root.leases.acquire("x") as lease, root.contents.writer(lease) as writer:
        Filler(writer).add(SMALL)
        with pytest.raises(StoreError):
            writer.stage(b"", 7)


def test_a_sparse_object_tells_its_extents(root: StoreRoot, tmp_path: Path) -> None:
    file = root.path / "tmp/sparse"
    with file.open("wb") as out:
        out.seek(4 << 20)
        out.write(b"end")
    with file.open("rb") as opened:
        identity, checksum = hash_fd(opened.fileno(), True)
    with root.leases.acquire("x") as lease, root.contents.writer(lease) as writer:
        writer.add_object(file, identity)
        size = (4 << 20) + 3
        writer.stage(NewContent(identity, size, checksum, 0, KIND_OBJECT, FLAG_SPARSE).encode(), 0)
        with root.index.update() as txn:
            writer.publish(txn)
    with root.contents.open(identity, verify=True) as reader:
        assert reader.sparse
        assert sum(length for _, length in reader.extents()) < 1 << 20
        assert reader.pread(size - 4, 10) == b"\0end"


def test_two_imports_of_the_same_content_at_once(root: StoreRoot) -> None:
    data = [os.urandom(3000) for _ in range(20)] + [os.urandom(150_000) for _ in range(3)]
    faults: list[BaseException] = []

    def work() -> None:
        try:
            store(root, *data)
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert [root.contents.read(identity_of(content), verify=True) for content in data] == data


def test_packs_kept_open_are_bounded(root: StoreRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerfs.store.contents.OPEN_PACKS", 2)
    identities = [store(root, b"%d" % number)[0] for number in range(5)]
    for _ in range(2):
        assert [root.contents.read(identity) for identity in identities] == [b"%d" % n for n in range(5)]
    assert len(root.contents._packs) == 2


def test_files_are_durable_before_the_rows_are_committed(root: StoreRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut: what the index shows must be on the disk already."""
    synced: set[tuple[int, int]] = set()
    real = os.fsync

    def fsync(fd: int) -> None:
        status = os.fstat(fd)
        synced.add((status.st_dev, status.st_ino))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    with root.leases.acquire("x") as lease, root.contents.writer(lease) as writer:
        filler = Filler(writer)
        filler.add(SMALL)
        filler.add(BIG)
        placed = filler.stage()
        for path in placed:
            for each in (path, path.parent):
                assert (each.stat().st_dev, each.stat().st_ino) in synced
