from __future__ import annotations

import hashlib
import os
import struct
from pathlib import Path

import pytest

from layerfs._pure import hash_fd, sha256, xxh64
from layerfs._pure.hashes import crc32c
from layerfs.errors import InvalidInput


def test_known_values() -> None:
    assert sha256(b"abc").hex().startswith("ba7816bf")
    assert xxh64(b"") == 0xEF46DB3751D8E999
    assert crc32c(b"123456789") == 0xE3069283 ^ 0xFFFFFFFF


def test_the_sparse_identity_is_what_the_format_says(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096) + b"a" * 10 + bytes(8000) + b"b")
    data = path.read_bytes()
    wanted = b"layerfs-sparse\0" + struct.pack("<Q", len(data))
    for at in range(0, len(data), 4096):
        block = data[at : at + 4096].ljust(4096, b"\0")
        if block.strip(b"\0"):
            wanted += struct.pack("<Q", at) + block
    with path.open("rb") as file:
        assert hash_fd(file.fileno(), True) == (hashlib.sha256(wanted).digest(), xxh64(wanted))
        assert hash_fd(file.fileno(), False) == (hashlib.sha256(data).digest(), xxh64(data))


def test_only_regular_files_are_hashed(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(InvalidInput):
        hash_fd(fd, False)
    os.close(fd)
