"""The union without a mount: what FUSE cannot ask for, frozen layers, crashes, hosts without mknod."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trees import directory, file, hardlink, symlink

from layerfs.errors import Corrupt
from layerfs.union import Union
from layerfs.union import upper as upper_module
from layerfs.union.host import EXCHANGE, NOREPLACE

pytestmark = pytest.mark.root

BASE = [
    file("a", b"a" * 5000),
    hardlink("b", "a"),
    directory("d"),
    directory("d/e"),
    hardlink("d/e/c", "a"),
    file("d/f", b"f"),
    file("big", b"B" * 300_000),
    symlink("s", "a"),
]


def read(union: Union, path: bytes) -> bytes:
    body = union.open(path, os.O_RDONLY)
    try:
        return body.read(1 << 20, 0)
    finally:
        union.release(body)


def write(union: Union, path: bytes, data: bytes) -> None:
    body = union.open(path, os.O_WRONLY | os.O_TRUNC)
    try:
        body.write(data, 0)
    finally:
        union.release(body)


def new(union: Union, path: bytes, data: bytes = b"") -> None:
    body = union.create(path, 0o644, uid=0, gid=0)
    body.write(data, 0)
    union.release(body)


def test_a_union_without_an_upper_is_read_only(bench: Callable[..., Any]) -> None:
    union = bench(BASE).union(writable=False)
    assert read(union, b"d/f") == b"f"
    for act in (
        lambda: union.chmod(b"a", 0o600),
        lambda: union.open(b"a", os.O_RDWR),
        lambda: union.mkdir(b"x", 0o755, uid=0, gid=0),
        lambda: union.unlink(b"a"),
        lambda: union.rename(b"a", b"z"),
        lambda: union.removexattr(b"a", b"user.x"),
    ):
        with pytest.raises(OSError) as caught:
            act()
        assert caught.value.errno == errno.EROFS


def test_missing_contents_are_eio_not_enoent(bench: Callable[..., Any]) -> None:
    box = bench(BASE)
    union = box.union()
    for path in box.shelf.objects.rglob("*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(Corrupt) as caught:
        union.open(b"big", os.O_RDONLY)
    assert caught.value.errno == errno.EIO
    for pack in box.shelf.packs.iterdir():
        pack.unlink()
    assert read(union, b"d/f") == b"f"  # packs stay open: a collection that moves files does not disturb a mount
    with pytest.raises(Corrupt):
        box.union()


def test_exchange_and_noreplace(bench: Callable[..., Any]) -> None:
    box = bench(BASE)
    union = box.union()
    union.rename(b"d", b"big", EXCHANGE)
    assert sorted(union.listdir(b"big")) == [b"e", b"f"]
    assert len(read(union, b"d")) == 300_000
    with pytest.raises(FileExistsError):
        union.rename(b"d", b"a", NOREPLACE)
    with pytest.raises(FileNotFoundError):
        union.rename(b"d", b"absent", EXCHANGE)
    union.rename(b"big/f", b"s", EXCHANGE)
    union = box.union()
    assert union.readlink(b"big/f") == b"a"
    assert read(union, b"s") == b"f"


def test_unknown_rename_flags_are_einval(bench: Callable[..., Any]) -> None:
    with pytest.raises(OSError) as caught:
        bench(BASE).union().rename(b"a", b"z", 4)
    assert caught.value.errno == errno.EINVAL


# --- frozen layers -----------------------------------------------------------------------------------------------


def test_frozen_layers_stack(bench: Callable[..., Any]) -> None:
    box = bench(BASE)
    union = box.union()
    union.rename(b"d", b"moved")
    write(union, b"moved/f", b"one")
    new(union, b"n1", b"1")
    union = box.freeze()
    union.rename(b"moved", b"again")
    union.unlink(b"n1")
    union.mkdir(b"d", 0o755, uid=0, gid=0)
    union = box.freeze()
    assert sorted(union.listdir(b"")) == [b"a", b"again", b"b", b"big", b"d", b"s"]
    assert sorted(union.listdir(b"again")) == [b"e", b"f"]
    assert union.listdir(b"d") == {}
    assert read(union, b"again/f") == b"one"
    union.rename(b"again/e", b"d/e")
    new(union, b"n1", b"new")
    union = box.freeze()
    assert read(union, b"d/e/c") == b"a" * 5000
    assert read(union, b"n1") == b"new"
    assert not box.upper.joinpath("n1").exists()


def test_inode_numbers_stay_over_frozen_layers(bench: Callable[..., Any]) -> None:
    box = bench(BASE)
    union = box.union()
    new(union, b"n", b"x")
    union.chmod(b"d/f", 0o600)
    before = {path: union.getattr(path).ino for path in (b"n", b"d/f", b"d", b"big", b"a")}
    union = box.freeze()
    union.chmod(b"n", 0o600)
    write(union, b"d/f", b"changed")
    union.chmod(b"big", 0o600)
    for reopen in (lambda: union, box.union, box.freeze):
        again = reopen()
        assert {path: again.getattr(path).ino for path in before} == before
        assert {name: entry.ino for name, entry in again.listdir(b"").items()} == {
            name: again.getattr(name).ino for name in again.listdir(b"")
        }


def test_a_metacopy_over_a_frozen_metacopy(bench: Callable[..., Any]) -> None:
    box = bench(BASE)
    box.union().chmod(b"big", 0o600)
    union = box.freeze()
    union.chown(b"big", 5, 5)
    union.rename(b"big", b"d/large")
    union = box.freeze()
    assert read(union, b"d/large") == b"B" * 300_000
    body = union.open(b"d/large", os.O_RDWR)
    body.write(b"x", 299_999)
    union.release(body)
    assert read(union, b"d/large") == b"B" * 299_999 + b"x"
    assert union.getattr(b"d/large").uid == 5


def test_hard_links_hold_over_frozen_layers(bench: Callable[..., Any]) -> None:
    box = bench(BASE)
    union = box.union()
    union.unlink(b"b")
    new(union, b"x", b"x")
    union.link(b"x", b"y")
    union = box.freeze()
    write(union, b"a", b"written")
    write(union, b"y", b"also")
    for reopen in (lambda: union, box.union):
        again = reopen()
        assert read(again, b"d/e/c") == b"written"
        assert read(again, b"x") == b"also"
        assert {again.getattr(path).nlink for path in (b"a", b"d/e/c", b"x", b"y")} == {2}


# --- crashes -----------------------------------------------------------------------------------------------------


class Crash(BaseException):
    pass


def test_a_crash_while_links_are_made_is_finished_at_the_next_start(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = bench(BASE)
    union = box.union()
    real, count = os.link, 0

    def link(*arguments: Any, **keywords: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise Crash
        real(*arguments, **keywords)

    monkeypatch.setattr(upper_module.os, "link", link)
    with pytest.raises(Crash):
        write(union, b"a", b"new")
    monkeypatch.undo()
    union = box.union()
    write(union, b"b", b"after")
    assert read(union, b"a") == read(union, b"d/e/c") == b"after"
    assert os.listdir(box.work / "scratch") == []


@pytest.mark.parametrize("step", range(1, 12))
def test_a_crash_between_any_two_renames_leaves_the_old_or_the_new(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    box = bench(BASE)
    union = box.union()
    union.unlink(b"d/f")
    count = 0
    real = upper_module.rename

    def rename(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == step:
            raise Crash
        real(*arguments)

    monkeypatch.setattr(upper_module, "rename", rename)
    try:
        union.chmod(b"big", 0o600)
        union.rename(b"big", b"s")
        union.rename(b"d", b"e")
        union.unlink(b"a")
    except Crash:
        pass
    monkeypatch.undo()
    union = box.union()
    found = set(union.listdir(b""))
    assert len(found & {b"d", b"e"}) == 1
    where = (found & {b"d", b"e"}).pop()
    assert sorted(union.listdir(where)) == [b"e"]
    target = b"big" if b"big" in found else b"s"
    assert read(union, target) == b"B" * 300_000
    assert read(union, b"b") == b"a" * 5000


# --- hosts that are not root's ext4 ------------------------------------------------------------------------------


def test_whiteouts_without_mknod(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    box = bench(BASE)
    union = box.union()

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise PermissionError(1, "no mknod here")

    monkeypatch.setattr(upper_module.os, "mknod", refuse)
    union.unlink(b"d/f")
    union.unlink(b"a")
    union.rename(b"d/e", b"e")
    write(union, b"big", b"")
    found = os.stat(box.upper / "a")
    assert stat.S_ISREG(found.st_mode) and os.getxattr(box.upper, "trusted.overlay.opaque") == b"x"
    union = box.union()
    assert sorted(union.listdir(b"")) == [b"b", b"big", b"d", b"e", b"s"]
    assert union.listdir(b"d") == {}
    assert read(union, b"big") == b""
    union.rmdir(b"d")
    assert b"d" not in box.union().listdir(b"")


def test_a_shared_whiteout_with_too_many_links_is_replaced(
    bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = bench(BASE)
    union = box.union()
    union.unlink(b"a")
    real, full = os.link, [True]

    def link(source: Any, *arguments: Any, **keywords: Any) -> None:
        if source == b"whiteout" and full and full.pop():
            raise OSError(errno.EMLINK, "too many links")
        real(source, *arguments, **keywords)

    monkeypatch.setattr(upper_module.os, "link", link)
    union.unlink(b"b")
    assert (box.upper / "a").lstat().st_ino != (box.upper / "b").lstat().st_ino
    assert sorted(union.listdir(b"")) == [b"big", b"d", b"s"]


def test_a_symlink_planted_in_the_upper_directory_is_not_followed(bench: Callable[..., Any], tmp_path: Path) -> None:
    box = bench(BASE)
    union = box.union()
    union.chmod(b"d", 0o700)
    outside = tmp_path / "outside"
    outside.mkdir()
    box.close()
    os.rename(box.upper / "d", box.upper / "aside")
    (box.upper / "d").symlink_to(outside)
    union = box.union()
    with pytest.raises(OSError):
        new(union, b"d/planted", b"x")
    assert os.listdir(outside) == []


def test_leftovers_in_scratch_are_removed(bench: Callable[..., Any]) -> None:
    box = bench(BASE)
    scratch = box.work / "scratch"
    (scratch / "123-4" / "deep").mkdir(parents=True)
    (scratch / "123-5").write_bytes(b"half a copy")
    box.union()
    assert os.listdir(scratch) == []


def test_holes_of_lower_objects_stay_holes(bench: Callable[..., Any]) -> None:
    box = bench([file("holey", b"x" * 200_000)])
    (object_path,) = (path for path in box.shelf.objects.rglob("*") if path.is_file())
    object_path.chmod(0o600)
    with object_path.open("r+b") as stream:  # the same size, one block of data, as a sparse object has it
        stream.truncate(0)
        stream.truncate(200_000)
        stream.seek(100_000)
        stream.write(b"data")
    union = box.union()
    body = union.open(b"holey", os.O_RDWR)
    union.release(body)
    assert (box.upper / "holey").stat().st_blocks * 512 <= 8192
    assert read(union, b"holey")[99_998:100_006] == b"\0\0data\0\0"


def test_a_nameless_lower_file_can_change(bench: Callable[..., Any]) -> None:
    box = bench(BASE)
    union = box.union()
    reader = union.open(b"d/f", os.O_RDONLY)
    body = union.orphan(b"d/f")
    assert body is reader and body.attributes().nlink == 0
    os.fchmod(union.materialise(body), 0o600)
    assert body.read(10, 0) == b"f"
    assert body.attributes().mode == stat.S_IFREG | 0o600
    union.release(body)
    union.release(reader)
    assert set(os.listdir(box.work / "scratch")) <= {"whiteout"}
