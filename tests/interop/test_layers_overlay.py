"""Commits of uppers that the kernel's overlayfs wrote, judged by the oracle: apply(commit(a, b), a) = b."""

import contextlib
import ctypes
import io
import os
import subprocess

import pytest

from layerfs.layer import merged_tree, write_layer
from layerfs.layer.changes import changes
from layerfs.layer.commit import commit_layer, import_directory
from layerfs.store import StoreRoot
from tests.oracle.applier import apply, listing
from tests.oracle.host import host_listing

pytestmark = pytest.mark.root
libc = ctypes.CDLL(None, use_errno=True)
OPTIONS = {
    "plain": "redirect_dir=off,metacopy=off,index=off",
    "redirect": "redirect_dir=on,metacopy=off,index=off",
    "metacopy": "redirect_dir=on,metacopy=on,index=off",
    "user": "userxattr",
}


@contextlib.contextmanager
def overlay(base, options):
    """lower/ with upper/ mounted on merged/, as the kernel does it."""
    for name in ("lower", "upper", "work", "merged"):
        (base / name).mkdir(exist_ok=True)
    data = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work,{options}".encode()
    if libc.mount(b"overlay", os.fsencode(base / "merged"), b"overlay", 0, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    try:
        yield base / "merged"
    finally:
        libc.umount2(os.fsencode(base / "merged"), 2)


class Case:
    """A lower directory in the store, changed through the kernel's overlayfs, committed and applied."""

    def __init__(self, tmp_path, options):
        self.base, self.options = tmp_path, options
        self.lower = tmp_path / "lower"
        self.lower.mkdir()
        self.store = StoreRoot.open(tmp_path / "store")

    def change(self, script):
        with self.store.leases.acquire("test") as lease:
            base = import_directory(self.store, self.lower, lease=lease)
            prefix = b"user.overlay." if "userxattr" in self.options else b"trusted.overlay."
            with overlay(self.base, self.options) as merged:
                script(merged)
                wanted = host_listing(merged)
            tree = merged_tree(self.store, [base.diff_id])
            self.lines = [f"{c.kind} {os.fsdecode(c.path)}" for c in changes(self.base / "upper", tree, prefix=prefix)]
            layer = commit_layer(self.store, self.base / "upper", tree, lease=lease, prefix=prefix)
            self.tars = [self.tar(base), self.tar(layer)] if layer else [self.tar(base)]
            got = listing(apply(self.tars))
            if layer is None:  # the root's time alone is no change
                wanted[b""]["mtime_ns"] = got[b""]["mtime_ns"]
            return wanted, got

    def tar(self, layer):
        sink = io.BytesIO()
        write_layer(self.store, layer.diff_id, sink)
        return sink.getvalue()


@pytest.fixture(params=OPTIONS)
def case(request, tmp_path):
    made = Case(tmp_path, OPTIONS[request.param])
    yield made
    made.store.close()


def sh(text):
    def run(place):
        subprocess.run(["sh", "-ec", text], cwd=place, check=True)

    return run


BASE = """
mkdir -p a/b/c d/e empty; echo 1 >a/one; echo 2 >a/b/two; echo 3 >a/b/c/three; echo 4 >d/four; echo 5 >d/e/five
ln a/one a/hard; ln -s a/one sym; mkfifo pipe; mknod dev c 1 3; setfattr -n user.x -v 1 a/one; echo big >big
truncate -s 3M big; chmod 4755 d/four; touch -d @1000000000.5 d/e/five; echo s >single
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


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_commit_gives_what_the_kernel_shows(case, name):
    sh(BASE)(case.lower)
    wanted, got = case.change(sh(SCRIPTS[name]))
    assert got == wanted


@pytest.mark.parametrize("name", MOVES)
def test_moved_directories_are_committed_in_full(case, name):
    if "redirect_dir=on" not in case.options:
        pytest.skip("without redirects mv copies")
    sh(BASE)(case.lower)
    wanted, got = case.change(sh(MOVES[name]))
    assert got == wanted


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("nothing", []),
        ("put back", []),
        ("opened for writing", []),
        ("changed content", ["C /a", "C /a/b", "C /a/b/two", "C /single"]),
        ("file over directory", ["C /d"]),
        ("removed and made again empty", ["C /a", "D /a/b", "D /a/hard", "D /a/one"]),
        ("directory over file", ["C /single", "A /single/x"]),
    ],
)
def test_the_list_of_changes(case, name, lines):
    sh(BASE)(case.lower)
    case.change(sh(SCRIPTS[name]))
    assert case.lines == lines
    if not lines:
        assert len(case.tars) == 1
