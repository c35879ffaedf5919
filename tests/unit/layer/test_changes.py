"""Uppers made by hand: marks of both kinds, forged ones, and what a layer cannot hold."""

import os
import shutil
import socket
import stat
from pathlib import Path

import pytest

from layerfs.errors import Corrupt, InvalidInput
from layerfs.layer import Change, commit_layer, import_directory, merged_tree, open_layer, upper_entries
from layerfs.layer.changes import Step, changes, with_parents
from layerfs.layer.upper import TRUSTED, USER, UpperEntry
from tests.oracle.applier import apply, listing

pytestmark = pytest.mark.root


class World:
    """A lower tree `d/{one,two}`, `e/three`, `f`; and an empty upper."""

    def __init__(self, base, root, lease):
        self.root, self.lease = root, lease
        lower, self.upper = base / "lower", base / "upper"
        for name in ("d/one", "d/two", "e/three", "f"):
            (lower / name).parent.mkdir(parents=True, exist_ok=True)
            (lower / name).write_text(name)
        os.setxattr(lower / "f", "user.x", b"1")
        self.upper.mkdir()
        shutil.copystat(lower, self.upper)
        layer = import_directory(root, lower, lease=lease)
        self.base_tar = open_layer(root, layer.diff_id).read()
        self.tree = merged_tree(root, [layer.diff_id])

    def changes(self, prefix=TRUSTED):
        return [f"{change.kind} {os.fsdecode(change.path)}" for change in changes(self.upper, self.tree, prefix=prefix)]

    def entries(self, prefix=TRUSTED):
        return list(upper_entries(self.root, self.upper, self.tree, prefix=prefix))

    def commit(self, prefix=TRUSTED):
        return commit_layer(self.root, self.upper, self.tree, lease=self.lease, prefix=prefix)

    def paths(self, prefix=TRUSTED):
        """What is there after the commit is applied."""
        tar = open_layer(self.root, self.commit(prefix).diff_id).read()
        return {os.fsdecode(path) for path in listing(apply([self.base_tar, tar]))}

    def directory(self, name, **marks):
        path = self.upper / name
        path.mkdir(parents=True)
        for mark, value in marks.items():
            os.setxattr(path, mark.replace("_", "."), value)
        return path


@pytest.fixture
def world(tmp_path, root, lease):
    return World(tmp_path, root, lease)


def test_an_untouched_upper_is_no_layer(world):
    assert world.changes() == []
    assert world.commit() is None


def test_an_empty_lower_tree(world, root):
    (world.upper / "new").write_text("x")
    empty = merged_tree(root, [])
    assert list(changes(world.upper, empty)) == [Change("A", b"/new")]
    assert merged_tree(root, []).entries == 0


def test_device_whiteouts(world):
    os.mknod(world.upper / "f", stat.S_IFCHR, 0)
    world.directory("d")
    os.mknod(world.upper / "d/one", stat.S_IFCHR, 0)
    os.mknod(world.upper / "d/never", stat.S_IFCHR, 0)
    assert world.changes() == ["C /d", "D /d/one", "D /f"]
    assert world.paths() == {"", "/d", "/d/two", "/e", "/e/three"}


@pytest.mark.parametrize("prefix", [TRUSTED, USER])
def test_xattr_whiteouts_count_in_marked_directories_only(world, prefix):
    marks = os.fsdecode(prefix)
    (world.directory("d") / "one").touch()
    (world.directory("e") / "three").touch()
    os.setxattr(world.upper / "d", marks + "opaque", b"x")
    os.setxattr(world.upper / "d/one", marks + "whiteout", b"")
    os.setxattr(world.upper / "e/three", marks + "whiteout", b"")
    assert world.changes(prefix) == ["C /d", "D /d/one", "C /e", "C /e/three"]


@pytest.mark.parametrize("prefix", [TRUSTED, USER])
def test_opaque_directories(world, prefix):
    (world.directory("d") / "new").touch()
    os.setxattr(world.upper / "d", os.fsdecode(prefix) + "opaque", b"y")
    assert world.changes(prefix) == ["D /d", "A /d/new"]
    assert world.paths(prefix) == {"", "/d", "/d/new", "/e", "/e/three", "/f"}


def test_an_opaque_root(world):
    (world.upper / "new").touch()
    os.setxattr(world.upper, "trusted.overlay.opaque", b"y")
    assert world.changes() == ["D /d", "D /e", "D /f", "A /new"]
    assert world.paths() == {"", "/new"}


def test_marks_of_the_other_kind_are_plain_xattrs(world):
    world.directory("d", user_overlay_opaque=b"y")
    assert "/d/one" in world.paths()
    assert world.changes(TRUSTED) == ["C /d"]


def test_private_marks_stay_out_and_escaped_xattrs_are_unescaped(world):
    world.directory(
        "n",
        trusted_overlay_origin=b"o",
        trusted_overlay_impure=b"y",
        trusted_overlay_overlay_opaque=b"y",
        user_mine=b"1",
    )
    (entry,) = [entry for entry in world.entries() if entry.path == b"n"]
    assert dict(entry.xattrs) == {b"user.mine": b"1", b"trusted.overlay.opaque": b"y"}
    assert not entry.opaque
    tar = open_layer(world.root, world.commit().diff_id).read()
    assert b"trusted.overlay" not in tar


