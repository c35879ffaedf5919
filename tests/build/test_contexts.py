"""Contexts: directories with hostile things in them, tars, streams, named ones, and what .dockerignore leaves."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import tarfile
import threading
import time
from pathlib import Path

import pytest

import layerfs
from layerfs.build.context import DirectoryFiles
from layerfs.errors import InUse, InvalidDockerfile, InvalidInput, NotFound, Unsupported
from tests.build.conftest import Build, read, tree, write_files

IGNORED = {"n/k": "k", "n/l": "l", "x.log": "x", "n/deep/y.log": "y", "b2.txt": "b", "keep.txt": "keep"}


def names(image: layerfs.Image) -> list[str]:
    return sorted(name for name, (mode, _, _) in tree(image).items() if mode & 0o40000 == 0)


def test_dockerignore(build: Build) -> None:
    rules = "# comment\nn/*\n!n/k\n**/*.log\n/b2.txt\nDockerfile\n.dockerignore\n"
    assert names(build("FROM scratch\nCOPY . /\n", {**IGNORED, ".dockerignore": rules})) == ["keep.txt", "n/k"]


def test_an_ignored_file_cannot_be_copied(build: Build) -> None:
    with pytest.raises(NotFound, match=r'"/keep\.txt": not found'):
        build("FROM scratch\nCOPY keep.txt /\n", {**IGNORED, ".dockerignore": "keep.txt"})


def test_a_dockerfiles_own_ignore_file_goes_first(build: Build) -> None:
    files = {**IGNORED, ".dockerignore": "*", "Dockerfile.dockerignore": "n\n*.log\nDocker*\n.docker*\nb2.txt\n"}
    assert names(build("FROM scratch\nCOPY . /\n", files)) == ["keep.txt"]


def test_links_out_of_the_context_lead_nowhere(build: Build, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("outside")
    for target in (str(tmp_path / "secret"), "../secret", "/etc/hostname"):
        with pytest.raises(NotFound, match='"/out": not found'):
            build("FROM scratch\nCOPY out /x\n", {"out ->": target})
        (tmp_path / "context/out").unlink()
    image = build("FROM scratch\nCOPY d /d\n", {"d/out ->": "../../secret"})
    assert image.tree().readlink(image.tree().resolve(b"d/out")) == b"../../secret"  # type: ignore[arg-type]


def test_a_directory_that_is_swapped_for_a_link_is_noticed(tmp_path: Path) -> None:
    place = write_files(tmp_path / "c", {"d/f": "inside"})
    outside = write_files(tmp_path / "o", {"f": "outside"})
    with DirectoryFiles(place) as files:
        directory = files.child(files.root, b"d")
        assert directory is not None
        (place / "d").rename(place / "moved")
        (place / "d").symlink_to(outside)
        with pytest.raises(InUse):
            files.children(directory)


def test_sockets_are_left_out_and_fifos_are_not_read(build: Build, tmp_path: Path) -> None:
    place = write_files(tmp_path / "context", {"d/f": "f"})
    os.mkfifo(place / "d/fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place / "d/socket"))
        image = build("FROM scratch\nCOPY d /\n")
    assert sorted(tree(image)) == ["f", "fifo"]


@pytest.mark.root
def test_devices_are_copied_as_such_and_a_whiteouts_look_alike_is_refused(build: Build, tmp_path: Path) -> None:
    place = write_files(tmp_path / "context", {"d/f": "f"})
    os.mknod(place / "d/zero", 0o20644, os.makedev(1, 5))
    image = build("FROM scratch\nCOPY d /\n")
    assert image.tree().resolve(b"zero").rdev == os.makedev(1, 5)  # type: ignore[union-attr]
    os.mknod(place / "d/white", 0o20644, 0)
    with pytest.raises(InvalidInput, match="cannot hold a device 0:0"):
        build("FROM scratch\nCOPY d /w/\n")


def test_names_of_any_bytes(build: Build, tmp_path: Path) -> None:
    (tmp_path / "context").mkdir()
    wanted = [b"\xff\xfe", b"new\nline", b"tab\t", "ü".encode(), b"*", b"-x"]
    for name in wanted:
        Path(os.fsdecode(os.fsencode(tmp_path / "context") + b"/" + name)).write_bytes(name)
    image = build("FROM scratch\nCOPY . /all/\n", {".dockerignore": "Dockerfile\n.dockerignore\n"})
    found = [path for path, inode in image.tree().walk() if path.startswith(b"all/")]
    assert sorted(found) == sorted(b"all/" + name for name in wanted)


def test_a_name_that_means_a_whiteout_is_refused(build: Build) -> None:
    with pytest.raises(InvalidInput, match=r"Dockerfile:2: .*\.wh\."):
        build("FROM scratch\nCOPY . /\n", {".wh.x": ""})


def test_a_file_that_changes_while_it_is_copied_is_an_error_or_one_of_its_states(build: Build, tmp_path: Path) -> None:
    place = write_files(tmp_path / "context", {"f": "0" * 400_000})
    over = threading.Event()

    def change() -> None:
        number = 0
        while not over.is_set():
            number = (number + 1) % 10
            (place / "f").write_text(str(number) * 400_000)
            time.sleep(0.001)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(10):
            try:
                image = build("FROM scratch\nCOPY f /\n", no_cache=True)
            except InUse as error:
                assert "changed while the context was read" in str(error)
            else:
                assert len(set(read(image, "f"))) <= 1
    finally:
        over.set()
        thread.join()


def test_very_deep_directories(build: Build, tmp_path: Path) -> None:
    depth = 1500
    here = os.open(write_files(tmp_path / "context", {"x": "x"}), os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    image = build("FROM scratch\nCOPY d /\n")
    assert max(path.count(b"/") for path, _ in image.tree().walk()) == depth - 1


def _tar(files: dict[str, str], mode: str = "w") -> io.BytesIO:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode) as tar:  # type: ignore[call-overload]
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.uid = len(text), 77
            tar.addfile(info, io.BytesIO(text.encode()))
    data.seek(0)
    return data


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_is_a_context(store: layerfs.Store, mode: str) -> None:
    files = {"Dockerfile": "FROM scratch\nCOPY . /\n", "f": "in tar", "no": "n", ".dockerignore": "no\nDocker*\n.d*"}
    image = store.build(_tar(files, mode))
    assert tree(image) == {"f": (0o100644, 0, 0)}


def test_a_tar_of_a_path_and_a_file_name_inside(store: layerfs.Store, tmp_path: Path) -> None:
    (tmp_path / "c.tar").write_bytes(_tar({"other": "FROM scratch\nCOPY f /\n", "f": "f"}).getvalue())
    assert names(store.build(tmp_path / "c.tar", "other")) == ["f"]


def test_a_stream_may_be_the_dockerfile_itself(store: layerfs.Store) -> None:
    image = store.build(io.BytesIO(b"FROM scratch\nCOPY <<EOF /f\ninline\nEOF\n"))
    assert read(image, "f") == b"inline\n"
    with pytest.raises(NotFound):
        store.build(io.BytesIO(b"FROM scratch\nCOPY f /\n"))


def test_dockerfiles_from_elsewhere(store: layerfs.Store, tmp_path: Path) -> None:
    context = write_files(tmp_path / "c", {"f": "f", "sub/File": "FROM scratch\nCOPY f /inside\n"})
    (tmp_path / "Outside").write_text("FROM scratch\nCOPY f /outside\n")
    assert names(store.build(context, tmp_path / "Outside")) == ["outside"]
    assert names(store.build(context, "sub/File")) == ["inside"]
    assert names(store.build(context, io.BytesIO(b"FROM scratch\nCOPY f /stream\n"))) == ["stream"]
    with pytest.raises(NotFound, match="failed to read dockerfile: open Dockerfile: no such file or directory"):
        store.build(context)
    (context / "Containerfile").write_text("FROM scratch\nCOPY f /container\n")
    assert names(store.build(context)) == ["container"]


def test_named_contexts(build: Build, tmp_path: Path, store: layerfs.Store) -> None:
    other = write_files(tmp_path / "other", {"g": "g", "ignored": "i", ".dockerignore": "ignored"})
    contexts = {"more": other, "alpine": "docker-image://box:1", "layer": other}
    image = build("FROM alpine\nCOPY --from=more . /more/\nCOPY --from=layer g /g\n", build_contexts=contexts)
    assert read(image, "g") == b"g"
    assert "more/g" in names(image) and "more/ignored" not in names(image)
    assert "bin/busybox" in names(image)
    assert names(build("FROM more\n", build_contexts={"more": other})) == [".dockerignore", "g"]
    with pytest.raises(Unsupported):
        build("FROM scratch\n", build_contexts={"x": "ftp://example.invalid/x"})


@pytest.mark.root
def test_a_bind_of_a_context_obeys_dockerignore(build: Build) -> None:
    files = {**IGNORED, ".dockerignore": "n\n"}
    image = build("FROM box:1\nRUN --mount=target=/src ls /src > /seen\n", files, network="none")
    assert read(image, "seen").decode().split() == ["Dockerfile", "b2.txt", "keep.txt", "x.log"]


def test_errors_of_the_language_have_their_place(build: Build) -> None:
    with pytest.raises(InvalidDockerfile, match=r"Dockerfile:2: .*RUNN") as caught:
        build("FROM scratch\nRUNN true\n")
    assert "^" in caught.value.excerpt


def test_nothing_of_a_context_is_in_the_store_twice(build: Build, store: layerfs.Store) -> None:
    data = os.urandom(300_000)
    one = build("FROM scratch\nCOPY big /1\n", {"big": data})
    two = build("FROM scratch\nCOPY big /2\n")
    first, second = one.tree(), two.tree()
    assert first.content(first.resolve(b"1")) == second.content(second.resolve(b"2"))  # type: ignore[arg-type]


def test_the_bytes_of_a_small_file_are_read_once_for_its_digest_and_its_layer(tmp_path: Path) -> None:
    write_files(tmp_path, {"f": "as it was digested"})
    with DirectoryFiles(tmp_path) as files:
        item = files.children(files.root)[0]
        assert files.identity(item) == hashlib.sha256(b"as it was digested").digest()
        (tmp_path / "f").write_text("as it was changed!")
        content = files.content(item)
        assert content is not None and b"".join(content.pieces(((0, 18),))) == b"as it was digested"
        with pytest.raises(InUse):  # it is not kept for a second time
            b"".join(content.pieces(((0, 18),)))


def test_not_more_small_files_are_kept_than_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerfs.build.contentkeys._KEPT_MAX", 600)
    write_files(tmp_path, {name: name * 100 for name in "abc"})
    with DirectoryFiles(tmp_path) as files:
        items = files.children(files.root)
        for item in items:
            files.identity(item)
        assert [files.kept(item) is None for item in items] == [False, True, True]
