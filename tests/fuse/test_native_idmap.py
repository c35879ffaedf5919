"""Ids shown otherwise than they are stored: engine `native` answers as the kernel's id-mapped mounts do."""

from __future__ import annotations

import errno
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
sys.path.insert(0, str(Path(__file__).parent))

from calls import acl
from limited import OptionBox
from mapped import BASE, CAPABILITY, View
from trees import Shelf, directory, file

from layerfs.layer.tree import Tree
from layerfs.store.root import StoreRoot

pytestmark = pytest.mark.root

OVERFLOW = 65_534
WAYS = ["native", "native, mapped by the kernel", "the kernel alone"]


@pytest.fixture
def lower(store: StoreRoot) -> Tree:
    return Shelf(store.path).tree(
        [
            directory("./", mode=0o777),
            file("f", b"f"),
            file("mine", b"mine", uid=1000, gid=1000),
            file("nobodys", b"nobodys", uid=70_000, gid=70_000),
            file("able", b"able", xattrs={"security.capability": CAPABILITY}),
            directory("d", uid=1000, gid=1000),
        ]
    )


@pytest.fixture(params=WAYS)
def view(request: pytest.FixtureRequest, store: StoreRoot, lower: Tree, tmp_path: Path) -> Iterator[View]:
    box = OptionBox(store, lower, tmp_path / "box")
    box.upper.chmod(0o777)
    made = View(request.param, box, tmp_path)
    yield made
    made.close()


def owners(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_uid, status.st_gid


def test_owners_are_shown_mapped(view: View) -> None:
    assert owners(view.root / "f") == (BASE, BASE)
    assert owners(view.root / "mine") == owners(view.root / "d") == (BASE + 1000, BASE + 1000)
    assert owners(view.root / "nobodys") == (OVERFLOW, OVERFLOW)
    assert {entry.name: entry.stat().st_uid for entry in os.scandir(view.root)} == {
        "f": BASE,
        "able": BASE,
        "mine": BASE + 1000,
        "d": BASE + 1000,
        "nobodys": OVERFLOW,
    }


def test_what_somebody_makes_is_stored_mapped_back(view: View) -> None:
    user = BASE + 7

    def make() -> None:
        os.close(os.open("new", os.O_CREAT | os.O_WRONLY))
        os.mkdir("dir")
        os.symlink("x", "link")
        os.mkfifo("fifo")
        os.link("new", "again")

    assert view.does(user, make) == 0
    for name in ("new", "dir", "link", "fifo"):
        assert owners(view.root / name) == (user, user)
        assert owners(view.stored / name) == (7, 7)


def test_who_has_no_stored_id_makes_nothing(view: View) -> None:
    for uid in (0, 5, BASE + 65_536):
        assert view.does(uid, lambda: os.close(os.open("new", os.O_CREAT | os.O_WRONLY))) == errno.EOVERFLOW
        assert view.does(uid, lambda: os.mkdir("new")) == errno.EOVERFLOW
    assert not (view.root / "new").exists()


def test_chown(view: View) -> None:
    os.chown(view.root / "f", BASE + 3, BASE + 4)
    assert owners(view.root / "f") == (BASE + 3, BASE + 4)
    assert owners(view.stored / "f") == (3, 4)
    for uid, gid in ((3, -1), (-1, 4), (BASE + 65_536, -1)):
        with pytest.raises(OSError) as caught:
            os.chown(view.root / "f", uid, gid)
        assert caught.value.errno == errno.EOVERFLOW
    os.chown(view.root / "nobodys", BASE, BASE)
    assert owners(view.stored / "nobodys") == (0, 0)


def test_what_belongs_to_nobody_here_stays_as_it_is(view: View) -> None:
    acts = [
        lambda: os.open("nobodys", os.O_WRONLY),
        lambda: os.truncate("nobodys", 0),
        lambda: os.chmod("nobodys", 0o600),
        lambda: os.utime("nobodys", (1, 1)),
        lambda: os.chown("nobodys", BASE, -1),
        lambda: os.setxattr("nobodys", "user.x", b"1"),
        lambda: os.link("nobodys", "again"),
        lambda: os.unlink("nobodys"),
        lambda: os.rename("nobodys", "elsewhere"),
        lambda: os.rename("f", "nobodys"),
    ]
    expected = ["EACCES", "EACCES", *["EOVERFLOW"] * 3, "EPERM", *["EOVERFLOW"] * 4]
    assert [errno.errorcode.get(view.does(0, act)) for act in acts] == expected
    assert (view.root / "nobodys").read_bytes() == b"nobodys"


def test_names_are_made_by_those_with_ids(view: View) -> None:
    for act in (lambda: os.link("f", "again"), lambda: os.rename("f", "elsewhere")):
        assert view.does(0, act) == errno.EOVERFLOW
    assert view.does(0, lambda: os.rename("f", "mine")) == 0
    assert view.does(BASE + 1, lambda: os.rename("mine", "elsewhere")) == 0


def test_access_is_judged_by_the_shown_owners(view: View) -> None:
    (view.root / "mine").chmod(0o600)
    read = lambda: os.close(os.open("mine", os.O_RDWR))  # noqa: E731
    assert view.does(BASE + 1000, read) == 0
    assert view.does(1000, read) == errno.EACCES
    assert view.does(BASE + 1000, lambda: os.chmod("mine", 0o640)) == 0
    assert view.does(BASE + 1000, lambda: os.chmod("f", 0o640)) == errno.EPERM
    assert view.does(BASE + 1000, lambda: os.close(os.open("d/new", os.O_CREAT))) == 0
    assert owners(view.stored / "d/new") == (1000, 1000)


def test_acls_name_the_shown_ids(view: View) -> None:
    given = acl(
        (1, 6, -1 & 0xFFFFFFFF),
        (2, 4, BASE + 7),
        (4, 4, 0xFFFFFFFF),
        (8, 4, BASE + 9),
        (16, 4, 0xFFFFFFFF),
        (32, 0, 0xFFFFFFFF),
    )
    kept = acl(
        (1, 6, -1 & 0xFFFFFFFF), (2, 4, 7), (4, 4, 0xFFFFFFFF), (8, 4, 9), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)
    )
    os.setxattr(view.root / "f", "system.posix_acl_access", given)
    assert os.getxattr(view.stored / "f", "system.posix_acl_access") == kept
    assert os.getxattr(view.root / "f", "system.posix_acl_access") == given
    assert view.does(BASE + 7, lambda: os.close(os.open("f", os.O_RDONLY))) == 0
    assert view.does(7, lambda: os.close(os.open("f", os.O_RDONLY))) == errno.EACCES


def test_capabilities_are_those_of_the_shown_root(view: View) -> None:
    ours = struct.pack("<6I", 0x3000001, 1 << 10, 0, 0, 0, BASE)
    assert os.getxattr(view.root / "able", "security.capability") == ours
    with pytest.raises(OSError) as caught:
        os.setxattr(view.root / "f", "security.capability", CAPABILITY)  # of a root that there is not
    assert caught.value.errno == errno.EINVAL
    os.setxattr(view.root / "f", "security.capability", ours)
    assert os.getxattr(view.root / "f", "security.capability") == ours
    assert os.getxattr(view.stored / "f", "security.capability")[20:] in (b"", bytes(4))
