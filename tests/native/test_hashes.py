"""The core's hashes against hashlib and xxhash, with the CPU's instructions and without."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xxhash

from layerfs.errors import InvalidInput

native: Any = pytest.importorskip("layerfs._native")


@pytest.fixture(params=["instructions", "portable"], autouse=True)
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    native._portable_hashes(request.param == "portable")
    yield request.param
    native._portable_hashes(False)


def samples() -> list[bytes]:
    dice = random.Random(1)
    return [dice.randbytes(size) for size in [*range(200), 1000, 4095, 65536, 1_000_003]]


def test_portable_means_without_instructions(kind: str) -> None:
    assert kind == "instructions" or native._portable_hashes(True) == (False, False)


def test_sha256_of_every_length() -> None:
    assert all(native.sha256(data) == hashlib.sha256(data).digest() for data in samples())


def test_xxh64_of_every_length() -> None:
    assert all(native.xxh64(data) == xxhash.xxh64_intdigest(data) for data in samples())


def test_bytes_need_no_alignment() -> None:
    data = random.Random(2).randbytes(5000)
    for start in range(70):
        view = memoryview(data)[start:]
        assert native.sha256(view) == hashlib.sha256(view).digest()
        assert native.xxh64(view) == xxhash.xxh64_intdigest(view)


def test_buffers_of_all_kinds_are_taken() -> None:
    assert native.sha256(bytearray(b"abc")) == native.sha256(memoryview(b"abc")) == hashlib.sha256(b"abc").digest()
    with pytest.raises(TypeError):
        native.sha256("abc")


def test_crc32c_is_castagnoli() -> None:
    assert native._crc32c(b"123456789") ^ 0xFFFFFFFF == 0xE3069283  # the check value of its catalogue entry
    assert native._crc32c(bytes(32)) ^ 0xFFFFFFFF == 0x8A9136AA  # RFC 3720, B.4


def test_both_ways_of_crc32c_agree() -> None:
    found = []
    for portable in (False, True):
        native._portable_hashes(portable)
        found.append([native._crc32c(data) for data in samples()])
    assert found[0] == found[1]


def test_hash_fd_reads_the_whole_file_wherever_the_descriptor_stands(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(3 << 20)
    (tmp_path / "f").write_bytes(data)
    with (tmp_path / "f").open("rb") as file:
        file.seek(1000)
        assert native.hash_fd(file.fileno(), False) == (hashlib.sha256(data).digest(), xxhash.xxh64_intdigest(data))
        assert file.tell() == 1000


def test_the_sparse_identity_is_that_of_the_format(tmp_path: Path) -> None:
    block = b"hello".rjust(1000, b"\0").ljust(4096, b"\0")
    wanted = b"layerfs-sparse\0" + (1 << 40).to_bytes(8, "little") + (1 << 30).to_bytes(8, "little") + block
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 1 << 40)
    os.pwrite(fd, block, 1 << 30)
    assert native.hash_fd(fd, True) == (hashlib.sha256(wanted).digest(), xxhash.xxh64_intdigest(wanted))
    os.close(fd)


def test_hash_fd_wants_a_regular_file(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(InvalidInput, match="not a regular file"):
        native.hash_fd(fd, False)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        native.hash_fd(fd, False)
