"""Reference 3.7: xattrs that look like overlayfs's own."""

from __future__ import annotations

import errno
import os
import struct

import pytest
from trees import directory, file
from worlds import World

pytestmark = pytest.mark.root

BASE = [file("f", b"x" * 9000, xattrs={"user.lower": b"1"}), directory("d"), file("d/f", b"x")]
base = pytest.mark.layers(BASE)


@base
@pytest.mark.parametrize(
    "name", ["trusted.overlay.opaque", "trusted.overlay.overlay.x", "user.overlay.opaque", "trusted.other"]
)
def test_a_users_xattr_is_stored_and_has_no_effect(world: World, name: str) -> None:
    os.setxattr(world.root / "d", name, b"y")
    world.remount()
    assert os.getxattr(world.root / "d", name) == b"y"
    assert name in os.listxattr(world.root / "d")
    assert os.listdir(world.root / "d") == ["f"]
    os.removexattr(world.root / "d", name)
    assert name not in os.listxattr(world.root / "d")


@base
def test_escaping_is_overlayfss(world: World) -> None:
    os.setxattr(world.root / "f", "trusted.overlay.redirect", b"/d/f")
    assert os.getxattr(world.upper / "f", "trusted.overlay.overlay.redirect") == b"/d/f"
    assert (world.root / "f").read_bytes() == b"x" * 9000


@base
def test_overlayfss_own_marks_are_hidden(world: World) -> None:
    (world.root / "f").chmod(0o600)
    assert os.listxattr(world.upper / "f") != []
    assert os.listxattr(world.root / "f") == ["user.lower"]
    with pytest.raises(OSError) as caught:
        os.getxattr(world.root / "f", "trusted.overlay.origin")
    assert caught.value.errno == errno.ENODATA


@base
def test_flags_and_missing_names(world: World) -> None:
    path = world.root / "f"
    with pytest.raises(FileExistsError):
        os.setxattr(path, "user.lower", b"2", os.XATTR_CREATE)
    for act in (lambda: os.setxattr(path, "user.no", b"2", os.XATTR_REPLACE), lambda: os.removexattr(path, "user.no")):
        with pytest.raises(OSError) as caught:
            act()
        assert caught.value.errno == errno.ENODATA
    os.setxattr(path, "user.lower", b"2", os.XATTR_REPLACE)
    os.removexattr(path, "user.lower")
    assert os.listxattr(path) == []


@base
def test_values_of_any_bytes_and_sizes(world: World) -> None:
    for value in (b"", b"\x00\xff" * 100, b"v" * 3000):
        os.setxattr(world.root / "f", "user.v", value)
        assert os.getxattr(world.root / "f", "user.v") == value


@base
def test_a_capability_is_seen_whoever_asked_before(world: World) -> None:
    """Each first write asks for it: of a new file, one that was copied up, and one that lost it by a write."""
    name, value = "security.capability", struct.pack("<IIIII", 0x02000000, 1 << 10, 0, 0, 0)
    (world.root / "new").write_bytes(b"x")
    with (world.root / "f").open("ab") as out:
        out.write(b"x")
    for path in (world.root / "new", world.root / "f", world.root / "f"):
        os.setxattr(path, name, value)
        assert os.getxattr(path, name) == value
        with path.open("ab") as out:
            out.write(b"x")
        with pytest.raises(OSError, match="No data"):
            os.getxattr(path, name)
    os.setxattr(world.root / "new", name, value)
    world.remount()
    assert os.getxattr(world.root / "new", name) == value
