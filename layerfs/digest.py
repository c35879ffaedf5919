"""Digests: parsed once at the edge, valid ever after.

Three look-alikes are three types: a layer digest (of the bytes as transferred), a diff ID
(of the uncompressed tar) and a chain ID (of a whole stack).
"""

from __future__ import annotations

from collections.abc import Iterable

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.errors import Corrupt, InvalidInput
from layerfs.native import sha256

if TYPE_CHECKING:
    from typing import BinaryIO, NewType


def is_hex(text: str, size: int = 64) -> bool:
    """Whether it is that many lower-case hex digits: asked by every command, so without the module `re`."""
    return len(text) == size and not text.strip("0123456789abcdef")


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A sha256 digest. `str()` gives `sha256:<64 hex>`, which it also equals; `.raw` the 32 bytes used as keys."""

    hex: str

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return str(self) == other
        return self.hex == other.hex if isinstance(other, Digest) else NotImplemented

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        return "sha256:" + self.hex

    @property
    def raw(self) -> bytes:
        return bytes.fromhex(self.hex)

    @property
    def short(self) -> str:
        """The first 12 hex digits, as docker prints them."""
        return self.hex[:12]

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse `sha256:<64 lower-case hex>`.

        Raises:
            InvalidInput: another algorithm, or not 64 lower-case hex digits (image-spec, descriptor.md).
        """
        algorithm, colon, hexpart = text.partition(":")
        if not colon or algorithm != "sha256" or not is_hex(hexpart):
            raise InvalidInput(f"invalid digest {text!r}: want sha256 and 64 lower-case hex digits")
        return cls(hexpart)

    @classmethod
    def from_raw(cls, raw: bytes) -> Digest:
        if len(raw) != 32:
            raise InvalidInput("a raw sha256 digest has 32 bytes")
        return cls(raw.hex())

    @classmethod
    def of(cls, data: bytes) -> Digest:
        return cls(sha256(data).hex())


if TYPE_CHECKING:
    DiffID = NewType("DiffID", Digest)
    ChainID = NewType("ChainID", Digest)
else:

    def DiffID(digest):
        return digest

    ChainID = DiffID


def chain_ids(diff_ids: Iterable[DiffID]) -> list[ChainID]:
    """The chain ID of every prefix of a stack, base first (image-spec, config.md, "Layer ChainID")."""
    chains: list[ChainID] = []
    for diff_id in diff_ids:
        chains.append(ChainID(Digest.of(f"{chains[-1]} {diff_id}".encode()) if chains else diff_id))
    return chains


def chain_id(diff_ids: Iterable[DiffID]) -> ChainID:
    """The chain ID of a whole stack, base first.

    Raises:
        InvalidInput: for an empty stack, which has no chain ID.
    """
    chains = chain_ids(diff_ids)
    if not chains:
        raise InvalidInput("an empty stack of layers has no chain ID")
    return chains[-1]


class VerifyingReader:
    """A file-like reader that hashes what passes and checks digest and size at the end.

    Raises Corrupt from `read()` as soon as more than `size` bytes came, and at the end of the stream when
    the size or the digest differs.
    """

    def __init__(self, stream: BinaryIO, expected: Digest | None = None, size: int | None = None) -> None:
        self._stream, self._expected, self._size = stream, expected, size
        import hashlib

        self._hash = hashlib.sha256()
        self.count = 0

    def read(self, count: int = 1 << 20) -> bytes:
        data = self._stream.read(count)
        if data:
            self._hash.update(data)
            self.count += len(data)
            if self._size is not None and self.count > self._size:
                raise Corrupt(f"more than the expected {self._size} bytes")
        elif count != 0:
            self.check()
        return data

    def digest(self) -> Digest:
        return Digest(self._hash.hexdigest())

    def check(self) -> None:
        if self._size is not None and self.count != self._size:
            raise Corrupt(f"size mismatch: got {self.count} bytes, expected {self._size}")
        if self._expected is not None and self.digest() != self._expected:
            raise Corrupt(f"digest mismatch: got {self.digest()}, expected {self._expected}")
