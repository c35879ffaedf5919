from __future__ import annotations

import os
from pathlib import Path

import pytest

from layerfs.digest import Digest
from layerfs.errors import Corrupt, InvalidInput, NotFound
from layerfs.store import StoreRoot

TYPE = "application/vnd.oci.image.config.v1+json"


def test_put_then_read(root: StoreRoot) -> None:
    digest = root.blobs.put(b"{}", media_type=TYPE)
    assert digest == Digest.of(b"{}")
    assert root.blobs.read(digest) == b"{}"
    assert root.blobs.stat(digest) == {"size": 2, "media_type": TYPE}
    assert root.blobs.put(b"{}", media_type=TYPE) == digest


def test_put_checks_the_digest_it_is_told(root: StoreRoot) -> None:
    with pytest.raises(Corrupt, match="digest mismatch"):
        root.blobs.put(b"{}", media_type=TYPE, expected=Digest.of(b"[]"))
    assert not root.blobs.has(Digest.of(b"{}"))


def test_put_in_a_transaction_is_seen_with_it(root: StoreRoot) -> None:
    with pytest.raises(ValueError, match="no"), root.index.update() as txn:
        root.blobs.put(b"{}", media_type=TYPE, txn=txn)
        raise ValueError("no")
    assert not root.blobs.has(Digest.of(b"{}"))
    with root.index.update() as txn:
        digest = root.blobs.put(b"{}", media_type=TYPE, txn=txn)
    assert root.blobs.read(digest) == b"{}"


@pytest.mark.parametrize(
    ("damage", "words"),
    [(Path.unlink, "missing"), (lambda path: [path.unlink(), path.write_bytes(b"[]")], "damaged")],
    ids=["lost", "changed"],
)
def test_a_damaged_blob_is_mended_by_putting_it_again(root: StoreRoot, damage, words: str) -> None:
    digest = root.blobs.put(b"{}", media_type=TYPE)
    damage(root.blobs.blob_path(digest))
    with pytest.raises(Corrupt, match=words):
        root.blobs.read(digest)
    root.blobs.put(b"{}", media_type=TYPE)
    assert root.blobs.read(digest) == b"{}"


def test_reading_verifies(root: StoreRoot) -> None:
    digest = root.blobs.put(b"{}", media_type=TYPE)
    path = root.blobs.blob_path(digest)
    path.chmod(0o600)
    path.write_bytes(b"[]")
    with pytest.raises(Corrupt, match="damaged"):
        root.blobs.read(digest)
    path.write_bytes(b"longer")
    with pytest.raises(Corrupt, match="6 bytes instead of 2"):
        root.blobs.open(digest)


def test_reading_has_a_limit(root: StoreRoot) -> None:
    digest = root.blobs.put(b"x" * 100, media_type=TYPE)
    with pytest.raises(InvalidInput, match="100 bytes"):
        root.blobs.read(digest, limit=99)


def test_a_blob_that_is_not_there_is_not_found(root: StoreRoot) -> None:
    with pytest.raises(NotFound):
        root.blobs.read(Digest.of(b"none"))


def test_the_writer_streams_and_verifies(root: StoreRoot) -> None:
    with root.leases.acquire("x") as lease:
        with root.blobs.writer(lease, TYPE) as writer:
            writer.write(b"ab")
            writer.write(b"c")
            digest = writer.commit(Digest.of(b"abc"), 3)
        assert root.blobs.read(digest) == b"abc"
        with root.blobs.writer(lease) as writer, pytest.raises(Corrupt, match="size mismatch"):
            writer.write(b"abcd")
            writer.commit(size=3)
        assert not root.blobs.has(Digest.of(b"abcd"))


def test_a_writer_that_is_left_keeps_nothing(root: StoreRoot) -> None:
    with root.leases.acquire("x") as lease:
        with root.blobs.writer(lease) as writer:
            writer.write(b"ab")
        assert {path.name for path in lease.tmp.iterdir()} == {"lease", "pins"}
    assert list((root.path / "tmp").iterdir()) == []


def test_a_long_blob_is_hashed_to_its_end(root: StoreRoot) -> None:
    pieces = [os.urandom(1 << 18) for _ in range(24)]  # more than its own thread takes at once
    with root.leases.acquire("x") as lease, root.blobs.writer(lease) as writer:
        for piece in pieces:
            writer.write(piece)
        digest = writer.commit(Digest.of(b"".join(pieces)))
    assert root.blobs.read(digest) == b"".join(pieces)


def test_put_leaves_nothing_in_tmp(root: StoreRoot, tmp_path: Path) -> None:
    root.blobs.put(b"{}", media_type=TYPE)
    assert list((root.path / "tmp").iterdir()) == []
