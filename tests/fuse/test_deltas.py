"""Commits of block-level files store what changed; every reader gets all bytes, bases stay while they are needed."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import layerfs
from layerfs.layer.tree import Tree
from layerfs.store.delta import Delta, DeltaHead, Whole, open_object
from layerfs.store.whole import make_whole
from tests.disks import host

pytestmark = pytest.mark.root

MIB = 1 << 20
ENGINES = ["native", "python", "kernel"]
DATA = random.Random(5).randbytes(8 * MIB + 777)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[layerfs.Store]:
    with layerfs.Store(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def base(store: layerfs.Store, tmp_path: Path) -> layerfs.Image:
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(DATA)
    (source / "small").write_bytes(b"small")
    return store.import_archive(source, tag="base:1")


def patch(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def change(store: layerfs.Store, image: layerfs.Image, at: int, new: bytes) -> layerfs.Image:
    """The image with other bytes in its big file."""
    box = store.create(image)
    with box.mount(engine="native") as root, (root / "big").open("r+b", buffering=0) as out:
        os.pwrite(out.fileno(), new, at)
    made = box.commit()
    box.remove()
    return made


def object_of(store: layerfs.Store, image: layerfs.Image) -> Whole | Delta:
    found = open_object(store.root.path / "objects", identity_of(store, image))
    found.close()
    return found


def identity_of(store: layerfs.Store, image: layerfs.Image) -> bytes:
    with Tree.open(store.root.tree_path("layer", image.layers[-1].diff_id.hex)) as tree:
        inode = tree.resolve(b"big")
        assert inode is not None
        identity = tree.content(inode)
        assert identity is not None
        return identity


def disk(path: Path) -> int:
    return sum(each.lstat().st_blocks * 512 for each in path.rglob("*"))


def bytes_of(image: layerfs.Image, engine: str) -> bytes:
    with image.mount(engine=engine) as root:
        return (root / "big").read_bytes()


def test_a_commit_stores_what_changed(store: layerfs.Store, base: layerfs.Image) -> None:
    before = disk(store.root.path)
    image = change(store, base, 5 * MIB + 3, b"!")
    assert disk(store.root.path) - before < 128 << 10
    wanted = patch(DATA, 5 * MIB + 3, b"!")
    for engine in ENGINES:  # the kernel last: it gets a whole object
        assert isinstance(object_of(store, image), Delta)
        assert bytes_of(image, engine) == wanted
    assert isinstance(object_of(store, image), Whole)
    assert bytes_of(image, "native") == wanted
    assert (store.fsck(), bytes_of(base, "native")) == ([], DATA)


@pytest.mark.parametrize("engine", ["python", "kernel"])
def test_holes_of_the_base_stay_holes_in_whole_files(store: layerfs.Store, tmp_path: Path, engine: str) -> None:
    """Both of the container's file, and of the object that its commit makes."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "big").open("wb") as out:
        out.truncate(128 * MIB)
        os.pwrite(out.fileno(), DATA, 64 * MIB)
    box = store.create(store.import_archive(source))
    with box.mount(engine="native") as root, (root / "big").open("r+b", buffering=0) as out:
        os.pwrite(out.fileno(), b"!", 3)
    for each in (box.commit(), box):
        with each.mount(engine=engine) as root, (root / "big").open("rb") as file:
            assert file.read(8) == b"\0\0\0!\0\0\0\0"
            assert os.pread(file.fileno(), len(DATA) + 2, 64 * MIB - 1) == b"\0" + DATA + b"\0"
    assert disk(store.path) < 40 * MIB


def test_a_delta_of_a_delta_is_one_of_the_whole_object(store: layerfs.Store, base: layerfs.Image) -> None:
    image, wanted = base, DATA
    for number in range(4):
        at, new = number * MIB + 4090, b"%d" % number * (9000 if number == 2 else 12)
        image, wanted = change(store, image, at, new), patch(wanted, at, new)
        found = object_of(store, image)
        assert isinstance(found, Delta)
        assert isinstance(open_object(store.root.path / "objects", found.head.base), Whole)
        for engine in ENGINES[:2]:
            assert bytes_of(image, engine) == wanted
    assert store.fsck() == []
    store.remove_image("base:1")
    store.gc()
    assert bytes_of(image, "kernel") == wanted


