"""Snapshots, forks, rollbacks, removals, absorbing and folding, ended before each change they make on the disk, one
after the other: what there was is as it was, or the deed is done; and it can be done again.

LAYERFS_KILLS: every moment, not some of them.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.errors import AlreadyExists, NotFound
from layerfs.snapshot import control
from layerfs.snapshot.absorb import absorb_loose
from layerfs.snapshot.folding import fold_states
from layerfs.store.index import _Transaction
from tests.crash.harness import crash_rounds

pytestmark = pytest.mark.root

EVENTS = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.setxattr",
    "os.chmod",
    "layerfs.commit",
    "socket.connect",
}
Contents = dict[str, dict[str, bytes]]  # by container, or container@snapshot
STEP = 1 if os.environ.get("LAYERFS_KILLS") else 11


def contents(store: layerfs.Store) -> Contents:
    found = {}
    for box in store.containers():
        with box.mount(engine="kernel", read_only=True) as root:
            found[box.name] = files(root)
        for snapshot in box.snapshots():
            with snapshot.mount(engine="kernel") as root:
                found[f"{box.name}@{snapshot.name}"] = files(root)
    return found


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes()[:20] for path in root.rglob("*") if path.is_file()}


def set_up(place: Path) -> layerfs.Store:
    """`box` with snapshots one, two, three, and changes after these; `child`, forked from two, which nobody has used;
    nothing is absorbed but one."""
    store = layerfs.Store(place / "store")
    plain = place / "plain"
    (plain / "d").mkdir(parents=True)
    (plain / "d/a").write_bytes(b"lower")
    box = store.create(store.import_archive(plain, tag="small:1"), name="box")
    for number, name in enumerate(("one", "two", "three", None)):
        with box.mount(engine="kernel" if number < 2 else "native") as root:
            (root / "d/a").write_bytes(b"%d" % number + bytes(200_000))
            (root / f"f{number}").write_bytes(b"%d" % number)
        if name:
            box.snapshot(name)
        if name == "two":
            box.fork("child")
    return store


def fold(box: layerfs.Container) -> None:
    box.find_snapshot("one").remove()
    absorb_loose(box.store.root)
    fold_states(box.store.root)


DEEDS: dict[str, Callable[[layerfs.Container], object]] = {
    "snapshot": lambda box: box.snapshot("new"),
    "fork": lambda box: box.fork("new"),
    "rollback": lambda box: box.rollback("one"),
    "use a fork for the first time": lambda box: box.store.container("child").upper,
    "remove the snapshot": lambda box: box.find_snapshot("two").remove(),
    "remove the container": lambda box: box.remove(),
    "absorb": lambda box: absorb_loose(box.store.root),
    "fold": fold,
}


def killed(place: Path, deed: Callable[[layerfs.Container], object], moment: int) -> bool:
    """Does it in a child that ends before its nth change; False when it came to its end."""
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, 77), "it failed"
        return code == 77
    left = moment

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        left -= event in EVENTS
        if not left:
            os._exit(77)

    end = _Transaction.__exit__

    def audited_end(self: _Transaction, *error: object) -> None:
        sys.audit("layerfs.commit")
        end(self, *error)  # type: ignore[arg-type]
        sys.audit("layerfs.commit")

    try:
        _Transaction.__exit__ = audited_end  # type: ignore[assignment, method-assign]
        store = layerfs.Store(place / "store")
        sys.addaudithook(watch)
        deed(store.container("box"))
        for each in store.root._beside:
            each.wait()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


@pytest.mark.parametrize("name", DEEDS)
def test_ended_at_any_moment(tmp_path: Path, name: str) -> None:
    deed, place = DEEDS[name], tmp_path / "world"
    before = after = None
    moment, going = 1 + len(name) % STEP, True
    while going:
        store = set_up(tmp_path / f"world{moment}")
        if before is None:
            before = contents(store)
            store.close()
            store = set_up(place)
            deed(store.container("box"))
            after = contents(store)
            store.close()
            store = layerfs.Store(tmp_path / f"world{moment}/store")
        store.close()
        going = killed(tmp_path / f"world{moment}", deed, moment)
        judge(tmp_path / f"world{moment}/store", deed, before, after or {})
        moment += STEP
    assert moment > 6


def judge(path: Path, deed: Callable[[layerfs.Container], object], before: Contents, after: Contents) -> None:
    with layerfs.Store(path) as store:
        assert contents(store) in (before, after)
        assert store.fsck(quick=True) == []
        with contextlib.suppress(AlreadyExists, NotFound):  # it was done
            deed(store.container("box"))
        assert contents(store) == after
        long_ago = time.time() - 1000
        for top in ("uppers", "containers"):
            for each in (path / top).iterdir():
                os.utime(each, (long_ago, long_ago))
        store.gc()
        assert contents(store) == after and store.fsck(quick=True) == []
        for box in store.containers():
            box.remove()
        assert [*(path / "uppers").iterdir(), *(path / "containers").iterdir()] == []


def test_a_live_snapshot_ended_at_any_moment(tmp_path: Path) -> None:
    """Who takes it is killed, and now and then the server as well: nothing that was written is lost, what is called a
    snapshot is one, and it can be done again."""
    moment, going = 1, True
    while going:
        place = tmp_path / f"world{moment}"
        with layerfs.Store(place / "store") as store:
            (place / "plain").mkdir()
            box = store.create(store.import_archive(place / "plain", tag="small:1"), name="box")
            handle = box.mount(engine="native")
            with (handle.path / "log").open("wb", buffering=0) as log:
                log.write(b"1")
                (handle.path / "closed").write_bytes(b"1")
                going = killed(place, lambda box: box.snapshot("new"), moment)
                log.write(b"2")
                (handle.path / "closed").write_bytes(b"2")
                if moment % 2:
                    again = box.snapshot("again")
                    log.write(b"3")
                else:
                    os.kill(store.mounts()[0].pid, signal.SIGKILL)
            if moment % 2:
                handle.unmount()
                with again.mount() as root:
                    assert files(root) == {"log": b"12", "closed": b"2"}
            with box.mount() as root:
                assert files(root) == {"log": b"123" if moment % 2 else b"12", "closed": b"2"}
            if not going:
                assert box.find_snapshot("new")
            if "new" in [each.name for each in box.snapshots()]:
                with box.find_snapshot("new").mount() as root:
                    assert files(root) == {"log": b"1", "closed": b"1"}
            store.gc()
            assert store.fsck() == []
        moment += 1 if STEP == 1 else 3
    assert moment > 8


def test_a_file_keeps_all_its_names_when_the_server_is_killed_while_freezing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is open, so it goes on in the fresh upper: its names go there one after the other, and a copy stays."""
    names, took = ["d/f", *(f"{'d/' * (n % 2)}l{n}" for n in range(40))], 0.0
    ask = control.request

    def linked(root: Path, data: bytes) -> bool:
        found = (root / "d/f").stat()
        return found.st_nlink == len(names) and all(
            (root / name).stat().st_ino == found.st_ino and (root / name).read_bytes() == data for name in names
        )

    def asked(*arguments: Any) -> dict[str, Any]:
        began.set()
        return ask(*arguments)

    def kill(pid: int, after: float) -> None:
        assert began.wait(60)
        time.sleep(after)
        os.kill(pid, signal.SIGKILL)

    (tmp_path / "plain/d").mkdir(parents=True)
    with layerfs.Store(tmp_path / "store") as store:
        image = store.import_archive(tmp_path / "plain", tag="small:1")
        for number in range(100 if STEP == 1 else 6):
            box, began = store.create(image, name=f"box{number}"), threading.Event()
            handle = box.mount(engine="native")
            with (handle.path / "d/f").open("wb", buffering=0) as out:
                for name in names[1:]:
                    os.link(handle.path / "d/f", handle.path / name)
                out.write(b"1")
                box.snapshot("first")
                out.write(b"2")
                killer = threading.Thread(target=kill, args=(store.mounts()[0].pid, random.uniform(0, took)))
                start = time.perf_counter()
                with monkeypatch.context() as patch:
                    patch.setattr(control, "request", asked)
                    if number:
                        killer.start()
                    box.snapshot("new")
                took = took or time.perf_counter() - start
            if number:
                killer.join()
            else:
                handle.unmount()
            for snapshot, data in (("first", b"1"), ("new", b"12")):
                with box.find_snapshot(snapshot).mount() as root:
                    assert linked(root, data)
            with box.mount() as root:
                assert linked(root, b"12")
                (root / "d/f").write_bytes(b"3")
                assert linked(root, b"3")
            box.remove()
        assert store.fsck() == []


