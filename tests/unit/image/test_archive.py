"""Members of archives: links stay inside, everything strange is an InvalidArchive and never a hang."""

import os
import threading
from pathlib import Path

import pytest

from layerfs.errors import InvalidArchive
from layerfs.image.archive import Archive, DirectoryArchive, TarArchive, clean, read_member
from tests.unit.image.make import tar


def opened(tmp_path: Path, data: bytes, *, start: int = 0) -> TarArchive:
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(start) + data)
    return TarArchive(os.open(path, os.O_RDONLY), str(path), start=start)


@pytest.fixture(params=["tar", "directory"])
def archive(request, tmp_path: Path) -> Archive:
    (tmp_path / "outside").write_bytes(b"secret")
    files = {
        "d/": None,
        "d/f": b"data",
        "link": "d/f",
        "d/up": "../link",
        "abs": "/d/f",
        "loop": "loop",
        "out": "../outside",
        "dangling": "nowhere",
    }
    if request.param == "tar":
        return opened(tmp_path, tar(files))
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    for name, value in files.items():
        if isinstance(value, bytes):
            (top / name).write_bytes(value)
        elif isinstance(value, str):
            (top / name).symlink_to(value if name != "abs" else "d/f")
    return DirectoryArchive(top)


@pytest.mark.parametrize("name", ["d/f", "./d//f", "/d/f", "link", "d/up", "abs", "d/../link"])
def test_members_and_links_inside_are_read(archive: Archive, name: str) -> None:
    with archive:
        assert read_member(archive, name) == b"data" and archive.has(name)


@pytest.mark.parametrize("name", ["loop", "out", "dangling", "missing", "d", "../outside", "d/f/g"])
def test_nothing_else_is_read(archive: Archive, name: str) -> None:
    with archive, pytest.raises(InvalidArchive):
        read_member(archive, name)


def test_a_member_over_the_limit_is_refused(archive: Archive) -> None:
    with archive, pytest.raises(InvalidArchive, match="more than the 3 allowed"):
        read_member(archive, "d/f", limit=3)


def test_the_last_member_of_a_name_counts(tmp_path: Path) -> None:
    first, second = tar({"x": b"old"}), tar({"x": b"new"})
    with opened(tmp_path, first[:1024] + second) as archive:
        assert read_member(archive, "./x") == b"new"


def test_an_archive_may_begin_in_the_middle_of_a_file(tmp_path: Path) -> None:
    with opened(tmp_path, tar({"x": b"1"}), start=777) as archive:
        assert read_member(archive, "x") == b"1"


@pytest.mark.parametrize("data", [b"", b"no tar" * 200, tar({"x": bytes(5000)})[:2000]])
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidArchive, match="not a readable tar archive"):
        opened(tmp_path, data)


def test_two_threads_read_two_members_at_once(tmp_path: Path) -> None:
    files = {str(n): bytes([n]) * 700_000 for n in range(4)}
    with opened(tmp_path, tar(files)) as archive:
        found: dict[str, bytes] = {}
        threads = [threading.Thread(target=lambda n=n: found.update({n: archive.open(n).read()})) for n in files]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == files


def test_a_fifo_in_a_directory_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with DirectoryArchive(tmp_path) as archive, pytest.raises(InvalidArchive, match="not a regular file"):
        archive.open("pipe")


def test_names_are_cleaned_by_text() -> None:
    assert [clean(name) for name in ("./a", "/a/../../b", "a//b/", ".", "//a")] == ["a", "b", "a/b", "", "a"]