def test_a_base_lives_as_long_as_its_deltas(store: layerfs.Store, base: layerfs.Image, tmp_path: Path) -> None:
    """Here no layer below names the base any more."""
    image = change(store, base, 17, b"seventeen")
    box = store.create(image)
    alone = tmp_path / "alone.tar"
    box.export(alone)
    box.remove()
    store.import_archive(alone, tag="alone:1")  # has the same content, which is known
    store.remove_image(image.id)
    store.remove_image("base:1")
    store.gc()
    assert bytes_of(store.image("alone:1"), "native") == patch(DATA, 17, b"seventeen")
    assert store.fsck() == []
    store.remove_image("alone:1")
    store.gc()
    assert [each for each in (store.root.path / "objects").rglob("*") if each.is_file()] == []
    with store.root.index.view() as txn:
        assert list(txn.scan("deltas")) == []


def test_a_file_that_is_mostly_new_is_stored_whole(store: layerfs.Store, base: layerfs.Image) -> None:
    image = change(store, base, 0, b"n" * (5 * MIB))
    assert isinstance(object_of(store, image), Whole)
    assert bytes_of(image, "python") == b"n" * (5 * MIB) + DATA[5 * MIB :]


def test_exports_and_archives_hold_all_bytes(store: layerfs.Store, base: layerfs.Image, tmp_path: Path) -> None:
    image = change(store, base, 4 * MIB, b"four")
    wanted = patch(DATA, 4 * MIB, b"four")
    image.tag("changed:1")
    store.save(["changed:1"], tmp_path / "saved.tar")
    with layerfs.Store(tmp_path / "other") as other:
        loaded = other.load(tmp_path / "saved.tar")
        assert loaded
        copy = other.image("changed:1")
        assert (copy.id, bytes_of(copy, "native")) == (image.id, wanted)
        assert isinstance(object_of(other, copy), Whole)
        assert other.fsck() == []
    assert isinstance(object_of(store, image), Delta)


def test_sizes_are_changed_up_and_down(store: layerfs.Store, base: layerfs.Image) -> None:
    box = store.create(base)
    with box.mount(engine="native") as root:
        os.truncate(root / "big", 3 * MIB + 5)
        os.truncate(root / "big", 5 * MIB)
        with (root / "big").open("ab") as out:
            out.write(b"end")
    image = box.commit()
    wanted = DATA[: 3 * MIB + 5] + bytes(2 * MIB - 5) + b"end"
    assert isinstance(object_of(store, image), Delta)
    again = change(store, image, 4 * MIB, b"in the hole")
    for engine in ENGINES:
        assert bytes_of(image, engine) == wanted
        assert bytes_of(again, engine) == patch(wanted, 4 * MIB, b"in the hole")
    assert store.fsck() == []


def test_holes_of_a_delta_are_told(store: layerfs.Store, base: layerfs.Image) -> None:
    box = store.create(base)
    with box.mount(engine="native") as root:
        os.truncate(root / "big", 64 * MIB)
    image = box.commit()
    with image.mount(engine="native") as root:
        fd = os.open(root / "big", os.O_RDONLY)
        assert os.lseek(fd, 0, os.SEEK_HOLE) == pytest.approx(len(DATA), abs=4096)
        with pytest.raises(OSError, match="No such device") as caught:
            os.lseek(fd, 32 * MIB, os.SEEK_DATA)
        assert caught.value.errno == errno.ENXIO
        os.close(fd)
    assert bytes_of(image, "native") == DATA + bytes(64 * MIB - len(DATA))
    assert store.fsck() == []


def test_a_lower_delta_is_copied_up_and_keeps_old_readers(store: layerfs.Store, base: layerfs.Image) -> None:
    image = change(store, base, 9, b"nine")
    lower = patch(DATA, 9, b"nine")
    box = store.create(image)
    with box.mount(engine="native") as root:
        old = (root / "big").open("rb", buffering=0)
        with old, (root / "big").open("r+b", buffering=0) as out:
            assert os.pread(old.fileno(), 20, 0) == lower[:20]
            os.pwrite(out.fileno(), b"new", MIB)
            assert os.pread(out.fileno(), len(DATA), 0) == patch(lower, MIB, b"new")
        (root / "big").chmod(0o600)
        assert (root / "big").read_bytes() == patch(lower, MIB, b"new")
    with box.mount(engine="kernel") as root:  # completed from a delta
        assert (root / "big").read_bytes() == patch(lower, MIB, b"new")
    other = store.create(image)
    with other.mount(engine="python") as root, (root / "big").open("r+b") as out:
        out.write(b"python")
        out.flush()
        assert (root / "big").read_bytes() == patch(lower, 0, b"python")


