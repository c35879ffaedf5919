"""A layer is read whole and verified, or nothing of it can be seen."""

import gzip
import io
import lzma
import os
import stat
import tarfile
import threading
import time

import pytest
import zstandard

from layerfs.digest import Digest
from layerfs.errors import Corrupt, InvalidArchive, NoSpace
from layerfs.layer import Source, get_layer, get_sources, has_layer, layer_tree, open_layer, read_layer, write_layer
from layerfs.layer.entry import BytesContent, Entry
from layerfs.layer.ingest import _Worker
from layerfs.oci.descriptor import Descriptor

FORMS = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": zstandard.ZstdCompressor().compress,
    "xz": lzma.compress,
}
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


@pytest.fixture
def tar(tar_of):
    return tar_of(
        Entry(b"etc", stat.S_IFDIR | 0o755, mtime_ns=5),
        file(b"etc/small", b"hello" * 100),
        file(b"etc/empty", b""),
        file(b"big", os.urandom(1000) * 400),
        file(b"twin", b"hello" * 100),
        Entry(b"link", stat.S_IFLNK | 0o777, target=b"etc/small"),
    )


def file(path, data):
    return Entry(path, stat.S_IFREG | 0o644, size=len(data), content=BytesContent(data))


def read(root, lease, data, **options):
    return read_layer(root, io.BytesIO(data), lease=lease, **options)


def replay(root, layer):
    sink = io.BytesIO()
    write_layer(root, layer.diff_id, sink)
    return sink.getvalue()


def visible(root):
    with root.index.view() as txn:
        return [table for table in ("layers", "contents", "packs", "blobs", "sources") if txn.keys(table)]


def files(lease):
    """Temporaries: `tree-...`, `pack-...` and the like; the lease's own files have plain names."""
    return sorted(path.name for path in lease.tmp.iterdir() if "-" in path.name)


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_comes_back_byte_for_byte(root, lease, tar, form):
    layer = read(root, lease, FORMS[form](tar))
    assert layer.diff_id == Digest.of(tar)
    assert (layer.tar_size, layer.entries, layer.size) == (len(tar), 6, 401_000)
    assert replay(root, layer) == tar
    assert open_layer(root, layer.diff_id).read() == tar
    assert files(lease) == []


def test_the_record_is_what_was_returned(root, lease, tar):
    layer = read(root, lease, FORMS["gzip"](tar))
    assert has_layer(root, layer.diff_id) == layer == get_layer(root, layer.diff_id)
    assert layer.packs == layer_tree(root, layer.diff_id).packs


@pytest.mark.parametrize(("form", "kept"), [("plain", False), ("gzip", True), ("zstd", True), ("xz", False)])
def test_compressed_blobs_are_kept_as_they_came(root, lease, tar, form, kept):
    packed = FORMS[form](tar)
    layer = read(root, lease, packed)
    assert (layer.blob is not None) == kept
    if kept:
        assert root.blobs.read(layer.blob.digest) == packed
        assert layer.blob.size == len(packed)


def test_a_blob_is_not_kept_when_not_wanted(root, lease, tar):
    assert read(root, lease, FORMS["gzip"](tar), keep_blob="never").blob is None
    assert "blobs" not in visible(root)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("keep_blob", ["always", "auto", "never"])
def test_digest_and_size_are_verified(root, lease, tar, form, keep_blob):
    packed = FORMS[form](tar)
    good = Descriptor(GZIP, Digest.of(packed), len(packed))
    wrong = [
        Descriptor(GZIP, Digest.of(b"other"), len(packed)),
        Descriptor(GZIP, good.digest, len(packed) - 1),
        Descriptor(GZIP, good.digest, len(packed) + 1),
    ]
    for descriptor in wrong:
        with pytest.raises(Corrupt):
            read(root, lease, packed, descriptor=descriptor, keep_blob=keep_blob)
    with pytest.raises(Corrupt, match="diff ID"):
        read(root, lease, packed, descriptor=good, expected=Digest.of(b"other"), keep_blob=keep_blob)
    assert visible(root) == []
    assert files(lease) == []
    assert read(root, lease, packed, descriptor=good, expected=Digest.of(tar), keep_blob=keep_blob)


def test_bytes_after_the_archive_count(root, lease, tar):
    layer = read(root, lease, tar + b"trailing garbage")
    assert layer.diff_id == Digest.of(tar + b"trailing garbage")
    assert replay(root, layer) == tar + b"trailing garbage"


