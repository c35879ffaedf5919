"""Hostile input and odd surroundings at the command line: one line, an exit code, a store that is whole."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import layerfs
from tests.conftest import PROJECT
from tests.crash.world import base_tar, command, compare, docker_archive, judge, member, own_tar, said, tar, whole
from tests.crash.world import expected_listing as listing_of
from tests.disks import small_disk
from tests.looking import eventually

pytestmark = pytest.mark.root


@pytest.fixture
def store(tmp_path: Path) -> Path:
    command(tmp_path / "store", "load", "-q", "-i", docker_archive(tmp_path / "base.tar", {"base:1": [base_tar()]}))
    return tmp_path / "store"


def refused(store: Path, *words: object, about: str = "") -> str:
    code, out, err = said(store, *words)
    assert (code, out) == (1, ""), (code, out, err)
    assert err.startswith("layerfs: ")
    assert err.count("\n") == 1
    assert "internal error" not in err
    assert about in err
    return err


def only_the_base(store: Path) -> None:
    whole(store)
    with layerfs.Store(store) as opened:
        assert [image.tags for image in opened.images(all=True)] == [("base:1",)]
        opened.gc()
        assert len(list((store / "packs").iterdir())) == 1


def process(store: Path, *words: object, mask: int | None = None, **streams: Any) -> subprocess.Popen[bytes]:
    """The command line as a process of its own."""
    program = "import sys; from layerfs.cli.app import run; sys.exit(run(sys.argv[1:]))"
    arguments = [sys.executable, "-c", program, "--store", str(store), *map(str, words)]
    before = (lambda: os.umask(mask)) if mask is not None else None
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, cwd=PROJECT, preexec_fn=before, **streams)


# archives


def zeros_in_a_layer(size: int) -> Iterator[bytes]:
    header, _ = member("bomb")
    header.size = size
    yield header.tobuf()
    for _ in range(size >> 20):
        yield bytes(1 << 20)
    yield bytes(1024)


def test_a_bomb_ends_with_the_disk_and_leaves_nothing(tmp_path: Path) -> None:
    """1 MiB that is 1 GiB; a file that is no zeros cannot be smaller on the disk than it says."""
    bomb = tmp_path / "bomb.tar.gz"
    with bomb.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", compresslevel=6, mtime=0) as out:
        for piece in zeros_in_a_layer(1 << 30):
            out.write(piece)
    assert bomb.stat().st_size < 2 << 20
    with small_disk("ext4", tmp_path, size=32 << 20) as place:
        store = place / "store"
        command(store, "load", "-q", "-i", docker_archive(tmp_path / "base.tar", {"base:1": [base_tar()]}))
        refused(store, "import", bomb, "bomb:1")
        only_the_base(store)


def test_an_endless_stream_ends_with_the_disk(tmp_path: Path) -> None:
    with small_disk("ext4", tmp_path, size=32 << 20) as place:
        store = place / "store"
        command(store, "load", "-q", "-i", docker_archive(tmp_path / "base.tar", {"base:1": [base_tar()]}))
        child = process(store, "import", "-", "endless:1", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert child.stdin is not None
        chance = random.Random(1)
        with contextlib.suppress(BrokenPipeError):
            for number in range(100_000):
                info, data = member(f"f{number}", chance.randbytes(100_000))
                child.stdin.write(info.tobuf() + data + bytes(-len(data) % 512))
        with contextlib.suppress(BrokenPipeError):
            child.stdin.close()
        assert child.stderr is not None
        error = child.stderr.read().decode()
        child.stderr.close()
        assert child.wait() == 1
        assert "space" in error
        assert error.count("\n") == 1
        only_the_base(store)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stream_that_never_ends_can_be_stopped(store: Path, number: int) -> None:
    with Path("/dev/zero").open("rb") as zeros:
        child = process(store, "import", "-", "zero:1", stdin=zeros, stdout=subprocess.DEVNULL)
        assert eventually(lambda: any((store / "tmp").glob("*/lease")))
        time.sleep(0.5)
        assert child.poll() is None
        child.send_signal(number)
        _, error = child.communicate(timeout=60)
    assert child.returncode in (128 + number, -number)
    assert b"Traceback" not in error
    only_the_base(store)


def test_an_archive_that_changes_while_it_is_read(store: Path, tmp_path: Path) -> None:
    """It is one of the two, or an error."""
    one, two = ({"x:1": [base_tar(), own_tar(n)]} for n in (1, 2))
    place, other = docker_archive(tmp_path / "x.tar", one, compress=False), tmp_path / "y.tar"
    docker_archive(other, two, compress=False)
    datas = [place.read_bytes(), other.read_bytes()]
    stop = threading.Event()

    def change() -> None:
        chance = random.Random(7)
        while not stop.is_set():
            with place.open("r+b") as file:
                file.write(chance.choice(datas)[: chance.randrange(len(datas[0]))])
                file.truncate(chance.choice([len(datas[0]), len(datas[0]) // 2]))

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(12):
            code, _, err = said(store, "load", "-q", "-i", place)
            assert code in (0, 1)
            assert "internal error" not in err
            assert err.count("\n") == code
    finally:
        stop.set()
        thread.join()
    whole(store)
    with layerfs.Store(store) as opened:
        for image in opened.images(all=True):
            judge(opened, image)


def test_a_directory_that_changes_while_it_is_imported(store: Path, tmp_path: Path) -> None:
    """Success or a clear error, and what came in is whole."""
    top = tmp_path / "top"
    (top / "d").mkdir(parents=True)
    for number in range(200):
        (top / f"d/f{number}").write_bytes(bytes([number]) * 5000)
    stop = threading.Event()

    def change() -> None:
        chance = random.Random(7)
        while not stop.is_set():
            path = top / f"d/f{chance.randrange(200)}"
            with contextlib.suppress(OSError):
                kind = chance.randrange(5)
                if kind == 0:
                    path.unlink()
                elif kind == 1:
                    path.write_bytes(os.urandom(chance.randrange(300_000)))
                elif kind == 2:
                    path.mkdir()
                elif kind == 3:
                    path.symlink_to("/etc/passwd")
                else:
                    path.rename(top / f"d/f{chance.randrange(200)}")

    thread = threading.Thread(target=change)
    thread.start()
    try:
        codes = []
        for number in range(12):
            code, _, err = said(store, "import", top, f"dir:{number}")
            codes.append(code)
            assert "internal error" not in err
            assert err.count("\n") == code, err
    finally:
        stop.set()
        thread.join()
    whole(store)
    with layerfs.Store(store) as opened:
        for image in opened.images(all=True):
            judge(opened, image)


def archive_of(path: Path, config: bytes, layers: list[str]) -> Path:
    name = hashlib.sha256(config).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": ["evil:1"], "Layers": layers}]
    entries = [member("l/layer.tar", tar([member("f", b"f")])), member(name, config)]
    path.write_bytes(tar([*entries, member("manifest.json", json.dumps(manifest).encode())]))
    return path


def config_of(layers: int, **more: Any) -> bytes:
    diff_id = "sha256:" + hashlib.sha256(tar([member("f", b"f")])).hexdigest()
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id] * layers}}
    return json.dumps(document | more).encode()


def test_a_hundred_thousand_layers(store: Path, tmp_path: Path) -> None:
    """No limit: all the same layer, it is an image like any other, if a slow one."""
    archive = archive_of(tmp_path / "a.tar", config_of(100_000), ["l/layer.tar"] * 100_000)
    command(store, "load", "-q", "-i", archive)
    for words in (["images"], ["history", "evil:1"], ["inspect", "evil:1"], ["rmi", "evil:1"], ["gc"]):
        assert said(store, *words)[0] == 0
    only_the_base(store)


def test_a_config_of_100_megabytes(store: Path, tmp_path: Path) -> None:
    refused(
        store, "load", "-i", archive_of(tmp_path / "a.tar", config_of(1, author="x" * 100_000_000), ["l/layer.tar"])
    )
    only_the_base(store)


@pytest.mark.parametrize(
    "config",
    [b"[" * 100_000, b"{}", b"null", b"\xff\xfe", b'{"rootfs": 1}', config_of(2), config_of(1, history=[{"a": 1}] * 9)],
    ids=["deep", "empty", "null", "bytes", "number", "layers", "history"],
)
def test_a_config_that_is_none(store: Path, tmp_path: Path, config: bytes) -> None:
    refused(store, "load", "-i", archive_of(tmp_path / "a.tar", config, ["l/layer.tar"]))
    only_the_base(store)


@pytest.mark.parametrize(
    "name",
    ["a\nb", "x\udcff:1", "", ":", "A:1", "a" * 300, "a:" + "1" * 129, "../x", "a b", "\x1b[31m", "a@sha256:1", "-x"],
)
def test_names_with_odd_bytes(store: Path, name: str) -> None:
    verbs = (["tag", "base:1"], ["rmi"], ["inspect"], ["import", "/nowhere"])
    for words in [*([*verb, "--", name] for verb in verbs), ["create", f"--name={name}", "base:1"]]:
        code, _, err = said(store, *words)
        if words[0] == "create" and name.isalnum():
            assert code == 0  # long, but a name
            command(store, "rm", name)
            continue
        assert code in (1, 125), (words, name)
        assert err.count("\n") == 1, (words, err)
        assert "internal error" not in err
        assert "\x1b" not in err
        err.encode()  # can be printed
    only_the_base(store)


# surroundings


def everything(store: Path, top: Path) -> None:
    """The main job once, with whatever engine works."""
    command(store, "load", "-q", "-i", docker_archive(top / "again.tar", {"base:1": [base_tar()]}))
    with layerfs.Store(store) as opened:
        box = opened.create("base:1", name="box")
        with box.mount() as root:
            (root / "new").write_bytes(b"new" * 1000)
            (root / "d0/f0").unlink()
            assert root.stat().st_mode & 0o7777 == 0o755
        found = judge(opened, box.commit("made:1"))
        assert b"/new" in found
        assert b"/d0/f0" not in found
        assert {(c.kind, c.path) for c in box.diff()} == {("A", "/new"), ("D", "/d0/f0"), ("C", "/d0")}
        compare(judge(opened, opened.image("base:1")), listing_of([base_tar()]))
        box.remove()
        opened.gc()
    whole(store)


def test_a_symlink_to_the_store(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    everything(tmp_path / "link", tmp_path)
    with layerfs.Store(tmp_path / "link") as one, layerfs.Store(tmp_path / "real") as two:
        assert one.image("base:1").id == two.image("base:1").id
        one.tag("base:1", "more:1")
        assert two.image("more:1").id == one.image("base:1").id


def test_a_store_on_overlayfs(tmp_path: Path) -> None:
    for name in ("lower", "upper", "work", "place"):
        (tmp_path / name).mkdir()
    options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, tmp_path / "place"], check=True)
    try:
        everything(tmp_path / "place/store", tmp_path)
    finally:
        subprocess.run(["umount", "-l", tmp_path / "place"], check=True)


def test_a_path_with_odd_bytes(tmp_path: Path) -> None:
    everything(tmp_path / "a,b:c d\\e=é\n\udcff", tmp_path)


@pytest.mark.parametrize("mask", [0o077, 0o000, 0o777])
def test_the_umask_does_not_get_into_images(tmp_path: Path, mask: int) -> None:
    old = os.umask(mask & 0o077)
    try:
        everything(tmp_path / "store", tmp_path)
    finally:
        os.umask(old)
    place = tmp_path / "layer.tar"
    place.write_bytes(own_tar(1, whiteouts=False))
    child = process(tmp_path / "store", "import", place, "own:1", mask=mask, stdout=subprocess.DEVNULL)
    _, error = child.communicate()
    assert (child.returncode, error) == (0, b"")
    with layerfs.Store(tmp_path / "store") as opened:
        compare(judge(opened, opened.image("own:1")), listing_of([own_tar(1, whiteouts=False)]))
    for secret in ("index", "packs", "objects", "blobs", "containers", "tmp", "locks"):
        assert (tmp_path / "store" / secret).stat().st_mode & 0o077 == 0, secret
    whole(tmp_path / "store")


def test_a_read_only_store(tmp_path: Path) -> None:
    with small_disk("ext4", tmp_path, size=32 << 20) as place:
        store = place / "store"
        command(store, "load", "-q", "-i", docker_archive(tmp_path / "base.tar", {"base:1": [base_tar()]}))
        command(store, "create", "--name", "box", "base:1")
        with layerfs.Store(store) as opened:
            opened.image("base:1").tree()
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        reading = ["images"], ["ps", "-a"], ["history", "base:1"], ["inspect", "base:1"], ["diff", "box"], ["fsck"]
        for words in (
            *reading,
            ["save", "-o", tmp_path / "s.tar", "base:1"],
            ["export", "-o", tmp_path / "e.tar", "base:1"],
        ):
            code, _, err = said(store, *words)
            assert code == 0, (words, err)
        writing = (
            ["tag", "base:1", "x:1"],
            ["rmi", "base:1"],
            ["import", tmp_path / "base.tar", "y:1"],
            ["gc"],
            ["commit", "box"],
        )
        for words in writing:
            refused(store, *words, about="read-only")
        assert said(store, "create", "base:1")[0] == 125


def test_streams_that_are_closed_early(store: Path) -> None:
    """`save | head -c 1` is no error worth a traceback."""
    child = process(store, "save", "base:1", stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.read(1)
    child.stdout.close()
    error = child.stderr.read()
    child.stderr.close()
    assert child.wait() in (141, 1)
    assert b"Traceback" not in error
    only_the_base(store)


def test_garbage_is_no_archive(store: Path, tmp_path: Path) -> None:
    chance = random.Random(5)
    for data in (
        b"",
        b"\0",
        bytes(10_000),
        chance.randbytes(50_000),
        b"\x1f\x8b" + chance.randbytes(999),
        base_tar()[:9000],
    ):
        place = tmp_path / "garbage"
        place.write_bytes(data)
        refused(store, "load", "-i", place)
    only_the_base(store)


def test_an_archive_with_bits_flipped(store: Path, tmp_path: Path) -> None:
    """Every image that can be seen afterwards is what its digests say."""
    chance = random.Random(6)
    data = docker_archive(tmp_path / "x.tar", {"x:1": [base_tar(20), own_tar(3, files=5)]}).read_bytes()
    for _ in range(40):
        broken = bytearray(data)
        for _ in range(chance.randrange(1, 4)):
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
        (tmp_path / "broken").write_bytes(broken)
        code, _, err = said(store, "load", "-q", "-i", tmp_path / "broken")
        assert code in (0, 1)
        assert "internal error" not in err, err
    whole(store)
    with layerfs.Store(store) as opened:
        for image in opened.images(all=True)[:6]:
            out = io.BytesIO()
            image.save(out)
            judge(opened, image)