def test_absorbed_snapshots_are_deltas(store: layerfs.Store, base: layerfs.Image) -> None:
    box = store.create(base, name="box")
    with box.mount(engine="native") as root, (root / "big").open("r+b") as out:
        out.write(b"first")
    first = box.snapshot("first")
    before = disk(store.root.path)
    with box.mount(engine="native") as root:
        with (root / "big").open("r+b") as out:
            out.seek(MIB)
            out.write(b"second")
        assert (root / "big").read_bytes() == patch(patch(DATA, 0, b"first"), MIB, b"second")
    assert disk(store.root.path) - before < 128 << 10
    box.rollback(first)
    store.gc()
    with box.mount(engine="native") as root:
        assert (root / "big").read_bytes() == patch(DATA, 0, b"first")
    assert store.fsck() == []


# --- kills and damage ------------------------------------------------------------------------------------------------


def test_a_kill_while_a_delta_becomes_whole(store: layerfs.Store, base: layerfs.Image) -> None:
    image = change(store, base, 100, b"hundred")
    wanted, identity = patch(DATA, 100, b"hundred"), identity_of(store, image)
    whole, delta = store.root.contents.object_path(identity), store.root.contents.delta_path(identity)
    kept = delta.read_bytes()
    whole.write_bytes(wanted)  # killed before the row
    assert (bytes_of(image, "native"), store.fsck()) == (wanted, [])
    os.utime(whole, ns=(1, 1))
    store.gc()
    assert (whole.exists(), delta.exists(), bytes_of(image, "native")) == (False, True, wanted)
    assert make_whole(store.root, {identity}) == 1
    delta.write_bytes(kept)  # killed after it
    os.utime(delta, ns=(1, 1))
    assert (bytes_of(image, "python"), store.fsck()) == (wanted, [])
    store.gc()
    assert (whole.exists(), delta.exists(), bytes_of(image, "kernel")) == (True, False, wanted)


def test_what_a_killed_commit_left_goes(store: layerfs.Store, base: layerfs.Image) -> None:
    image = change(store, base, 3, b"three")
    delta = store.root.contents.delta_path(identity_of(store, image))
    stray = delta.with_name("0" * 62 + ".delta")
    stray.write_bytes(delta.read_bytes())
    os.utime(stray, ns=(1, 1))
    store.gc()
    assert (stray.exists(), delta.exists()) == (False, True)


@pytest.mark.parametrize("what", ["base", "delta"])
def test_damage_is_found_and_mended_by_an_import(
    store: layerfs.Store, base: layerfs.Image, tmp_path: Path, what: str
) -> None:
    image = change(store, base, 3, b"three")
    image.tag("changed:1")
    archive, identity = tmp_path / "saved.tar", identity_of(store, image)
    store.save(["changed:1"], archive)
    path = store.root.contents.delta_path(identity)
    path = path if what == "delta" else store.root.contents.object_path(identity_of(store, base))
    path.unlink()
    assert identity.hex() in {problem.key for problem in store.fsck()}
    with image.mount(engine="native") as root, pytest.raises(OSError, match="Input/output error"):
        (root / "big").read_bytes()
    for each in ("changed:1", "base:1"):
        store.remove_image(each, force=True)
    store.gc()
    store.load(archive)
    assert store.fsck() == []
    assert bytes_of(store.image("changed:1"), "native") == patch(DATA, 3, b"three")


def test_damaged_deltas_are_errors_not_crashes(store: layerfs.Store, base: layerfs.Image) -> None:
    image = change(store, base, 3, b"three")
    identity, chance = identity_of(store, image), random.Random(1)
    path = store.root.contents.delta_path(identity)
    good = path.read_bytes()
    path.chmod(0o600)
    with image.mount(engine="native") as root:
        for number in range(60):
            bad = bytearray(good)
            for _ in range(1 + number % 3):
                bad[chance.randrange(96)] = chance.choice([0, 1, 127, 255])
            if number % 10 == 9:
                del bad[chance.randrange(len(bad)) :]
            path.write_bytes(bad)
            for read in (lambda: (root / "big").read_bytes(), lambda: store.root.contents.read(identity)):
                with contextlib.suppress(OSError):
                    assert len(read()) in (len(DATA), 0)
        path.write_bytes(good)
        assert (root / "small").read_bytes() == b"small"
    assert bytes_of(image, "native") == patch(DATA, 3, b"three")


# --- the form --------------------------------------------------------------------------------------------------------


