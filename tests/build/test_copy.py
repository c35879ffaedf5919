"""COPY and ADD: what goes where, with which owner and mode (BuildKit's rules). Nothing is mounted."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

import layerfs
from layerfs.errors import InvalidInput, NotFound
from tests.build.conftest import Build, read, tree

FILES = {"a.txt": "a", "b.txt": "b", "d/x": "x", "d/sub/y": "y", "d/link ->": "x"}


def names(image: layerfs.Image) -> list[str]:
    return [name for name, (mode, _, _) in tree(image).items() if not stat.S_ISDIR(mode)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("COPY d /c1", ["c1/link", "c1/sub/y", "c1/x"]),
        ("COPY d/ /c2/", ["c2/link", "c2/sub/y", "c2/x"]),
        ("COPY . /all/", ["all/Dockerfile", "all/a.txt", "all/b.txt", "all/d/link", "all/d/sub/y", "all/d/x"]),
        ("COPY a.txt /new/sub/file", ["new/sub/file"]),
        ("COPY a.txt /dirslash/", ["dirslash/a.txt"]),
        ("COPY *.txt /w/", ["w/a.txt", "w/b.txt"]),
        ("COPY ?.txt d/[x-z] /w/", ["w/a.txt", "w/b.txt", "w/x"]),
        ("COPY d/**/y /w/", ["w/y"]),
        ("COPY nothing* /w/", []),
        ("COPY ../../a.txt /x", ["x"]),
        ("COPY --parents ./d/sub/y a.txt /p/", ["p/a.txt", "p/d/sub/y"]),
        ("COPY --parents ./d/./sub/y /p/", ["p/sub/y"]),
        ("COPY --exclude=sub --exclude=l* d /e/", ["e/x"]),
        ("COPY --exclude=b* *.txt /e/", ["e/a.txt"]),
        ("COPY --link d/x /l/m/", ["l/m/x"]),
        ("COPY d/link /followed", ["followed"]),
        ("ADD a.txt b.txt /several/", ["several/a.txt", "several/b.txt"]),
        ("WORKDIR /w/d\nCOPY a.txt .", ["w/d/a.txt"]),
        ("WORKDIR /w\nCOPY a.txt sub/b", ["w/sub/b"]),
        ("COPY <<one <<two /h/\n1\none\n2\ntwo", ["h/one", "h/two"]),
    ],
)
def test_what_goes_where(build: Build, line: str, expected: list[str]) -> None:
    assert names(build(f"FROM scratch\n{line}\n", FILES)) == expected


def test_made_directories_are_0755_of_root_whatever_the_umask(build: Build) -> None:
    before = os.umask(0o077)
    try:
        found = tree(build("FROM scratch\nCOPY a.txt /new/sub/umask\n", FILES))
    finally:
        os.umask(before)
    assert found["new"] == found["new/sub"] == (stat.S_IFDIR | 0o755, 0, 0)


def test_the_owner_of_a_contexts_file_is_root(build: Build, tmp_path: Path) -> None:
    place = tmp_path / "context"
    place.mkdir()
    (place / "mine").write_text("owner")
    if os.geteuid() == 0:
        os.chown(place / "mine", 1234, 1234)
    assert tree(build("FROM scratch\nCOPY mine /\n"))["mine"][1:] == (0, 0)


@pytest.mark.parametrize(
    ("chown", "owner"), [("1000", (1000, 1000)), ("bob", (1000, 1001)), ("bob:staff", (1000, 50)), ("7:bob", (7, 1001))]
)
def test_chown_looks_names_up_in_the_image(build: Build, chown: str, owner: tuple[int, int]) -> None:
    found = tree(build(f"FROM box:1\nCOPY --chown={chown} d /owned/by/\n", FILES))
    assert {found[name][1:] for name in ("owned", "owned/by", "owned/by/x", "owned/by/sub/y")} == {owner}


def test_chown_of_an_unknown_name_is_an_error(build: Build) -> None:
    with pytest.raises(InvalidInput, match=r"Dockerfile:2: .*can't find uid for user nobody9"):
        build("FROM box:1\nCOPY --chown=nobody9 d /owned\n", FILES)


@pytest.mark.parametrize(
    ("chmod", "mode"), [("700", 0o700), ("u=rwX,go=rX", 0o644), ("+x", 0o755), ("a-w,u+s", 0o4444), ("g=u", 0o664)]
)
def test_chmod_is_octal_or_symbolic(build: Build, tmp_path: Path, chmod: str, mode: int) -> None:
    place = tmp_path / "context/f"
    place.parent.mkdir()
    place.write_text("mode")
    place.chmod(0o644)
    assert tree(build(f"FROM scratch\nCOPY --chmod={chmod} f /f\n"))["f"][0] == stat.S_IFREG | mode


def test_chmod_and_chown_hold_for_made_parents_too(build: Build) -> None:
    found = tree(build("FROM box:1\nCOPY --chown=bob --chmod=600 a.txt /cc/f\n", FILES))
    assert found["cc"] == (stat.S_IFDIR | 0o600, 1000, 1001)


def test_a_destination_behind_a_symlink_is_followed_inside(build: Build) -> None:
    files = {"root/real/": "", "root/lnk ->": "/real", "root/up ->": "../../../real", "a": "a"}
    image = build("FROM scratch\nCOPY root /\nCOPY a /lnk/viaLink\nCOPY a /up/viaDots\n", files)
    assert {"real/viaLink", "real/viaDots"} <= set(tree(image))


def test_hard_links_stay_together(build: Build, tmp_path: Path) -> None:
    place = tmp_path / "context/d"
    place.mkdir(parents=True)
    (place / "one").write_text("linked")
    os.link(place / "one", place / "two")
    image = build("FROM scratch\nCOPY d /\n")
    found = image.tree().resolve(b"two")
    assert found is not None and found.nlink == 2


def test_existing_directories_keep_what_they_have_at_the_top_only(build: Build, tmp_path: Path) -> None:
    for name, mode in (("old", 0o711), ("old/in", 0o711), ("new", 0o770), ("new/in", 0o770)):
        place = tmp_path / "context" / name
        place.mkdir(parents=True)
        place.chmod(mode)
    found = tree(build("FROM scratch\nCOPY --parents old /\nCOPY new /old\n"))
    assert [stat.S_IMODE(found[name][0]) for name in ("old", "old/in")] == [0o711, 0o770]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("COPY a.txt /d/x/\nCOPY d/sub /d/x/a.txt", "cannot copy to non-directory: /d/x/a.txt"),
        ("COPY d/sub /q/y\nCOPY d/sub/y /q/\n", "cannot replace to directory /q/y with file"),
        ("COPY a.txt b.txt /one", "the destination must be a directory and end with a /"),
        ("COPY *.txt /one", "the destination must be a directory and end with a /"),
        ("COPY a.txt /f\nCOPY b.txt /f/g", "mkdir /f: not a directory"),
        ("COPY --chmod=9 a.txt /", "invalid chmod parameter: '9'"),
    ],
)
def test_what_cannot_be(build: Build, lines: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build(f"FROM scratch\n{lines}\n", FILES)


def test_a_missing_source_is_told_with_its_line(build: Build) -> None:
    with pytest.raises(NotFound, match=r'Dockerfile:3: failed to compute cache key: "/nofile": not found'):
        build("FROM scratch\n\nCOPY nofile /x\n")


def _archive(mode: str, name: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:  # type: ignore[call-overload]
        info = tarfile.TarInfo(name)
        info.size, info.uid, info.gid, info.mode = 3, 5, 5, 0o640
        tar.addfile(info, io.BytesIO(b"tar"))
    return data.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_add_unpacks_archives_by_content(build: Build, mode: str) -> None:
    data = _archive(mode, "in/file")
    image = build("FROM scratch\nADD t /ta/\nCOPY t /tc/\nADD --unpack=false t /td/\n", {"t": data})
    assert tree(image)["ta/in/file"] == (stat.S_IFREG | 0o640, 5, 5)
    assert read(image, "tc/t") == read(image, "td/t") == data


def test_an_archive_writes_through_a_directory_link_only_where_it_has_no_entry(build: Build) -> None:
    files = {"root/usr/lib/": "", "root/lib ->": "usr/lib"}
    found = tree(build("FROM scratch\nCOPY root /\nADD t /\n", {**files, "t": _archive("w", "lib/x")}))
    assert "usr/lib/x" in found and stat.S_ISLNK(found["lib"][0])


def test_from_a_stage_keeps_owners_and_takes_names_and_numbers(build: Build) -> None:
    image = build(
        "FROM box:1 AS one\nCOPY --chown=bob a.txt /a\nFROM scratch\nCOPY --from=one /a /by/name\n"
        "COPY --from=0 /a /by/number\nCOPY --from=box:1 /etc/passwd /by/image\n",
        FILES,
    )
    assert tree(image)["by/name"][1:] == (1000, 1001)
    assert names(image) == ["by/image", "by/name", "by/number"]


def test_link_looks_at_nothing_below_and_its_layer_serves_every_base(build: Build, store: layerfs.Store) -> None:
    files = {"f": "linked layer", "other": "another base"}
    one = build("FROM scratch\nCOPY --link f /x/f\n", files)
    two = build("FROM scratch\nCOPY other /x/other\nCOPY --link f /x/f\n", files)
    assert one.record.diff_ids[-1] == two.record.diff_ids[-1]
    assert names(two) == ["x/f", "x/other"]


def test_an_archive_that_climbs_stays_below_its_destination(build: Build) -> None:
    image = build("FROM scratch\nADD t /x/\n", {"t": _archive("w", "../../../climbs")})
    assert names(image) == ["x/climbs"]


def test_a_broken_archive_is_told_with_its_name(build: Build) -> None:
    with pytest.raises(InvalidInput, match=r"Dockerfile:2: .*\(in /t\)"):
        build("FROM scratch\nADD t /x/\n", {"t": _archive("w", "whole")[:600]})