def test_absorbing_killed_in_the_middle_of_a_file(tmp_path: Path) -> None:
    """Big files are linked into the store while they are read: whenever that ends, they are whole, and absorbed next
    time."""
    data = os.urandom(24 << 20)
    place = tmp_path / "store"
    with layerfs.Store(place) as store:
        (tmp_path / "plain").mkdir()
        store.create(store.import_archive(tmp_path / "plain", tag="small:1"), name="box")

    def prepare(number: int) -> None:
        with layerfs.Store(place) as store:
            box = store.container("box")
            with box.mount(engine="native") as root:
                (root / "big").write_bytes(b"%d" % number + data)
                (root / "small").write_bytes(b"%d" % number)
            box.snapshot(f"s{number}")

    def work(_: int) -> None:
        with layerfs.Store(place) as store:
            absorb_loose(store.root)

    def verify(number: int) -> None:
        with layerfs.Store(place) as store:
            with store.container("box").mount(engine="native", read_only=True) as root:
                assert (root / "big").read_bytes() == b"%d" % number + data
                assert (root / "small").read_bytes() == b"%d" % number
            assert store.fsck(quick=True) == []

    rounds = 30 if STEP == 1 else 5
    assert crash_rounds(work, verify, prepare=prepare, rounds=rounds).killed > 1
    work(0)
    with layerfs.Store(place) as store:
        store.gc()
        for number in (1, rounds):
            with store.container("box").find_snapshot(f"s{number}").mount() as root:
                assert (root / "big").read_bytes() == b"%d" % number + data
        assert store.fsck() == []