@pytest.mark.parametrize("redirect", [b"/e", b"e"])
def test_redirects(world, redirect):
    world.directory("moved", trusted_overlay_redirect=redirect)
    os.mknod(world.upper / "e", stat.S_IFCHR, 0)
    assert world.changes() == ["D /e", "A /moved", "A /moved/three"]
    assert world.paths() == {"", "/d", "/d/one", "/d/two", "/f", "/moved", "/moved/three"}


@pytest.mark.parametrize("redirect", [b"/nowhere", b"nowhere", b"../e", b"/d/../e", b"/d/one/x", b"d/one", b""])
def test_redirects_to_nothing_are_errors(world, redirect):
    world.directory("moved", trusted_overlay_redirect=redirect)
    with pytest.raises(Corrupt, match="/moved"):
        world.changes()


def test_metacopies_take_their_bytes_from_the_lower(world):
    path = world.upper / "f"
    path.touch()
    os.truncate(path, 1)
    shutil.copystat(world.upper.parent / "lower/f", path)
    os.setxattr(path, "trusted.overlay.metacopy", b"")
    assert world.changes() == []
    path.chmod(0o600)
    assert world.changes() == ["C /f"]
    tar = open_layer(world.root, world.commit().diff_id).read()
    got = listing(apply([world.base_tar, tar]))[b"/f"]
    assert got["data"][0].rstrip(b"\0") == b"f" and stat.S_IMODE(got["mode"]) == 0o600


def test_a_moved_metacopy_follows_its_redirect(world):
    path = world.upper / "g"
    path.touch()
    os.truncate(path, 5)
    os.setxattr(path, "trusted.overlay.metacopy", b"")
    os.setxattr(path, "trusted.overlay.redirect", b"/d/one")
    tar = open_layer(world.root, world.commit().diff_id).read()
    assert listing(apply([world.base_tar, tar]))[b"/g"]["data"][0].rstrip(b"\0") == b"d/one"


def test_a_metacopy_of_nothing_is_an_error(world):
    (world.upper / "g").touch()
    os.setxattr(world.upper / "g", "trusted.overlay.metacopy", b"")
    with pytest.raises(Corrupt, match="/g"):
        world.commit()


def test_names_that_would_be_whiteouts_are_named_in_the_error(world):
    """Fault case 7 (fuse-overlayfs 151)."""
    (world.directory("sub") / ".wh.test").touch()
    assert world.changes() == ["A /sub", "A /sub/.wh.test"]
    with pytest.raises(InvalidInput, match=r"/sub/\.wh\.test"):
        world.commit()
    assert not [path for path in world.lease.tmp.iterdir() if "-" in path.name]


def test_sockets_are_listed_but_not_archived(world):
    for name in ("new.sock", "f"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(world.upper / name))
    assert world.changes() == ["C /f", "A /new.sock"]
    assert world.paths() == {"", "/d", "/d/one", "/d/two", "/e", "/e/three"}


def test_equal_content_with_equal_attributes_is_no_change(world):
    world.directory("d")
    shutil.copy2(world.upper.parent / "lower/d/one", world.upper / "d/one")
    shutil.copystat(world.upper.parent / "lower/d", world.upper / "d")
    assert world.changes() == []
    (world.upper / "d/one").write_text("D/ONE")
    shutil.copystat(world.upper.parent / "lower/d/one", world.upper / "d/one")
    shutil.copystat(world.upper.parent / "lower/d", world.upper / "d")
    assert world.changes() == ["C /d", "C /d/one"]


def test_a_commit_that_only_changes_the_root(world):
    world.upper.chmod(0o711)
    assert world.changes() == []
    tar = open_layer(world.root, world.commit().diff_id).read()
    assert stat.S_IMODE(listing(apply([world.base_tar, tar]))[b""]["mode"]) == 0o711


def test_a_commit_is_reproducible_and_known_the_second_time(world):
    (world.upper / "new").write_text("x")
    assert world.commit() == world.commit()


def test_very_deep_uppers(world):
    path = world.directory("deep")
    here = os.open(path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("x", dir_fd=here)
        below = os.open("x", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    assert len(world.changes()) == 1501
    assert world.commit().entries == 1501


def step(path, kind):
    status = Path("/" if path.endswith(b"/") else "/etc/passwd").stat()
    return Step(path.rstrip(b"/"), kind, UpperEntry(None, b"", status, {}))


def test_parents_come_only_with_what_is_below_them():
    steps = [step(p, k) for p, k in [(b"a/", "="), (b"a/b/", "="), (b"a/b/c", "A"), (b"a/d/", "="), (b"a.x", "A")]]
    got = [found.path for found in with_parents(steps, lambda found: found.kind != "=")]
    assert got == [b"a", b"a/b", b"a/b/c", b"a.x"]
