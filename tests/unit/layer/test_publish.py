"""Layers that are published together."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from typing import Any

import pytest

from layerfs.errors import NoSpace
from layerfs.layer import has_layer
from layerfs.layer.layers import Layer, get_layer
from layerfs.layer.publish import WAITING, Publisher
from layerfs.layer.read import read_layer, unpack_layer
from layerfs.store import StoreRoot
from layerfs.store.index import _Transaction
from tests.looking import open_files
from tests.unit.image.make import tar


@pytest.fixture
def publisher(root, lease) -> Iterator[Publisher]:
    with Publisher(root, lease) as made:
        yield made


@pytest.fixture
def commits(monkeypatch) -> list[Any]:
    """What `root.durable` has made durable before each durable commit, so far."""
    durable, seen = StoreRoot.durable, []
    now: set[Any] = set()
    commit = _Transaction._commit

    def syncing(root: StoreRoot, paths, **how: Any) -> None:
        durable(root, paths, **how)
        now.update(paths)

    def committing(txn: _Transaction) -> None:
        commit(txn)
        seen.append(set(now))

    monkeypatch.setattr(StoreRoot, "durable", syncing)
    monkeypatch.setattr(_Transaction, "_commit", committing)
    return seen


def packs(root: StoreRoot) -> int:
    return sum(path.stat().st_size for path in (root.path / "packs").iterdir())


def put(publisher: Publisher, data: bytes, **how: Any) -> list[Layer]:
    done: list[Layer] = []
    unpack_layer(publisher, io.BytesIO(data), done=done.append, **how)
    return done


def layers(count: int) -> list[bytes]:
    return [tar({f"file-{number}": b"%d" % number * 99}) for number in range(count)]


def test_small_layers_share_a_commit(root, publisher, commits) -> None:
    waiting = [put(publisher, data) for data in layers(5)]
    assert waiting == [[]] * 5
    assert commits == []
    publisher.flush()
    assert len(commits) == 1
    assert all(has_layer(root, done[0].diff_id) == done[0] for done in waiting)


def test_enough_layers_are_published_at_once(publisher) -> None:
    waiting = [put(publisher, data) for data in layers(WAITING)]
    assert all(waiting)


def test_a_large_layer_takes_along_what_waits(publisher, monkeypatch) -> None:
    monkeypatch.setattr("layerfs.layer.publish.LARGE", 50_000)
    small, large = put(publisher, tar({"a": b"a"})), put(publisher, tar({"b": b"b" * 60_000}))
    assert len(small) == len(large) == 1


def test_rows_name_only_what_is_durable(root, publisher, commits) -> None:
    done = [put(publisher, gzip.compress(data)) for data in layers(4)]
    publisher.flush()
    (durable,) = commits
    for (layer,) in done:
        wanted = {root.tree_path("layer", layer.diff_id.hex), root.split_path(layer.diff_id.hex)}
        wanted |= {root.contents.pack_path(pack) for pack in layer.packs} | {root.blobs.blob_path(layer.blob.digest)}
        assert wanted <= durable
        assert all(path.exists() for path in wanted)


def test_equal_contents_of_layers_that_wait_are_stored_once(root, publisher) -> None:
    first, second = put(publisher, tar({"a": b"x" * 9000})), put(publisher, tar({"b": b"x" * 9000, "c": b"c"}))
    publisher.flush()
    assert packs(root) == 3 * 4096 + 4096
    assert first[0].packs[0] in second[0].packs


def test_a_layer_that_somebody_else_has_published_meanwhile(root, lease, publisher) -> None:
    data = tar({"a": b"x" * 9000})
    done = put(publisher, data)
    theirs = read_layer(root, io.BytesIO(data), lease=lease)
    publisher.flush()
    assert done == [theirs]
    assert packs(root) == 3 * 4096


def test_contents_that_others_rely_on_stay_when_their_layer_is_somebody_elses(root, lease, publisher) -> None:
    """The layer above refers to the pack of one that is published by another process in the end."""
    data = tar({"a": b"x" * 9000})
    put(publisher, data)
    above = put(publisher, tar({"b": b"x" * 9000}))
    read_layer(root, io.BytesIO(data), lease=lease)
    publisher.flush()
    (pack,) = above[0].packs
    assert root.contents.pack_path(pack).stat().st_size == 3 * 4096
    with root.index.view() as txn:
        assert txn.get("packs", pack.to_bytes(8, "big")) is not None


def test_a_layer_twice_in_two_forms_keeps_the_blob(root, publisher) -> None:
    data = tar({"a": b"a"})
    plain, packed = put(publisher, data), put(publisher, gzip.compress(data))
    publisher.flush()
    assert plain[0].diff_id == packed[0].diff_id
    assert root.blobs.has(get_layer(root, plain[0].diff_id).blob.digest)


def test_an_error_ends_it_for_all(root, publisher, monkeypatch) -> None:
    first, second, third = layers(3)
    done = [put(publisher, first), put(publisher, second)]

    def full(*_: object, **__: object) -> None:
        raise NoSpace("full")

    with monkeypatch.context() as patch, pytest.raises(NoSpace):
        patch.setattr(StoreRoot, "durable", full)
        publisher.flush()
    with pytest.raises(NoSpace):
        put(publisher, third)
    assert done == [[], []]
    with root.index.view() as txn:
        assert [txn.count(table) for table in ("layers", "packs", "contents")] == [0, 0, 0]


def test_what_was_not_published_leaves_nothing(root, lease) -> None:
    descriptors = open_files()
    with Publisher(root, lease) as publisher:
        for data in layers(3):
            put(publisher, gzip.compress(data))
    assert {path.name for path in lease.tmp.iterdir()} == {"lease", "pins"}
    assert not list((root.path / "packs").iterdir())
    assert open_files() - descriptors == set()


def test_a_layer_that_somebody_else_publishes_in_the_last_moment(root, lease, publisher, monkeypatch) -> None:
    data, lock = tar({"a": b"x" * 9000}), StoreRoot.lock
    theirs: list[Layer] = []

    def late(root: StoreRoot, name: str, **how: Any) -> Any:
        if name == "trees" and not theirs:
            monkeypatch.undo()
            theirs.append(read_layer(root, io.BytesIO(data), lease=lease))
        return lock(root, name, **how)

    done = put(publisher, data)
    monkeypatch.setattr(StoreRoot, "lock", late)
    publisher.flush()
    assert done == theirs
    assert packs(root) == 3 * 4096