@pytest.mark.parametrize("padding", [0, 1, 411])
def test_a_layer_without_its_last_padding_comes_back_byte_for_byte(root, lease, padding):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("f")
        member.size = 100
        archive.addfile(member, io.BytesIO(b"x" * 100))
    tar = file.getvalue()[: 612 + padding]
    layer = read(root, lease, FORMS["gzip"](tar))
    assert layer.diff_id == Digest.of(tar) and replay(root, layer) == tar


@pytest.mark.parametrize("cut", [100, 700, 300_000])
def test_a_truncated_layer_leaves_nothing(root, lease, tar, cut):
    for packed in (tar[:cut], FORMS["gzip"](tar[:cut]), FORMS["gzip"](tar)[: cut // 1000 + 5]):
        with pytest.raises(InvalidArchive):
            read(root, lease, packed)
    assert visible(root) == []
    assert files(lease) == []


def test_an_error_of_the_stream_reaches_the_caller_and_leaves_nothing(root, lease, tar):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            if self.tell() > 200_000:
                raise ConnectionResetError("gone")
            return super().read(10_000)

    with pytest.raises(ConnectionResetError):
        read_layer(root, Broken(tar), lease=lease)
    assert files(lease) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "layer"]


def test_a_full_disk_leaves_nothing(root, lease, tar, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NoSpace):
        read(root, lease, tar)
    assert visible(root) == []


def test_reading_again_changes_nothing_but_notes_the_source(root, lease, tar):
    first = read(root, lease, tar, source=Source("tar", "/a"))
    again = read(root, lease, tar, source=Source("tar", "/b"))
    assert again == first
    assert [source.place for source in get_sources(root, first.diff_id)] == ["/a", "/b"]
    assert files(lease) == []
    assert len(list((root.path / "packs").iterdir())) == 1


def test_a_plain_layer_read_again_compressed_gains_its_blob(root, lease, tar):
    assert read(root, lease, tar).blob is None
    assert read(root, lease, FORMS["gzip"](tar)).blob is not None
    assert get_layer(root, Digest.of(tar)).blob is not None


def test_a_lost_tree_is_mended_by_reading_again(root, lease, tar):
    layer = read(root, lease, tar)
    root.tree_path("layer", layer.diff_id.hex).unlink()
    assert has_layer(root, layer.diff_id) is None
    read(root, lease, tar)
    assert replay(root, layer) == tar


def test_two_threads_may_read_the_same_layer(root, lease, tar):
    layers = []
    threads = [threading.Thread(target=lambda: layers.append(read(root, lease, tar))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(layers)) == 1 and len(layers) == 4
    assert replay(root, layers[0]) == tar
    with root.index.view() as txn:
        assert len(txn.keys("packs")) == 1


def test_a_damaged_content_is_noticed_when_written(root, lease, tar):
    layer = read(root, lease, tar)
    pack = root.contents.pack_path(layer.packs[0])
    pack.chmod(0o600)
    pack.write_bytes(b"X" + pack.read_bytes()[1:])
    with pytest.raises(Corrupt):
        replay(root, layer)
    with pytest.raises(Corrupt):
        open_layer(root, layer.diff_id).read()
    pack.unlink()
    with pytest.raises(Corrupt, match="missing"):
        replay(root, layer)


def test_a_damaged_record_is_noticed(root, lease, tar):
    layer = read(root, lease, tar)
    split = root.split_path(layer.diff_id.hex)
    whole = split.read_bytes()
    for damaged in (whole[:-7], b"", whole[:40] + b"\xff" + whole[41:], zstandard.compress(b"LFSPLIT1\x07")):
        split.write_bytes(damaged)
        with pytest.raises(Corrupt):
            replay(root, layer)


def test_progress_is_told(root, lease, tar):
    packed, told = FORMS["gzip"](tar), []
    descriptor = Descriptor(GZIP, Digest.of(packed), len(packed))
    read(root, lease, packed, descriptor=descriptor, progress=told.append)
    assert told[-1].current == told[-1].total == len(packed)
    assert told[-1].id == str(descriptor.digest)


def test_an_empty_stream_is_a_layer_without_entries(root, lease):
    layer = read(root, lease, b"")
    assert (layer.entries, layer.tar_size) == (0, 0)
    assert replay(root, layer) == b""


def test_the_parser_has_ended_also_when_waiting_for_it_was_interrupted():
    worker = _Worker(lambda piece: time.sleep(0.05))
    join = worker._thread.join

    def interrupted():
        worker._thread.join = join
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), worker:
        worker.put(b"piece")
        worker.put(b"another")
        worker._thread.join = interrupted
        worker.join()
    assert not worker._thread.is_alive()
