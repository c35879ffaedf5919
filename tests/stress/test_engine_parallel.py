"""Everything at once on one store, in many processes and many threads: no error, fsck clean, contents stored once.

LAYERFS_STRESS: seconds of each run (default 8).
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.errors import AlreadyExists, ContainerNotFound, ImageNotFound, InUse, NotFound
from tests.crash.harness import finish, start
from tests.crash.world import base_tar, compare, disk_files, docker_archive, judge, layer_tars, own_tar, whole
from tests.crash.world import expected_listing as listing_of

pytestmark = pytest.mark.root

SECONDS = float(os.environ.get("LAYERFS_STRESS", "8"))
GONE = (NotFound, InUse)  # somebody else has removed it, or uses it
Work = Callable[[layerfs.Store, Path, random.Random], None]


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """`store` with the image base:1, and archives to load."""
    for number in range(3):
        first, second = own_tar(number), own_tar(number + 1)
        images = {f"a{number}:1": [base_tar(), first], f"a{number}:2": [base_tar(), first, second]}
        docker_archive(tmp_path / f"archive{number}.tar", images)
        (tmp_path / f"layer{number}.tar").write_bytes(own_tar(number, whiteouts=False))
    docker_archive(tmp_path / "base.tar", {"base:1": [base_tar()]})
    with layerfs.Store(tmp_path / "store") as store:
        store.load(tmp_path / "base.tar")
    return tmp_path


def load(store: layerfs.Store, top: Path, chance: random.Random) -> None:
    number = chance.randrange(3)
    loaded = store.load(top / f"archive{number}.tar")
    assert [each.tags for each in loaded] == [(f"a{number}:1",), (f"a{number}:2",)]
    same = store.import_archive(top / f"layer{number}.tar", tag=f"layer{number}:{chance.randrange(2)}")
    assert same.id.startswith("sha256:")


def commit(store: layerfs.Store, top: Path, chance: random.Random) -> None:
    base = chance.choice(["base:1", f"a{chance.randrange(3)}:{chance.randrange(1, 3)}"])
    try:
        box = store.create(base)
    except ImageNotFound:
        return
    data = b"%d" % chance.randrange(5) * 3000
    with box.mount(engine=chance.choice(["kernel", "native", "python"])) as root:
        (root / "new").write_bytes(data)
        (root / "d1").mkdir(exist_ok=True)
        (root / "d1/f1").write_bytes(data * 100)
        (root / "big").unlink()
    assert {(c.kind, c.path) for c in box.diff()} >= {("A", "/new"), ("D", "/big")}
    image = box.commit(f"made{chance.randrange(4)}:1" if chance.random() < 0.7 else None)
    try:
        with image.mount() as root:
            assert (root / "new").read_bytes() == data
            assert (root / "d1/f1").read_bytes() == data * 100
            assert not (root / "big").exists()
    except NotFound:
        pass
    box.remove()


def tag(store: layerfs.Store, top: Path, chance: random.Random) -> None:
    name = f"t{chance.randrange(6)}:1"
    store.tag("base:1", name)
    if chance.random() < 0.8:
        with contextlib.suppress(ImageNotFound):
            assert str(store.remove_image(name)[0]) == f"Untagged: {name}"


def remove(store: layerfs.Store, top: Path, chance: random.Random) -> None:
    """Any image but the base, often by force."""
    images = [image for image in store.images(all=True) if "base:1" not in image.tags]
    if not images:
        return
    image = chance.choice(images)
    with contextlib.suppress(GONE):
        store.remove_image(chance.choice([image.id, *image.tags]), force=chance.random() < 0.5)


def collect(store: layerfs.Store, top: Path, chance: random.Random) -> None:
    assert store.gc().damage is None
    time.sleep(chance.random() * 0.05)


def check(store: layerfs.Store, top: Path, chance: random.Random) -> None:
    assert store.fsck(quick=chance.random() < 0.5) == []


def read(store: layerfs.Store, top: Path, chance: random.Random) -> None:
    """Mounts what there is, and compares the base with what it has to be."""
    expected = {f"d{n % 8}/f{n}": None for n in range(0, 120, 7)}
    with store.image("base:1").mount(engine=chance.choice(["kernel", "native", "python"])) as root:
        assert all((root / name).read_bytes() for name in expected)
        assert (root / "big2").read_bytes() == b"z" * 200_000
    try:
        image = chance.choice(store.images(all=True))
        out = io.BytesIO()
        store.save([image], out)
        assert layer_tars(out.getvalue())
        store.export(image, io.BytesIO())
    except GONE:
        pass


def names(store: layerfs.Store, top: Path, chance: random.Random) -> None:
    """Containers whose names others want too."""
    name = f"name{chance.randrange(3)}"
    try:
        box = store.create("base:1", name=name)
        assert store.container(box.id).name == name
        box.rename(f"other{chance.randrange(3)}")
    except (AlreadyExists, ContainerNotFound):
        pass
    for box in store.containers():
        try:
            if box.name.startswith(("name", "other")) and chance.random() < 0.5:
                box.remove()
        except (ContainerNotFound, InUse):
            pass


WORKS: list[Work] = [load, load, commit, commit, tag, remove, collect, check, read, names]


def repeat(work: Work, store: layerfs.Store, top: Path, seed: int, end: float) -> None:
    chance = random.Random(seed)
    while time.monotonic() < end:
        work(store, top, chance)


def settle(top: Path) -> None:
    """Whole afterwards; every image that is left is right; after removal and gc nothing is left but the base."""
    path = top / "store"
    whole(path)
    with layerfs.Store(path) as store:
        for image in store.images(all=True):
            judge(store, image)
        for box in store.containers():
            box.remove()
        for image in store.images(all=True):
            if "base:1" not in image.tags:
                with contextlib.suppress(NotFound):  # gone with its child
                    store.remove_image(image.id, force=True)
        store.gc()
        compare(judge(store, store.image("base:1")), listing_of([base_tar()]))
        kinds = {name.split("/")[0] for name in disk_files(path)}
        assert kinds == {"format", "packs", "objects", "blobs", "trees"}
        assert stored_twice(store) == []
    whole(path)


def stored_twice(store: layerfs.Store) -> list[str]:
    """Packs that nothing needs, or whose blocks belong to nobody, after a collection."""
    with store.root.index.view() as txn:
        used: dict[int, int] = {}
        for key in txn.keys("contents"):
            raw = txn.get("contents", key)
            assert raw is not None
            if raw[0] == 1:
                pack, size = int.from_bytes(raw[8:16], "little"), int.from_bytes(raw[16:24], "little")
                used[pack] = used.get(pack, 0) + -(-size // 4096) * 4096
    problems = []
    for place in (store.path / "packs").iterdir():
        size, needed = place.stat().st_size, used.get(int(place.name, 16), 0)
        if size > 2 * needed + (1 << 20):
            problems.append(f"{place.name}: {size} bytes for {needed}")
    return problems


def test_processes(top: Path) -> None:
    end = time.monotonic() + SECONDS

    def child(number: int) -> None:
        with layerfs.Store(top / "store") as store:
            repeat(WORKS[number], store, top, number, end)

    children = [start(child, number) for number in range(len(WORKS))]
    results = []
    for each in children:
        try:
            results.append(finish(*each))
        except AssertionError as error:
            results.append(error)
    failures = [str(each) for each in results if each != 0]
    assert not failures, "\n\n".join(failures)
    settle(top)


def test_threads_on_one_store(top: Path) -> None:
    end, failures = time.monotonic() + SECONDS, []
    with layerfs.Store(top / "store") as store:

        def body(number: int) -> None:
            try:
                repeat(WORKS[number], store, top, 100 + number, end)
            except BaseException:
                failures.append(traceback.format_exc())

        threads = [threading.Thread(target=body, args=(number,)) for number in range(len(WORKS))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, "\n\n".join(failures)
    settle(top)


def test_one_of_many_gets_the_name(top: Path) -> None:
    def child(number: int) -> None:
        with layerfs.Store(top / "store") as store:
            while not (top / "go").exists():
                time.sleep(0.001)
            try:
                box = store.create("base:1", name="wanted")
                (top / f"won{number}").write_text(box.id)
            except AlreadyExists as error:
                assert 'The container name "/wanted" is already in use' in str(error)

    children = [start(child, number) for number in range(6)]
    time.sleep(0.2)
    (top / "go").touch()
    assert [finish(*each) for each in children] == [0] * 6
    [winner] = list(top.glob("won*"))
    with layerfs.Store(top / "store") as store:
        assert [box.id for box in store.containers()] == [winner.read_text()]
        assert len(list((top / "store/containers").iterdir())) == 1


def test_one_of_many_mounts_the_container(top: Path) -> None:
    with layerfs.Store(top / "store") as store:
        store.create("base:1", name="box")

    def child(number: int) -> None:
        with layerfs.Store(top / "store") as store:
            while not (top / "go").exists():
                time.sleep(0.001)
            try:
                store.mount("box", top / f"place{number}", engine=["kernel", "native", "python", "native"][number])
                (top / f"won{number}").touch()
            except InUse:
                pass

    children = [start(child, number) for number in range(4)]
    time.sleep(0.2)
    (top / "go").touch()
    try:
        assert [finish(*each) for each in children] == [0] * 4
        assert len(list(top.glob("won*"))) == 1
    finally:
        with layerfs.Store(top / "store") as store:
            store.umount("box")
    whole(top / "store")


def test_a_store_opened_before_fork_works_in_parent_and_children(top: Path) -> None:
    with layerfs.Store(top / "store") as store:
        base = store.image("base:1")
        box = store.create(base, name="box")

        def child(number: int) -> None:
            assert store.image("base:1") == base
            store.load(top / f"archive{number}.tar")
            made = store.create("base:1", name=f"child{number}")
            with made.mount() as root:
                (root / "x").write_text("x")
            made.commit(f"child:{number}")
            assert store.fsck() == []

        children = [start(child, number) for number in range(3)]
        with box.mount() as root:
            (root / "parent").write_text("parent")
        store.gc()
        assert [finish(*each) for each in children] == [0] * 3
        assert {tag for image in store.images() for tag in image.tags} >= {"child:0", "child:1", "child:2", "a2:2"}
        assert {each.name for each in store.containers()} == {"box", "child0", "child1", "child2"}
        assert ("A", "/parent") in {(c.kind, c.path) for c in box.diff()}
    whole(top / "store")


def test_a_container_made_while_its_image_goes_is_whole_or_not_made(top: Path) -> None:
    end = time.monotonic() + SECONDS / 2

    def maker(number: int) -> None:
        with layerfs.Store(top / "store") as store:
            while time.monotonic() < end:
                try:
                    box = store.create("a0:2")
                except NotFound:
                    continue
                with box.mount() as root:
                    assert (root / "number").read_bytes() == b"1"
                    assert (root / "d1/own3").read_bytes()
                assert box.image.config.diff_ids
                box.commit()
                box.remove()

    def remover(number: int) -> None:
        with layerfs.Store(top / "store") as store:
            while time.monotonic() < end:
                store.load(top / "archive0.tar")
                for name in ("a0:1", "a0:2"):
                    with contextlib.suppress(GONE):
                        store.remove_image(name)
                store.gc()

    children = [start(maker, 0), start(maker, 1), start(remover, 0)]
    assert [finish(*each) for each in children] == [0] * 3
    settle(top)


@pytest.mark.parametrize("verb", ["export", "save"])
def test_an_image_removed_while_it_is_written_out_is_written_whole(top: Path, verb: str) -> None:
    class Slow(io.BytesIO):
        """Removes the image, and collects, after the first bytes."""

        def write(self, data: Any) -> int:
            if not self.tell():
                with layerfs.Store(top / "store") as other:
                    other.remove_image("a0:2", force=True)
                    other.remove_image("a0:1", force=True)
                    other.remove_image("base:1", force=True)
                    other.gc()
            return super().write(data)

    out = Slow()
    with layerfs.Store(top / "store") as store:
        store.load(top / "archive0.tar")
        image = store.image("a0:2")
        store.export(image, out) if verb == "export" else store.save([image], out)
        layers = [out.getvalue()] if verb == "export" else layer_tars(out.getvalue())
        compare(listing_of(layers), listing_of([base_tar(), own_tar(0), own_tar(1)]))
        store.gc()
        assert store.images(all=True) == []
    assert {name.split("/")[0] for name in disk_files(top / "store")} == {"format"}
