"""Commits of uppers that the kernel's overlayfs wrote, judged by the oracle: apply(commit(a, b), a) = b."""

import contextlib
import ctypes
import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from layerfs import mount
from layerfs.layer import merged_tree, write_layer
from layerfs.layer.changes import changes
from layerfs.layer.commit import commit_layer, import_directory
from layerfs.snapshot.kernel import mount_kernel
from layerfs.snapshot.settle import settle
from layerfs.store import StoreRoot
from tests.oracle.applier import apply, listing
from tests.oracle.host import host_listing

pytestmark = pytest.mark.root
libc = ctypes.CDLL(None, use_errno=True)
OPTIONS = {
    "plain": "redirect_dir=off,metacopy=off,index=off",
    "redirect": "redirect_dir=on,metacopy=on,index=off",
    "user": "userxattr",
    "engine": "engine",
}


@contextlib.contextmanager
def overlay(base, lower, options):
    """`lower` with upper/ mounted on merged/, as the kernel does it."""
    for name in ("work", "merged"):
        (base / name).mkdir()
    data = f"lowerdir={lower},upperdir={base}/upper,workdir={base}/work,{options}".encode()
    if libc.mount(b"overlay", os.fsencode(base / "merged"), b"overlay", 0, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        yield base / "merged"
    finally:
        libc.umount2(os.fsencode(base / "merged"), 2)


@contextlib.contextmanager
def engine(base, store, tree):
    """The tree itself as the lower one, as engine `kernel` mounts it: EROFS, with the index on."""
    for name in ("work", "merged"):
        (base / name).mkdir()
    packs = [store.contents.pack_path(pack) for pack in tree.packs]
    upper = mount.Upper(base / "upper", base / "work")
    mount_kernel(
        base / "merged", tree=Path(tree.path), packs=packs, objects=store.path / "objects", upper=upper, source="test"
    )
    try:
        yield base / "merged"
    finally:
        libc.umount2(os.fsencode(base / "merged"), 2)


class Ground:
    """A lower directory, and the same as a layer in a store; no test changes them."""

    def __init__(self, base):
        self.lower = base / "lower"
        self.lower.mkdir()
        sh(BASE)(self.lower)
        self.store = StoreRoot.open(base / "store")
        with self.store.leases.acquire("test") as lease:
            layer = import_directory(self.store, self.lower, lease=lease)
        self.tree = merged_tree(self.store, [layer.diff_id])
        self.tar = self.tar_of(layer)

    def tar_of(self, layer):
        sink = io.BytesIO()
        write_layer(self.store, layer.diff_id, sink)
        return sink.getvalue()


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    made = Ground(tmp_path_factory.mktemp("ground"))
    yield made
    made.store.close()


class Case:
    """The ground changed through a mount, committed and applied."""

    def __init__(self, base, ground, options):
        self.base, self.ground, self.options = base, ground, options
        (base / "upper").mkdir()
        shutil.copystat(ground.lower, base / "upper")

    def mounted(self):
        if self.options == "engine":
            return engine(self.base, self.ground.store, self.ground.tree)
        return overlay(self.base, self.ground.lower, self.options)

    def change(self, script):
        store, tree, upper = self.ground.store, self.ground.tree, self.base / "upper"
        prefix = b"user.overlay." if "userxattr" in self.options else b"trusted.overlay."
        marks = {"prefix": prefix, "index": self.base / "work/index"}
        with store.leases.acquire("test") as lease, self.mounted() as merged:
            sh(script)(merged)
            wanted = host_listing(merged)
            self.lines = [f"{change.kind} {os.fsdecode(change.path)}" for change in changes(upper, tree, **marks)]
            self.layer = commit_layer(store, upper, tree, lease=lease, **marks)
        tars = [self.ground.tar, self.ground.tar_of(self.layer)] if self.layer else [self.ground.tar]
        got = listing(apply(tars))
        if self.layer is None:  # the root's time alone is no change
            wanted[b""]["mtime_ns"] = got[b""]["mtime_ns"]
        return wanted, got


@pytest.fixture(params=OPTIONS)
def case(request, tmp_path, ground):
    return Case(tmp_path, ground, OPTIONS[request.param])


def sh(text):
    def run(place):
        subprocess.run(["sh", "-ec", text], cwd=place, check=True)

    return run


BASE = """
mkdir -p a/b/c d/e empty; echo 1 >a/one; echo 2 >a/b/two; echo 3 >a/b/c/three; echo 4 >d/four; echo 5 >d/e/five
ln a/one a/hard; ln -s a/one sym; mkfifo pipe; mknod dev c 1 3; setfattr -n user.x -v 1 a/one; echo big >big
truncate -s 3M big; chmod 4755 d/four; touch -d @1000000000.5 d/e/five; echo s >single
echo d >deep1; ln deep1 a/b/c/deep2; ln deep1 d/e/deep3
"""

SCRIPTS = {
    "new files": "echo n >new; mkdir n; echo m >n/m; ln -s x n/l; mkfifo n/p; mknod n/d b 8 1; chmod 1777 n",
    "deleted": "rm a/one; rm -r d; rm sym",
    "changed content": "echo more >>a/b/two; echo x >single",
    "changed mode and owner": "chmod 600 a/b/two; chown 7:8 d/four; touch -d @5 single; chmod 700 empty",
    "xattrs": "setfattr -n user.y -v 2 single; setfattr -x user.x a/one; setfattr -n user.z -v 3 a",
    "removed and made again": "rm -r a; mkdir a; echo new >a/one; mkdir a/b",
    "removed and made again empty": "rm -r a; mkdir a",
    "removed deep and made again": "rm -r a/b; mkdir a/b; echo t >a/b/two",
    "file over directory": "rm -r d; echo d >d",
    "directory over file": "rm single; mkdir single; echo x >single/x",
    "symlink over directory": "rm -r d; ln -s a d",
    "other types": "rm pipe; echo p >pipe; rm dev; mknod dev c 1 5; rm sym; ln -s other sym",
    "hard links": "ln single two; mkdir l; ln single l/three; echo h >h; ln h l/h",
    "hard links of the lower": "echo x >>a/one; rm a/hard",
    "moved file": "mv single moved; mv a/b/two d/two",
    "holes": "echo x >sparse; truncate -s 40M sparse; echo end >>sparse; truncate -s 1M big",
    "nothing": "true",
    "put back": "chmod 600 single; chmod 644 single; setfattr -n user.q -v 1 d/four; setfattr -x user.q d/four",
    "opened for writing": ": >>single; : >>a/b/two",
    "made and removed": "echo x >x; rm x; mkdir y; rmdir y",
}
MOVES = {
    "moved directory": "mv d moved",
    "moved twice and back": "mv d x; mv x y; mv y d",
    "moved below another": "mv d a/b/d; echo 1 >a/b/d/new; rm a/b/d/e/five",
    "nested moves": "mv a/b/c d/c; mv d x; mv x/e x/f; echo 1 >x/c/new; mv a z; rm z/b/two",
    "moved over a removed one": "rm -r d; mv a d; echo x >d/four",
    "moved and another in its place": "mv d x; mkdir d; echo n >d/four; mkdir d/e",
    "exchange": "mv a t; mv d a; mv t d",
    "chmod of a big file in a moved directory": "mkdir m; mv big m/big; chmod 600 m/big; mv m k; mv k/big k/large",
    "hard links in a moved directory": "mv a x; rm x/b/two; mv x/one x/uno",
}
LINKS = {
    "written by one name": "mkdir q; echo x >>a/one",
    "one name removed": "echo x >>a/one; rm a/one",
    "written, all removed": "echo x >>a/one; rm a/one a/hard",
    "chmod only": "chmod 600 a/hard",
    "one more name": "ln a/hard more",
    "put back": "chmod 600 a/hard; chmod 644 a/hard",
    "in a deep directory that is not touched": "echo x >>deep1",
    "its directory removed and made again": "echo x >>deep1; rm -r a; mkdir a",
    "in a moved directory": "echo x >>deep1; mv a z || true",
    "another name at the old place": "echo x >>a/one; rm a/one; echo n >a/one",
}


@pytest.mark.parametrize("name", LINKS)
def test_a_settled_upper_shows_the_same_without_its_index(tmp_path, ground, name):
    case = Case(tmp_path, ground, "engine")
    with case.mounted() as merged:
        sh(LINKS[name])(merged)
        wanted = host_listing(merged)
    settle(ground.tree, tmp_path / "upper", tmp_path / "work")
    for name in ("work", "merged"):
        shutil.rmtree(tmp_path / name)
    with ground.store.leases.acquire("test") as lease:
        layer = commit_layer(ground.store, tmp_path / "upper", ground.tree, lease=lease)
    got = listing(apply([ground.tar, ground.tar_of(layer)] if layer else [ground.tar]))
    assert {**got, b"": 0} == {**wanted, b"": 0}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_commit_gives_what_the_kernel_shows(case, name):
    wanted, got = case.change(SCRIPTS[name])
    assert got == wanted


@pytest.mark.parametrize("name", MOVES)
def test_moved_directories_are_committed_in_full(case, name):
    if case.options in (OPTIONS["plain"], OPTIONS["user"]):
        pytest.skip("without redirects mv copies")
    wanted, got = case.change(MOVES[name])
    assert got == wanted


@pytest.mark.parametrize("name", LINKS)
def test_hard_links_of_the_lower_stay_together(case, name):
    wanted, got = case.change(LINKS[name])
    assert got == wanted


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("nothing", []),
        ("put back", []),
        ("opened for writing", []),
        ("changed content", ["C /a", "C /a/b", "C /a/b/two", "C /single"]),
        ("file over directory", ["C /d"]),
        ("removed and made again empty", ["D /a"]),
        ("directory over file", ["C /single", "A /single/x"]),
        ("removed and made again", ["D /a", "C /a/b", "C /a/one"]),
    ],
)
def test_the_list_of_changes(case, name, lines):
    case.change(SCRIPTS[name])
    assert case.lines == lines
    if not lines:
        assert case.layer is None
