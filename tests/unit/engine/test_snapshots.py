"""Snapshots, forks, rollbacks of containers that are not mounted: what they hold, what they free, what is refused."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.engine import committing, mounts
from layerfs.engine.snapshots import steady
from layerfs.engine.space import frozen_sizes
from layerfs.errors import AlreadyExists, InUse, InvalidInput, NotFound
from layerfs.snapshot import ContainerRecord
from layerfs.snapshot.states import States

pytestmark = pytest.mark.root
ENGINES = ["kernel", "native", "python"]


def read(box: layerfs.Container, engine: str | None = None) -> dict[str, bytes]:
    with box.mount(engine=engine) as root:
        return contents(root)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def write(box: layerfs.Container, files: dict[str, bytes | None], engine: str | None = None) -> None:
    with box.mount(engine=engine) as root:
        for name, data in files.items():
            if data is None:
                (root / name).unlink()
            else:
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(data)


def states(store: layerfs.Store) -> list[str]:
    with store.root.index.view() as txn:
        return [state.id for state in States(txn).all()]


@pytest.fixture
def box(store: layerfs.Store, image: layerfs.Image) -> layerfs.Container:
    return store.create(image, name="box")


@pytest.mark.parametrize("engine", ENGINES)
def test_a_container_goes_on_from_its_snapshot_and_comes_back_to_it(box: layerfs.Container, engine: str) -> None:
    write(box, {"a": b"one", "etc/motd": b"changed"}, engine)
    first = box.snapshot("first")
    write(box, {"a": b"two", "etc/motd": None, "b/c": b"new"}, engine)
    box.snapshot("second")
    assert read(box, engine) == {"a": b"two", "b/c": b"new"}
    box.rollback(first)
    assert read(box, engine) == {"a": b"one", "etc/motd": b"changed"}
    box.rollback("second")
    assert read(box, engine) == {"a": b"two", "b/c": b"new"}


def test_a_fork_shares_and_goes_its_own_way(box: layerfs.Container) -> None:
    write(box, {"a": b"shared"})
    child = box.fork("child")
    write(child, {"a": b"child", "only": b"child"})
    write(box, {"a": b"parent"})
    grandchild = child.fork()
    assert read(box)["a"] == b"parent" and "only" not in read(box)
    assert read(child) == read(grandchild) == {"a": b"child", "only": b"child", "etc/motd": b"Welcome\n"}
    assert child.name == "child" and child.image == box.image


def test_a_fork_of_a_snapshot_holds_what_that_does(box: layerfs.Container) -> None:
    write(box, {"a": b"then"})
    box.snapshot("then")
    write(box, {"a": b"now"})
    assert read(box.fork(snapshot="then"))["a"] == b"then"


def test_rolling_back_to_the_untouched_image(box: layerfs.Container) -> None:
    box.snapshot("clean")
    write(box, {"a": b"x", "etc/motd": None})
    box.rollback("clean")
    assert read(box) == {"etc/motd": b"Welcome\n"} and box.diff() == []


def test_snapshots_of_what_has_not_changed_cost_no_state(store: layerfs.Store, box: layerfs.Container) -> None:
    write(box, {"a": b"x"})
    for number in range(5):
        box.snapshot(f"s{number}")
        box.fork()
    assert len(states(store)) == 1


def test_attributes_of_the_root_are_kept(box: layerfs.Container) -> None:
    with box.mount() as root:
        root.chmod(0o700)
        os.setxattr(root, "user.k", b"v")
        os.utime(root, ns=(5, 7))
    box.snapshot()
    with box.mount() as root:
        assert root.stat().st_mode & 0o7777 == 0o700 and os.getxattr(root, "user.k") == b"v"
        assert root.stat().st_mtime_ns == 7


def test_commit_has_all_that_was_changed_in_one_layer(store: layerfs.Store, box: layerfs.Container) -> None:
    with box.mount() as root:
        (root / "a").write_bytes(b"1")
        (root / "gone").write_bytes(b"1")
        (root / "d").mkdir()
        (root / "d/x").write_bytes(b"x")
        os.link(root / "d/x", root / "d/y")
    snapshot = box.snapshot()
    with box.mount() as root:
        (root / "gone").unlink()
        (root / "a").write_bytes(b"2")
        (root / "d/y").chmod(0o600)
        (root / "etc/motd").unlink()
        (root / "etc").rmdir()
    image = box.commit("after:1")
    assert len(image.layers) == len(box.image.layers) + 1
    with image.mount() as root:
        assert contents(root) == {"a": b"2", "d/x": b"x", "d/y": b"x"}
        assert (root / "d/x").stat().st_ino == (root / "d/y").stat().st_ino
        assert (root / "d/x").stat().st_mode & 0o777 == 0o600 and not (root / "etc").exists()
    with snapshot.commit("then:1").mount() as root:
        assert contents(root) == {"a": b"1", "gone": b"1", "d/x": b"x", "d/y": b"x", "etc/motd": b"Welcome\n"}
    assert {str(change.path) for change in box.diff()} >= {"/a", "/d", "/d/x", "/d/y", "/etc"}


def test_diff_is_against_the_image_whatever_was_frozen(store: layerfs.Store, image: layerfs.Image) -> None:
    plain, frozen = store.create(image), store.create(image)
    for box in (plain, frozen):
        write(box, {"a": b"1", "d/e/f": b"2", "t": b"3"})
        if box is frozen:
            box.snapshot()
        write(box, {"t": None, "etc/motd": None, "d/e/g": b"4"})
    assert [(c.kind, c.path) for c in frozen.diff()] == [(c.kind, c.path) for c in plain.diff()]


def test_snapshots_are_compared_and_mounted(box: layerfs.Container) -> None:
    write(box, {"a": b"1", "b": b"1"})
    first = box.snapshot("first")
    write(box, {"a": b"12", "b": None, "c": b"1"})
    second = box.snapshot("second")
    assert [(c.kind, c.path, c.old_size, c.new_size) for c in first.diff(second)] == [
        ("C", "/a", 1, 2),
        ("D", "/b", 1, 0),
        ("A", "/c", 0, 1),
    ]
    assert {c.path for c in first.diff()} == {"/a", "/b"}
    with first.mount() as root:
        assert contents(root) == {"a": b"1", "b": b"1", "etc/motd": b"Welcome\n"}
        with pytest.raises(InUse, match="mounted"):
            first.remove()
        with pytest.raises(OSError, match="Read-only"):
            (root / "a").write_bytes(b"")
    first.remove()
    assert [each.name for each in box.snapshots()] == ["second"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_removed_in_any_order_the_right_bytes_are_freed(
    store: layerfs.Store, box: layerfs.Container, order: tuple[int, ...]
) -> None:
    size = 1 << 20
    taken = []
    for _ in range(3):
        write(box, {"big": os.urandom(size)})
        taken.append(box.snapshot())
    write(box, {"big": b"small"})
    box.snapshot()  # else the container itself would stand on the third one
    wanted = {snapshot.id: dict(read(box.fork(snapshot=snapshot))) for snapshot in taken}
    for each in store.containers():
        if each != box:
            each.remove()
    store.gc()
    left = list(taken)
    for number in order:
        assert taken[number].sizes().private == size
        before = used(store)
        taken[number].remove()
        left.remove(taken[number])
        store.gc()
        assert before - used(store) >= size
        for snapshot in left:
            with snapshot.mount() as root:
                assert contents(root) == wanted[snapshot.id]
    assert read(box)["big"] == b"small" and store.fsck() == []


def used(store: layerfs.Store) -> int:
    files = (path.lstat() for top in ("objects", "packs", "uppers") for path in (store.path / top).rglob("*"))
    return sum(status.st_blocks * 512 for status in files)


def test_what_others_need_outlives_the_container(store: layerfs.Store, box: layerfs.Container) -> None:
    write(box, {"a": b"kept"})
    child = box.fork("child")
    box.remove()
    store.gc()
    assert read(child)["a"] == b"kept"
    child.remove()
    store.gc()
    assert states(store) == [] and list((store.path / "uppers").iterdir()) == []


def test_what_cannot_be(store: layerfs.Store, box: layerfs.Container) -> None:
    box.snapshot("taken")
    with pytest.raises(AlreadyExists, match="taken"):
        box.snapshot("taken")
    with pytest.raises(InvalidInput):
        box.snapshot("no/name")
    with pytest.raises(InvalidInput, match="at most 255 characters, this one 300"):
        box.snapshot("x" * 300)
    with pytest.raises(NotFound, match="missing"):
        box.rollback("missing")
    with pytest.raises(AlreadyExists):
        box.fork("box")
    with box.mount(), pytest.raises(InUse):
        box.rollback("taken")
    assert len(store.containers()) == 1 and [each.name for each in box.snapshots()] == ["taken"]


def test_a_name_that_no_layer_can_hold_is_mounted_by_all_engines(box: layerfs.Container) -> None:
    write(box, {"a": b"1"})
    box.snapshot("before")
    write(box, {".wh.odd": b"2", "a": None})
    box.snapshot("odd")
    write(box, {"b": b"3"}, "kernel")
    for engine in ("kernel", "python", "native"):
        assert read(box, engine) == {".wh.odd": b"2", "b": b"3", "etc/motd": b"Welcome\n"}
    box.rollback("before")
    assert read(box, "native")["a"] == b"1"


def test_links_that_the_kernel_copied_up_hold_read_only(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/a").write_bytes(b"1")
    os.link(tmp_path / "plain/a", tmp_path / "plain/b")
    with layerfs.Store(tmp_path / "store") as store:
        box = store.create(store.import_archive(tmp_path / "plain", tag="links:1"))
        for engine in ("kernel", "native", "python"):
            with box.mount(engine="kernel") as root:
                (root / "a").write_bytes(engine.encode())
            with box.mount(engine=engine, read_only=True) as root:
                assert (root / "b").read_bytes() == engine.encode()


def test_inode_numbers_and_links_hold_for_who_has_the_kernels_index(box: layerfs.Container) -> None:
    with box.mount(engine="kernel") as root:
        (root / "x").write_bytes(b"x")
        os.link(root / "x", root / "y")
    box.snapshot()
    with box.mount(engine="kernel") as root:
        (root / "x").write_bytes(b"xx")
        assert (root / "y").read_bytes() == b"xx"
    box.snapshot()
    with box.mount(engine="native") as root:
        assert (root / "y").read_bytes() == b"xx" and (root / "y").stat().st_nlink == 2


def test_fsck_misses_what_a_state_needs(store: layerfs.Store, box: layerfs.Container) -> None:
    write(box, {"a": b"1"})
    box.snapshot("one")
    upper, aside = store.path / "containers" / box.id / "upper", store.path / "aside"
    upper.rename(aside)
    assert [problem.message for problem in store.fsck()] == ["the frozen directory is missing"]
    aside.rename(upper)
    box.tree()
    with store.root.index.update() as txn:
        for key in txn.keys("states"):
            txn.delete("states", key)
    assert {problem.kind for problem in store.fsck()} == {"container", "snapshot"}


def test_usage_says_what_counts_against_the_limits(store: layerfs.Store, image: layerfs.Image) -> None:
    box = store.create(image, storage_opt={"size": "10m", "inodes": "100"})
    with box.mount(engine="native") as root:
        (root / "etc/motd").unlink()
        (root / "d").mkdir()
        (root / "d/a").write_bytes(bytes(100_000))
        mounted = box.usage()
    rest = box.usage()
    assert mounted == rest and rest.entries == 4 and 100_000 < rest.bytes < 200_000
    assert (rest.bytes_limit, rest.entries_limit) == (10 << 20, 100)
    box.snapshot()
    assert box.usage().entries == 1


def test_a_fresh_upper_that_a_power_cut_took_is_made_again(store: layerfs.Store, box: layerfs.Container) -> None:
    with box.mount() as root:
        root.chmod(0o750)
    child = box.fork()
    for each in (box, child):
        assert each.upper.is_dir()
    shutil.rmtree(child.directory)
    box.upper.rename(store.path / "uppers/lost")
    assert store.fsck() == []
    for each in (box, child):
        with each.mount() as root:
            assert root.stat().st_mode & 0o777 == 0o750 and (root / "etc/motd").exists()


def test_what_a_run_had_made_for_itself_does_not_stay(store: layerfs.Store, shell_image: layerfs.Image) -> None:
    """A snapshot of a container that runs has the run's mount points, until it is absorbed; who goes on from it gets
    rid of them."""
    box = store.create(shell_image, command=["sh", "-c", "echo 1 > /file; exec sleep 60"], name="box")
    box.start()
    while not (box.store.mounts() and (Path(box.store.mounts()[0].target) / "file").exists()):
        time.sleep(0.01)
    box.snapshot("live")
    child = box.fork("child", snapshot="live")
    assert [change.path for change in box.find_snapshot("live").diff()] == ["/file"]
    box.stop(timeout=0)
    after = box.snapshot("after")
    assert [(change.kind, change.path) for change in after.diff()] == [("A", "/file")]
    box.rollback("live")
    for each in (box, child):
        assert [(change.kind, change.path) for change in each.diff()] == [("A", "/file")]
        with each.mount() as root:
            assert not (root / "proc").exists() and (root / "file").exists()


def test_running_a_fork_absorbs_nothing(store: layerfs.Store, shell_image: layerfs.Image) -> None:
    box = store.create(shell_image, name="box")
    write(box, {"a": b"1" * 200_000})
    child = box.fork("child")
    assert child.run(["cat", "/a"]).stdout == b"1" * 200_000
    lower = store.inspect("child")["GraphDriver"]["Data"]["LowerDir"].split(":")
    assert (Path(lower[0]) / "a").exists() and Path(lower[1]).is_file()


def test_a_rollback_of_what_is_mounted_says_so(box: layerfs.Container) -> None:
    box.snapshot("one")
    with box.mount() as root, pytest.raises(InUse, match="container box is mounted: stop or unmount it first") as told:
        box.rollback("one")
    assert told.value.filename == str(root)


def test_what_a_change_of_a_big_file_takes_is_told_before_and_after_absorbing(
    store: layerfs.Store, tmp_path: Path
) -> None:
    place = tmp_path / "with-big"
    place.mkdir()
    (place / "big").write_bytes(os.urandom(4 << 20))
    box = store.create(store.import_archive(place, tag="big:1"), name="box")
    with box.mount(engine="native") as root, (root / "big").open("r+b") as file:
        file.write(b"one block")
    taken = box.snapshot()
    child = box.fork()
    write(child, {"own": bytes(50_000)})
    child.snapshot()
    for _ in range(2):
        assert 4096 <= taken.sizes().shared <= 65536 and 4096 <= box.sizes().writable <= 65536
        assert frozen_sizes(store) == {box.id: 0, child.id: pytest.approx(50_000, abs=4096)}
        store.absorb()
    box.remove()
    assert frozen_sizes(store)[child.id] > 53_000  # it has the block for itself now


def test_closing_a_store_waits_for_what_a_rollback_drops(store: layerfs.Store, box: layerfs.Container) -> None:
    """Who closes a store may remove it, or look at what it takes."""
    snapshot = box.snapshot()
    for number in range(3):
        write(box, {f"{number}": bytes(1000)})
        box.rollback(snapshot)
    store.close()
    assert list((store.path / "uppers").iterdir()) == []  # the last one's comes with its first use


def test_a_commit_beside_a_rollback_has_one_of_both_states(
    store: layerfs.Store, box: layerfs.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(box, {"kept": b"1"})
    box.snapshot("one")
    write(box, {"dropped": b"2"})
    real = committing.commit_layer

    def interrupted(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(committing, "commit_layer", real)
        box.rollback("one")
        shutil.rmtree(arguments[1])
        return real(*arguments, **options)

    monkeypatch.setattr(committing, "commit_layer", interrupted)
    with box.commit().mount() as root:
        assert contents(root) == {"etc/motd": b"Welcome\n", "kept": b"1"}


def test_who_looks_at_an_upper_that_goes_looks_at_the_next_one(box: layerfs.Container) -> None:
    write(box, {"a": b"1"})
    looked = []

    def look(record: ContainerRecord) -> str:
        looked.append(record.place)
        if len(looked) == 1:
            box.snapshot("one")
            raise FileNotFoundError
        return record.place

    assert steady(box, look) == looked[1] == box.record.place != looked[0]
    with pytest.raises(FileNotFoundError, match="another"):
        steady(box, lambda record: Path("/no/such/another").stat())


def test_a_mount_of_what_is_being_removed_says_so(
    store: layerfs.Store, box: layerfs.Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = mounts._mount_upper

    def removed(*arguments: Any) -> Any:
        box.remove()
        return real(*arguments)

    monkeypatch.setattr(mounts, "_mount_upper", removed)
    with pytest.raises(layerfs.errors.ContainerNotFound):
        box.mount()


def test_a_snapshot_that_was_removed_is_not_the_one_that_has_its_name_now(
    store: layerfs.Store, image: layerfs.Image, box: layerfs.Container
) -> None:
    write(box, {"a": b"old"})
    old = box.snapshot("name")
    old.remove()
    write(box, {"a": b"new"})
    box.snapshot("name")
    other = store.create(image, name="other").snapshot("name")
    calls = [old.remove, old.mount, old.diff, old.commit, old.fork, old.sizes, old.tree, lambda: other.diff(old)]
    calls += [lambda: box.rollback(old), lambda: box.fork("fork", snapshot=old), lambda: box.rollback(other)]
    for call in calls:
        with pytest.raises(NotFound, match="No such snapshot: name"):
            call()
    assert [each.name for each in box.snapshots()] == ["name"] and read(box)["a"] == b"new"


def test_snapshots_are_compared_by_name_and_by_diff(box: layerfs.Container) -> None:
    first = box.snapshot("first")
    write(box, {"a": b"one"})
    second = box.snapshot("second")
    assert first.diff("second") == first.diff(second) == layerfs.diff(first, second)
    assert [(each.kind, each.path) for each in first.diff("second")] == [("A", "/a")]
    with pytest.raises(NotFound):
        first.diff("third")


def test_absorb_takes_a_container_as_well_as_its_name(store: layerfs.Store, box: layerfs.Container) -> None:
    write(box, {"a": b"one"})
    box.snapshot()
    assert store.absorb(box) == 1 and store.absorb("box") == 0
