"""`-u` forms against an image's passwd and group, and images that lie."""

import os

import pytest

from layerfs.errors import RunError
from layerfs.runtime import user as module
from layerfs.runtime.user import resolve_user

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1001::/home/bob:/bin/sh\n42:x:7:8::/seven:\nhomeless:x:9:9:::\n"
GROUP = b"root:x:0:\nbob:x:1001:\nstaff:x:50:root,bob\naudio:x:29:alice,bob\n"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_bytes(PASSWD)
    (tmp_path / "etc/group").write_bytes(GROUP)
    return tmp_path


CASES = [
    (b"", (0, 0, (0, 50), b"/root")),
    (b"root", (0, 0, (0, 50), b"/root")),
    (b"bob", (1000, 1001, (1001, 50, 29), b"/home/bob")),
    (b"1000", (1000, 1001, (1001, 50, 29), b"/home/bob")),
    (b"bob:audio", (1000, 29, (29,), b"/home/bob")),
    (b"bob:50", (1000, 50, (50,), b"/home/bob")),
    (b"1234", (1234, 0, (0,), b"/")),
    (b"1234:99", (1234, 99, (99,), b"/")),
    (b"42", (7, 8, (8,), b"/seven")),  # a name of digits is a name first
    (b"homeless", (9, 9, (9,), b"/")),
    (b":staff", (0, 50, (50,), b"/root")),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_user_forms(root, text, expected):
    who = resolve_user(root, text)
    assert (who.uid, who.gid, who.groups, who.home) == expected


def test_without_a_passwd_file_numbers_still_work(tmp_path):
    assert resolve_user(tmp_path, b"5:6").gid == 6
    assert resolve_user(tmp_path, b"").home == b"/root"


def test_an_unknown_user_in_dockers_words(root):
    with pytest.raises(RunError, match="unable to find user nobodyx: no matching entries in passwd file"):
        resolve_user(root, b"nobodyx")


def test_an_unknown_group_in_dockers_words(root):
    with pytest.raises(RunError, match="unable to find group nix: no matching entries in group file"):
        resolve_user(root, b"bob:nix")


@pytest.mark.parametrize("text", [b"2147483648", b"1:2147483648", b"99999999999999999999", b"-1"])
def test_ids_out_of_range_are_refused(root, text):
    with pytest.raises(RunError):
        resolve_user(root, text)


def test_a_passwd_that_links_out_of_the_root_is_looked_up_inside(root, tmp_path_factory):
    outside = tmp_path_factory.mktemp("host") / "passwd"
    outside.write_bytes(b"evil:x:0:0::/:\n")
    (root / "etc/passwd").unlink()
    for target in (str(outside), "../" * 20 + str(outside)[1:]):
        (root / "etc/passwd").symlink_to(target)
        with pytest.raises(RunError, match="unable to find user evil"):
            resolve_user(root, b"evil")
        (root / "etc/passwd").unlink()


def test_a_passwd_behind_links_inside_the_root_is_found(root):
    (root / "usr/lib").mkdir(parents=True)
    (root / "etc/passwd").rename(root / "usr/lib/passwd")
    (root / "etc/passwd").symlink_to("/usr/../../usr/lib/passwd")
    assert resolve_user(root, b"bob").uid == 1000


@pytest.mark.parametrize("make", ["fifo", "directory", "loop"])
def test_a_passwd_that_is_no_file_is_no_passwd(root, make):
    (root / "etc/passwd").unlink()
    if make == "fifo":
        os.mkfifo(root / "etc/passwd")
    elif make == "directory":
        (root / "etc/passwd").mkdir()
    else:
        (root / "etc/passwd").symlink_to("passwd")
    assert resolve_user(root, b"77").uid == 77


def test_a_giant_passwd_is_an_error_and_not_memory(root, monkeypatch):
    monkeypatch.setattr(module, "FILE_MAX", 100)
    (root / "etc/passwd").write_bytes(b"x" * 101)
    with pytest.raises(RunError, match="file too large"):
        resolve_user(root, b"bob")


def test_lines_that_are_not_entries_do_no_harm(root):
    (root / "etc/passwd").write_bytes(b"\n\n:::\nnonsense\n\xff\xfe:x:12:13::/x:\nbob:x:1000:1::/b:\n")
    assert resolve_user(root, b"bob").uid == 1000
    assert resolve_user(root, b"\xff\xfe").uid == 12