def test_an_older_layerfs_refuses_the_store(
    store: layerfs.Store, base: layerfs.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From before such files can be there."""
    version = store.root.path / "format"
    box = store.create(base)
    with box.mount(engine="kernel"):
        assert version.read_text() == "layerfs store 1\n"
    with box.mount(engine="native", read_only=True):
        assert version.read_text() == "layerfs store 1\n"
    with box.mount(engine="native") as root, (root / "big").open("r+b") as out:
        assert version.read_text() == "layerfs store 2\n"
        out.write(b"new")
    version.write_text("layerfs store 1\n")
    assert isinstance(object_of(store, box.commit()), Delta)
    assert version.read_text() == "layerfs store 2\n"
    monkeypatch.setattr("layerfs.store.format.VERSION", 1)
    with pytest.raises(layerfs.errors.StoreVersionError, match="has format version 2, newer than the 1 that"):
        layerfs.Store(store.root.path)


def test_the_form(store: layerfs.Store, base: layerfs.Image) -> None:
    image = change(store, base, 3, b"three")
    path = store.root.contents.delta_path(identity_of(store, image))
    with path.open("rb") as file:
        head = DeltaHead.read(file.fileno())
    wanted = b"LFSDELT1" + identity_of(store, base)
    wanted += b"".join(number.to_bytes(8, "little") for number in (len(DATA), len(DATA), 1, 0, 4096))
    assert path.read_bytes() == wanted.ljust(4096, b"\0") + patch(DATA, 3, b"three")[:4096]
    assert (head.ranges, head.encode()) == (((0, 4096),), wanted.ljust(4096, b"\0"))


def test_readers_of_contents(store: layerfs.Store, base: layerfs.Image) -> None:
    image = change(store, base, 2 * MIB - 3, b"across")
    wanted = patch(DATA, 2 * MIB - 3, b"across")
    with store.root.contents.open(identity_of(store, image), verify=True) as reader:
        assert reader.read() == wanted
        assert reader.pread(2 * MIB - 5000, 10_000) == wanted[2 * MIB - 5000 : 2 * MIB + 5000]
        assert list(reader.extents()) == [(0, len(DATA))]
        with pytest.raises(io.UnsupportedOperation):
            reader.fileno()


@pytest.mark.parametrize(
    ("kind", "limits", "form"),
    [
        ("xfs-plain", {}, Delta),
        ("xfs", {"size": "1g"}, Delta),
        ("btrfs", {}, Whole),
        ("btrfs", {"size": "1g"}, Delta),
    ],
)
def test_commits_on_other_hosts(kind: str, limits: dict[str, str], form: type, tmp_path: Path) -> None:
    """Where the host shares blocks the upper file is whole, but for containers whose size is limited."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(DATA)
    with host(kind, tmp_path) as place, layerfs.Store(place / "store") as store:
        image, wanted = store.import_archive(source, tag="base:1"), DATA
        for number in range(2):
            box = store.create(image, storage_opt=limits)
            with box.mount(engine="native") as root, (root / "big").open("r+b", buffering=0) as out:
                os.pwrite(out.fileno(), b"%d" % number * 5000, (number + 1) * MIB - 7)
            wanted = patch(wanted, (number + 1) * MIB - 7, b"%d" % number * 5000)
            image = box.commit()
            assert isinstance(object_of(store, image), form)
            box.remove()
        for engine in ("native", "kernel"):
            assert bytes_of(image, engine) == wanted
        assert isinstance(object_of(store, image), Whole)
        assert (store.fsck(), bytes_of(store.image("base:1"), "native")) == ([], DATA)


def test_the_base_of_a_file_that_went_on_after_a_live_snapshot_stays(store: layerfs.Store, base: layerfs.Image) -> None:
    """What it stands on is hidden by the snapshot's layer, and would go when that is folded into the one below."""
    box = store.create(base)
    with box.mount(engine="native") as root, (root / "big").open("r+b", buffering=0) as out:
        os.pwrite(out.fileno(), b"1", 1)
    box.snapshot("one")
    store.absorb(box.name)
    with box.mount(engine="native") as root, (root / "big").open("r+b", buffering=0) as out:
        os.pwrite(out.fileno(), b"2", 2 * MIB)
        box.snapshot("two")
        os.pwrite(out.fileno(), b"3", 3 * MIB)
    store.absorb(box.name)
    for each in box.snapshots():
        each.remove()
    store.gc()
    wanted = patch(patch(patch(DATA, 1, b"1"), 2 * MIB, b"2"), 3 * MIB, b"3")
    assert store.fsck() == []
    with box.mount(engine="native") as root:
        assert (root / "big").read_bytes() == wanted
    box.snapshot("three")  # now nothing stands on it any more
    store.gc()
    assert bytes_of(box.commit(), "python") == wanted
    with store.root.index.view() as txn:
        assert txn.count("deltas") == 1
