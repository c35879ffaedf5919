"""Trees at the edges of the format, before independent judges: erofs-utils, and the kernel's EROFS below overlayfs."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import resource
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.native.script import IDENTITY, Failed, Trees
from tests.trees import native

CORE: Any = native()
PACKS = 300
HUGE = 200_000
DEEP = 2040
FILE, LINK = "mode=0100644", "mode=0120777"
BIG = bytes(range(251)) * 2000


def identity(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def object_line(path: str, data: bytes) -> str:
    return f"put {path} {FILE} object={len(data)}:{identity(data)}"


def store_object(folder: Path, name: str, data: bytes, size: int = 0) -> None:
    place = folder / "objects" / name[:2] / name[2:]
    place.parent.mkdir(parents=True)
    place.write_bytes(data)
    os.truncate(place, size or len(data))


@pytest.fixture
def odd(trees: Trees) -> Trees:
    """A tree `odd` of everything unusual, its packs and objects beside it."""
    sparse = "ab" * 32
    for number in range(PACKS):
        (trees.folder / f"{number:016x}").write_bytes(bytes(8192) + b"pack %03d" % number + bytes(4088))
    store_object(trees.folder, identity(BIG), BIG)
    store_object(trees.folder, sparse, b"", 60 << 30)
    trees.run(
        *(f"put packed/f{n} {FILE} pack={n:x}:2:8:{identity(b'%d' % n)} mtime=-77 nsec=5" for n in range(PACKS)),
        object_line("big", BIG) + " uid=7 x:user.k=v",
        f"put sparse {FILE} object={60 << 30}:{sparse}",
        *(f"put huge/entry-{n * 7919 % HUGE:08d} {FILE}" for n in range(HUGE)),
        f"put {'n' * 255}/{'m' * 255} {FILE}",
        f"put long {LINK} target={'t' * 4095}",
        f"put short {LINK} target=packed/f3",
        "put fifo mode=010600",
        "put socket mode=0140600",
        "put device mode=060600 dev=4095:1048575",
        f"put attributes {FILE} " + " ".join(f"x:user.n{n}={'v' * 60000}" for n in range(4)),
        "put attributed mode=040755 " + " ".join(f"x:user.n{n}={'v' * 3000}" for n in range(2)),
        f"put attributed/f {FILE}",
        "link hard packed/f7",
        "link hardbig big",
        "link hardlong long",
        f"write odd merged {IDENTITY}",
        "verify odd",
    )
    return trees


def devices(folder: Path) -> list[Path]:
    return [folder / f"{number:016x}" for number in range(PACKS)]


def unlimited_stack() -> None:
    resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def run_erofs(tool: str, tree: Path, *arguments: str) -> str:
    done = subprocess.run([tool, *arguments, tree], capture_output=True, preexec_fn=unlimited_stack)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode(errors="replace")


@pytest.mark.skipif(shutil.which("fsck.erofs") is None, reason="erofs-utils is not installed")
def test_erofs_utils_read_odd_trees(odd: Trees) -> None:
    given = [f"--device={path}" for path in devices(odd.folder)]
    run_erofs("fsck.erofs", odd.folder / "odd", *given)
    listing = run_erofs("dump.erofs", odd.folder / "odd", *given, "--ls", "--path=/packed")
    assert {line.split()[-1] for line in listing.splitlines() if " f" in line} >= {f"f{n}" for n in range(PACKS)}
    assert f"Size: {60 << 30} " in run_erofs("dump.erofs", odd.folder / "odd", *given, "--path=/sparse")


@pytest.mark.skipif(shutil.which("fsck.erofs") is None, reason="erofs-utils is not installed")
def test_the_deepest_path_is_accepted(trees: Trees) -> None:
    trees.run(
        f"put {'/'.join('d' * DEEP)} {FILE}",
        f"write deep merged {IDENTITY}",
        "verify deep",
        f"merge again {IDENTITY} deep",
    )
    assert (trees.folder / "deep").read_bytes() == (trees.folder / "again").read_bytes()
    run_erofs("fsck.erofs", trees.folder / "deep")


def test_random_access_to_a_huge_directory(odd: Trees) -> None:
    assert len(odd.dump("odd")) == PACKS + HUGE + 18  # the dump looks every name up


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """The tree `odd` below overlayfs with the objects; yields the merged directory."""
    erofs, merged = folder / "erofs", folder / "merged"
    erofs.mkdir()
    merged.mkdir()
    with contextlib.ExitStack() as stack:
        given = [("source", str(folder / "odd")), *(("device", str(path)) for path in devices(folder))]
        CORE.mount_new("erofs", given, str(erofs), 1)
        stack.callback(CORE.umount, str(erofs), 0)
        layers = [("lowerdir+", str(erofs)), ("datadir+", str(folder / "objects"))]
        CORE.mount_new("overlay", [*layers, ("metacopy", "on"), ("redirect_dir", "on")], str(merged), 1)
        stack.callback(CORE.umount, str(merged), 0)
        yield merged


@pytest.mark.root
@pytest.mark.skipif(CORE is None, reason="the compiled part is not built: no mounts")
def test_the_kernel_reads_odd_trees(odd: Trees) -> None:
    with mounted(odd.folder) as root:
        check_contents(root)
        check_names(root)
        check_attributes(root)


def check_contents(root: Path) -> None:
    assert all((root / "packed" / f"f{n}").read_bytes() == b"pack %03d" % n for n in range(PACKS))
    assert (root / "big").read_bytes() == BIG
    with (root / "sparse").open("rb") as file:
        file.seek(59 << 30)
        assert file.read(4096) == bytes(4096)
    assert (root / "short").read_bytes() == b"pack 003"


def check_names(root: Path) -> None:
    assert sorted(path.name for path in (root / "huge").iterdir()) == [f"entry-{n:08d}" for n in range(HUGE)]
    assert not (root / "huge" / "entry-00000007x").exists()
    assert [path.name for path in (root / ("n" * 255)).iterdir()] == ["m" * 255]
    listed = subprocess.run(["ls", "-a", root, root / "attributed"], check=True, capture_output=True, text=True).stdout
    assert listed.split().count(".") == listed.split().count("..") == 2


def check_attributes(root: Path) -> None:
    packed, hard = (root / "packed/f7").stat(), (root / "hard").stat()
    assert (packed.st_ino, packed.st_nlink, packed.st_mtime_ns) == (hard.st_ino, 2, -77 * 10**9 + 5)
    assert (root / "big").samefile(root / "hardbig")
    assert (os.getxattr(root / "big", "user.k"), (root / "big").stat().st_uid) == (b"v", 7)
    assert sorted(os.listxattr(root / "attributes")) == [f"user.n{n}" for n in range(4)]
    assert os.getxattr(root / "attributes", "user.n3") == b"v" * 60000
    assert os.getxattr(root / "attributed", "user.n1") == b"v" * 3000
    assert (root / "hardlong").readlink() == Path("t" * 4095)
    assert (root / "device").stat().st_rdev == os.makedev(4095, 1048575)
    assert [stat.S_IFMT((root / name).lstat().st_mode) for name in ("fifo", "socket")] == [stat.S_IFIFO, stat.S_IFSOCK]


@pytest.mark.root
@pytest.mark.skipif(CORE is None, reason="the compiled part is not built: no mounts")
def test_a_full_disk_leaves_no_file(trees: Trees) -> None:
    small = trees.folder / "small"
    small.mkdir()
    CORE.mount("none", str(small), "tmpfs", 0, "size=64k")
    try:
        with pytest.raises(Failed) as failed:
            trees.run("many 5000 d", f"write small/t layer {IDENTITY}")
        assert failed.value.code == errno.ENOSPC
        assert not list(small.iterdir())
    finally:
        CORE.umount(str(small), 0)
