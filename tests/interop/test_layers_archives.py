"""Public archives through the store, byte for byte or clearly refused; and what other tools make of ours."""

import bz2
import gzip
import io
import os
import shutil
import stat
import subprocess

import pytest
import zstandard

from layerfs.errors import InvalidArchive
from layerfs.layer import (
    BytesContent,
    Entry,
    TarWriter,
    compressor,
    import_directory,
    open_layer,
    read_layer,
    write_layer,
)
from layerfs.store import StoreRoot
from tests.oracle.host import host_listing

REFUSED = {
    "invalid: no header": ["issue10968.tar", "issue11169.tar", "issue12435.tar", "neg-size.tar"],
    "invalid: records": ["pax-bad-hdr-file.tar", "pax-nul-path.tar", "pax-nul-xattrs.tar", "pax-bad-mtime-file.tar"],
    "invalid: ends early": ["writer-big.tar", "writer-big-long.tar", "pax-path-hdr.tar", "pax-bad-hdr-large.tar.bz2"],
}
BAD = {name for names in REFUSED.values() for name in names}
UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress}


@pytest.fixture
def store(tmp_path):
    root = StoreRoot.open(tmp_path / "store")
    yield root
    root.close()


def plain(path):
    """The tar in an archive; zstd frames without a size need the streaming way."""
    data = path.read_bytes()
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    return UNPACK.get(path.suffix, bytes)(data)


def test_public_archives_come_back_or_are_refused(store, shared):
    found = sorted([*(shared / "data/tar").iterdir(), *(shared / "data/layer").iterdir()])
    assert len(found) > 50
    for path in found:
        with store.leases.acquire("test") as lease, path.open("rb") as file:
            try:
                layer = read_layer(store, file, lease=lease)
            except InvalidArchive:
                assert path.name in BAD, path.name
                continue
        assert path.name not in BAD, path.name
        assert open_layer(store, layer.diff_id).read() == plain(path), path.name


@pytest.mark.skipif(not shutil.which("bsdtar"), reason="needs bsdtar")
@pytest.mark.root
def test_bsdtar_reads_what_we_write(store, tmp_path):
    place = tmp_path / "in"
    (place / "d/e").mkdir(parents=True)
    (place / "d/e/ü").write_text("x")
    (place / "holes").touch()
    os.truncate(place / "holes", 5 << 20)
    (place / ("long" * 60)).write_text("long")
    os.link(place / "holes", place / "hard")
    with store.leases.acquire("test") as lease:
        layer = import_directory(store, place, lease=lease)
    (tmp_path / "out").mkdir()
    with (tmp_path / "layer.tar").open("wb") as out:
        write_layer(store, layer.diff_id, out)
    subprocess.run(
        ["bsdtar", "-xpf", tmp_path / "layer.tar", "-C", tmp_path / "out"], check=True, env={"LC_ALL": "C.UTF-8"}
    )
    subprocess.run(["diff", "-r", place, tmp_path / "out"], check=True)
    assert (tmp_path / "out/hard").stat().st_ino == (tmp_path / "out/holes").stat().st_ino


@pytest.mark.skipif(not shutil.which("umoci"), reason="needs umoci")
@pytest.mark.root
def test_umoci_unpacks_what_we_write(tmp_path):
    """Go's reader, as docker has it: sparse files, long and odd names, nanoseconds, links, xattrs."""
    place = tmp_path / "in"
    (place / "d").mkdir(parents=True)
    with (place / "holes").open("wb") as out:
        out.truncate(30 << 20)
        out.seek(20 << 20)
        out.write(b"data")
    for name in (b"d/" + b"\xff" * 150, "d/ü".encode(), b"n" * 200):
        (place / os.fsdecode(name)).write_bytes(name)
    os.link(place / "holes", place / "d/hard")
    os.setxattr(place / "d", "user.x", b"\0\xff=\n")
    with StoreRoot.open(tmp_path / "store") as store, store.leases.acquire("test") as lease:
        layer = import_directory(store, place, lease=lease)
        with (tmp_path / "layer.tar").open("wb") as out:
            write_layer(store, layer.diff_id, out)
    image = f"{tmp_path}/oci:x"
    for command in (
        ["umoci", "init", "--layout", tmp_path / "oci"],
        ["umoci", "new", "--image", image],
        ["umoci", "raw", "add-layer", "--image", image, tmp_path / "layer.tar"],
        ["umoci", "unpack", "--image", image, tmp_path / "bundle"],
    ):
        subprocess.run(command, check=True, capture_output=True)
    assert host_listing(tmp_path / "bundle/rootfs") == host_listing(place)


@pytest.mark.skipif(not shutil.which("zstd"), reason="needs zstd")
@pytest.mark.parametrize(("codec", "tool"), [("gzip", "gzip"), ("zstd", "zstd")])
def test_the_usual_tools_unpack_what_we_compress(codec, tool):
    sink = io.BytesIO()
    packer = compressor(codec, sink.write)
    writer = TarWriter(packer.write)
    data = os.urandom(3_000_000)
    writer.add(Entry(b"f", stat.S_IFREG | 0o644, size=len(data), content=BytesContent(data)))
    writer.finish()
    packer.close()
    done = subprocess.run([tool, "-dc"], input=sink.getvalue(), capture_output=True, check=True)
    assert len(done.stdout) == writer.size and data in done.stdout
