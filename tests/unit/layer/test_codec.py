"""Streams in every compressed form come back whole; damaged ones are errors."""

import bz2
import gzip
import io
import lzma
import random
import subprocess
import zlib

import pytest
import zstandard

from layerfs.errors import InvalidArchive
from layerfs.layer.codec import Decompressed, Limits, compressor, detect

DATA = random.Random(1).randbytes(300_000) + bytes(2_000_000) + b"text " * 100_000
FORMS = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zstd": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
PACKED = [form for form in FORMS if form != "plain"]


def unpack(data, **options):
    return Decompressed(io.BytesIO(data), **options).read()


@pytest.mark.parametrize("form", FORMS)
def test_a_stream_comes_back_and_its_form_is_known(form):
    stream = Decompressed(io.BytesIO(FORMS[form](DATA)))
    assert stream.codec == form
    assert b"".join(iter(lambda: stream.read(70_001), b"")) == DATA


@pytest.mark.parametrize("form", PACKED)
def test_several_members_are_one_stream(form):
    pack = FORMS[form]
    assert unpack(pack(DATA) + pack(b"") + pack(b"more")) == DATA + b"more"


@pytest.mark.parametrize("form", PACKED)
@pytest.mark.parametrize("lost", [1, 3, 9, 5000])
def test_a_truncated_stream_is_an_error(form, lost):
    packed = FORMS[form](DATA)
    with pytest.raises(InvalidArchive):
        unpack(packed[:-lost])


@pytest.mark.parametrize("form", PACKED)
def test_a_flipped_bit_is_an_error(form):
    packed = bytearray(FORMS[form](DATA))
    packed[len(packed) // 2] ^= 0x10
    with pytest.raises(InvalidArchive):
        unpack(bytes(packed))


@pytest.mark.parametrize("form", PACKED)
def test_zero_padding_after_the_end_is_accepted(form):
    assert unpack(FORMS[form](DATA) + bytes(512)) == DATA


@pytest.mark.parametrize("form", PACKED)
def test_garbage_after_the_end_is_refused(form):
    with pytest.raises(InvalidArchive):
        unpack(FORMS[form](DATA) + b"trailing garbage")


def test_reading_in_single_bytes_gives_the_same():
    class Dribble(io.BytesIO):
        def read(self, size=-1):
            return super().read(1)

    for pack in FORMS.values():
        assert Decompressed(Dribble(pack(DATA[299_000:310_000]))).read() == DATA[299_000:310_000]


def test_skippable_zstd_frames_are_skipped():
    skippable = b"\x52\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    assert detect(skippable) == "zstd"
    assert unpack(skippable + FORMS["zstd"](DATA) + skippable) == DATA


def test_a_huge_zstd_window_is_refused():
    settings = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    with pytest.raises(InvalidArchive):
        unpack(packer.compress(DATA) + packer.flush())


def test_limits_stop_a_bomb_early():
    bomb = FORMS["zstd"](bytes(50_000_000))
    stream = Decompressed(io.BytesIO(bomb), limits=Limits(ratio=100, free=1 << 20))
    pieces = []
    with pytest.raises(InvalidArchive, match="times its compressed size"):
        pieces.extend(len(piece) for piece in stream.pieces())
    assert sum(pieces) < 4 << 20
    with pytest.raises(InvalidArchive, match="limit of"):
        unpack(bomb, limits=Limits(output=1 << 20))


@pytest.mark.parametrize("form", PACKED)
def test_pieces_are_small_whatever_the_ratio(form):
    assert max(map(len, Decompressed(io.BytesIO(FORMS[form](bytes(20_000_000)))).pieces())) <= 1 << 20


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd"])
def test_writing_is_deterministic_and_reads_back(form):
    def pack(step):
        sink = io.BytesIO()
        writer = compressor(form, sink.write)
        for at in range(0, len(DATA), step):
            writer.write(DATA[at : at + step])
        writer.close()
        return sink.getvalue()

    assert pack(1 << 16) == pack(1 << 20)
    assert unpack(pack(1 << 16)) == DATA


def test_gzip_output_suits_gzip_and_names_nothing(tmp_path):
    sink = io.BytesIO()
    writer = compressor("gzip", sink.write)
    writer.write(DATA)
    writer.close()
    assert sink.getvalue()[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    assert zlib.decompress(sink.getvalue(), 31) == DATA
    assert subprocess.run(["gzip", "-dc"], input=sink.getvalue(), capture_output=True, check=True).stdout == DATA


def test_empty_output_is_a_whole_stream():
    for form in ("gzip", "zstd"):
        sink = io.BytesIO()
        compressor(form, sink.write).close()
        assert unpack(sink.getvalue()) == b""
