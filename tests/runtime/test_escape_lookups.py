"""Hostile files where names are looked up: /etc/passwd and /etc/group that are huge, binary, links, FIFOs, devices."""

from __future__ import annotations

import os
import socket
import time

import pytest

from layerfs.errors import RunError


@pytest.fixture(params=["passwd", "group"])
def place(request, root):
    path = root / "etc" / request.param
    path.unlink()
    return path


def quickly(action):
    begin = time.monotonic()
    result = action()
    assert time.monotonic() - begin < 20
    return result


@pytest.mark.parametrize(
    "kind", ["fifo", "socket", "directory", "zero", "tty", "loop", "dangling", "magic", "fd", "outside"]
)
def test_what_is_no_file_counts_as_absent(box, place, tmp_path, kind):
    """CVE-2024-9676 and others: a FIFO would block for ever, a device fill the memory, a link read the host's file."""
    (tmp_path / "hosts-own").write_text("evil:x:0:0::/:\nstaff:x:77:\n")
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "socket":
        here = os.open(place.parent, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{here}/{place.name}")
        os.close(here)
    elif kind == "directory":
        place.mkdir()
    elif kind in ("zero", "tty"):
        os.mknod(place, 0o20666, os.makedev(*((1, 5) if kind == "zero" else (5, 0))))
    else:
        targets = {"loop": place.name, "dangling": "/nowhere", "magic": "/proc/self/environ", "fd": "/proc/self/fd/0"}
        place.symlink_to(targets.get(kind, tmp_path / "hosts-own"))
    said = quickly(lambda: box("grep -E '^[UG]id' /proc/self/status", user="5:6")).stdout.split()
    assert said == [b"Uid:", *[b"5"] * 4, b"Gid:", *[b"6"] * 4]
    with pytest.raises(RunError, match="unable to find"):
        quickly(lambda: box("id", user="evil" if place.name == "passwd" else "5:staff"))


def test_a_huge_file_is_an_error(box, place):
    with place.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(RunError, match="too large"):
        quickly(lambda: box("id", user="bob" if place.name == "passwd" else "0:staff"))


@pytest.mark.parametrize(
    "data",
    [
        *(b"\0" * 5000, b":" * 100_000, b"\n" * 100_000, b"bob", b"bob:::::::::::\n", b"bob:x:-1:-1:::\n"),
        *(b"bob:x:99999999999999999999:0:::\n", b"bob:x:4294967295:0:::\n", os.urandom(3000), b"bob:x:1e3:0x10:::\n"),
    ],
    ids=range(10),
)
def test_binary_and_absurd_lines_give_no_strange_ids(box, place, data):
    """moby and runc took such ids for 0, or wrapped them round (CVE-2016-3697: a name of digits)."""
    place.write_bytes(data)
    who = "bob" if place.name == "passwd" else "5:bob"
    try:
        result = quickly(lambda: box("id -u; id -g", user=who))
    except RunError:
        return
    uid, gid = map(int, result.stdout.split())
    assert 0 <= uid < 2**31
    assert 0 <= gid < 2**31


def test_cve_2016_3697_a_number_is_a_number_first(box, root):
    (root / "etc/passwd").write_text("1000:x:0:0::/root:/bin/sh\nroot:x:0:0::/root:/bin/sh\n")
    said = box("id -u", user="1000").stdout
    assert said in (b"1000\n", b"0\n")


def test_an_etc_that_is_a_link_out_is_looked_up_inside(box, root, tmp_path):
    (root / "etc").rename(root / "real")
    (root / "etc").symlink_to("../" * 20 + "real")
    assert box("id -u", user="bob").stdout == b"1000\n"


def test_supplementary_groups_are_the_images_only(box):
    """CVE-2022-2989, 2990: none of the caller's."""
    before = os.getgroups()
    os.setgroups([0, 4, 20])
    try:
        assert box("id -G", user="bob").stdout.split() == [b"1001", b"50"]
        assert box("id -G", user="1234:55").stdout.split() == [b"55"]
    finally:
        os.setgroups(before)
