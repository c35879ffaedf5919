"""`cp`: docker's table of what lands where, and links that lead out of the container."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from layerfs.errors import InvalidArchive, InvalidInput, NotFound
from tests.cli.test_life import FOREVER, ready

pytestmark = pytest.mark.root
TREE = "mkdir -p /d/e /links; echo one > /d/e/f; echo two > /g; ln -s ../g /links/to-g; ln -s / /links/root; "


@pytest.fixture(params=["running", "stopped"])
def box(shell, request):
    box = shell(TREE + FOREVER)
    box.start()
    assert ready(box)
    if request.param == "stopped":
        box.stop()
    return box


def names(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


def test_what_lands_where_outside(box, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    for source, target in (("/d", "there"), ("/d/.", "contents"), ("/d", "new"), ("/g", "there"), ("/g", "file")):
        box.copy_out(source, str(tmp_path / target))
    assert names(there) == ["d", "d/e", "d/e/f", "g"]
    assert names(tmp_path / "contents") == names(tmp_path / "new") == ["e", "e/f"]
    assert (tmp_path / "file").read_text() == "two\n"
    with pytest.raises(InvalidInput, match="cannot copy directory"):
        box.copy_out("/d", str(tmp_path / "file"))
    with pytest.raises(NotFound, match="no such directory"):
        box.copy_out("/g", f"{tmp_path}/nosuch/")
    with pytest.raises(NotFound, match=r"Could not find the file /nosuch in container"):
        box.copy_out("/nosuch", str(tmp_path))


def test_what_lands_where_inside(box, tmp_path):
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/file").write_text("three\n")
    (tmp_path / "in/sub/file").chmod(0o4711)
    box.copy_in(str(tmp_path / "in"), "/d")
    box.copy_in(f"{tmp_path}/in/.", "/d/e")
    box.copy_in(str(tmp_path / "in/sub/file"), "/g")
    back = io.BytesIO()
    box.copy_out("/d", back)
    back.seek(0)
    with tarfile.open(fileobj=back) as archive:
        assert sorted(archive.getnames()) == sorted(
            ["d", "d/e", "d/e/f", "d/e/sub", "d/e/sub/file", "d/in", "d/in/sub", "d/in/sub/file"]
        )
        assert archive.getmember("d/in/sub/file").mode == 0o4711
    box.copy_out("/g", str(tmp_path / "g"))
    assert (tmp_path / "g").read_text() == "three\n"
    assert (tmp_path / "g").stat().st_mode & 0o7777 == 0o711  # no set-id file comes out by the way
    box.copy_out("/g", str(tmp_path / "kept"), archive=True)
    assert (tmp_path / "kept").stat().st_mode & 0o7777 == 0o4711


def test_links_of_a_container_stay_inside(box, tmp_path):
    """CVE-2018-15664: the container's links are looked up in its own root, whoever follows them."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("host\n")
    evil = tarfile_of(symlink("evil", str(secret)), symlink("up", "../" * 30 + str(secret)[1:]))
    box.copy_in(evil, "/")
    for path in (f"{secret}/file", "/evil/file", "/up/file"):
        with pytest.raises(NotFound):
            box.copy_out(path, str(tmp_path / "out"))
    (tmp_path / "mine").write_text("mine\n")
    for path in ("/evil/new", "/up/new", "/evil/"):
        with pytest.raises(NotFound):
            box.copy_in(str(tmp_path / "mine"), path)
    assert names(secret) == ["file"]
    box.copy_out("/evil", str(tmp_path / "link"))
    assert (tmp_path / "link").readlink() == secret
    box.copy_out("/links/to-g", str(tmp_path / "followed"), follow=True)
    assert (tmp_path / "followed").read_text() == "two\n"


def tarfile_of(*members):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    raw.seek(0)
    return raw


def symlink(name, to):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, to
    return member, b""


def file(name, data=b"x"):
    return tarfile.TarInfo(name), data


def hard_link(name, to):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.LNKTYPE, to
    return member, b""


@pytest.mark.parametrize(
    "members",
    [
        [file("../../climbs")],
        [symlink("link", "/tmp"), file("link/through")],
        [symlink("link", "../../../.."), file("link/etc/through")],
        [hard_link("hard", "../../../../etc/passwd")],
        [symlink("link", "/etc"), hard_link("hard", "link/passwd")],
    ],
)
def test_hostile_archives_are_refused(shell, members, tmp_path):
    box = shell("true")
    with pytest.raises(InvalidArchive):
        box.copy_in(tarfile_of(*members), "/")
    assert not Path("/tmp/through").exists()
    assert not Path("/etc/through").exists()


def test_a_file_replaces_a_link_and_not_what_it_leads_to(shell, tmp_path):
    box = shell("true")
    victim = tmp_path / "victim"
    victim.write_text("host\n")
    box.copy_in(tarfile_of(symlink("link", str(victim)), file("link", b"new")), "/")
    box.copy_out("/link", str(tmp_path / "out"))
    assert ((tmp_path / "out").read_text(), victim.read_text()) == ("new", "host\n")


def test_devices_do_not_come_out(shell, tmp_path):
    box = shell("true")
    member = tarfile.TarInfo("dev/sda")
    member.type, member.devmajor, member.devminor = tarfile.BLKTYPE, 8, 0
    box.copy_in(tarfile_of((member, b""), file("dev/plain")), "/")
    box.copy_out("/dev", str(tmp_path / "dev"))
    assert names(tmp_path / "dev") == ["plain"]


def test_what_changes_meanwhile_cannot_lead_out(shell, tmp_path):
    """A container that swaps a directory for a link, over and over, while files are copied into it."""
    (tmp_path / "host").mkdir()
    (tmp_path / "files").mkdir()
    for number in range(20):
        (tmp_path / f"files/{number}").write_text("x")
    link = str(tmp_path / "host")
    swap = f"while :; do mkdir /x 2>/dev/null; rm -rf /x; ln -s {link} /x; rm -f /x; mkdir /x/sub 2>/dev/null; done"
    box = shell(f"echo ready; {swap}")
    box.start()
    assert ready(box)
    for _ in range(20):
        try:
            box.copy_in(str(tmp_path / "files"), "/x")
            box.copy_out("/x", str(tmp_path / "out"))
        except OSError:
            continue
    assert names(tmp_path / "host") == []


def test_the_command(box, layerfs_command, tmp_path):
    done = layerfs_command("cp", f"{box.name}:/d", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert archive.getnames() == ["d", "d/e", "d/e/f"]
    assert layerfs_command("cp", "-", f"{box.name}:/d", input=done.stdout).returncode == 0
    assert layerfs_command("cp", f"{box.name}:/d/d/e/f", str(tmp_path / "f")).stdout == b""
    assert (tmp_path / "f").read_text() == "one\n"
    missing = layerfs_command("cp", f"{box.name}:/nosuch", ".")
    assert (missing.returncode, b"Could not find the file /nosuch in container" in missing.stderr) == (1, True)
