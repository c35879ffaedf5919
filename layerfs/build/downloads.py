"""Files of `ADD https://…`: fetched into the build's temporary directory, checked against their digest."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import stat
from pathlib import Path

from layerfs._record import dataclass
from layerfs.build.files import Item, Xattrs
from layerfs.errors import Corrupt, InvalidInput, NotFound
from layerfs.layer.entry import BytesContent, Content, FileContent

_PIECE = 1 << 20
_SECONDS = 60
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}\Z")


def is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


class OneFile:
    """A source of a single file, which is no context: a download, or a heredoc."""

    owned = True

    def __init__(self, name: bytes, content: Content, digest: bytes, mode: int, mtime_ns: int) -> None:
        self._content, self._digest = content, digest
        self.root = Item(b"", stat.S_IFDIR | 0o755, 0, 0, 0)
        self.item = Item(name, stat.S_IFREG | mode, 0, 0, mtime_ns, content.size)

    @classmethod
    def of(cls, name: bytes, data: bytes, mtime_ns: int) -> OneFile:
        return cls(name, BytesContent(data), hashlib.sha256(data).digest(), 0o644, mtime_ns)

    def child(self, directory: Item, name: bytes) -> Item | None:
        return self.item if name == self.item.name else None

    def children(self, directory: Item) -> list[Item]:
        return [self.item]

    def readlink(self, item: Item) -> bytes:
        raise InvalidInput("no link", path=item.path)

    def xattrs(self, item: Item) -> Xattrs:
        return ()

    def identity(self, item: Item) -> bytes:
        return self._digest

    def content(self, item: Item) -> Content | None:
        return self._content if item.size else None


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was fetched. `modified_ns`: what the server says, or None."""

    path: Path
    name: str
    sha256: bytes
    modified_ns: int | None

    def files(self, directory: int) -> OneFile:
        """As a source; `directory` is an open descriptor of where it lies, kept as long as that is used."""
        status = self.path.stat()
        content = FileContent(directory, os.fsencode(self.path.name), status, os.fsencode(self.path))
        return OneFile(os.fsencode(self.name), content, self.sha256, 0o600, self.modified_ns or 0)


def check_checksum(text: str) -> str:
    """Raises InvalidInput for what is no sha256 checksum."""
    if not _CHECKSUM.match(text):
        raise InvalidInput(f"unsupported checksum: {text} (sha256:<64 digits> is supported)")
    return text


def name_of(url: str) -> str:
    """What a download is called in a directory. Raises InvalidInput when its URL does not say."""
    import urllib.parse

    name = posixpath.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
    if name in ("", ".", ".."):
        raise InvalidInput(f"cannot determine filename for source {url}")
    return name


def fetch(url: str, directory: Path, *, checksum: str = "") -> Download:
    """Raises NotFound (no answer, no such file), Corrupt: not what the checksum says."""
    import http.client
    import urllib.error
    import urllib.parse
    import urllib.request

    target = directory / f"download-{hashlib.sha256(url.encode()).hexdigest()[:16]}-{os.urandom(4).hex()}"
    sha = hashlib.sha256()
    request = urllib.request.Request(url, headers={"User-Agent": "layerfs", "Accept-Encoding": "identity"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer, target.open("xb") as file:
            modified = answer.headers.get("Last-Modified")
            while data := answer.read(_PIECE):
                sha.update(data)
                file.write(data)
    except urllib.error.HTTPError as error:
        raise NotFound(f"failed to load cache key: invalid response status {error.code}: {url}") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ValueError) as error:
        raise NotFound(f"failed to load cache key: {url}: {getattr(error, 'reason', error)}") from None
    if checksum and checksum != f"sha256:{sha.hexdigest()}":
        raise Corrupt(f"digest mismatch sha256:{sha.hexdigest()}: {checksum} ({url})")
    return Download(target, posixpath.basename(urllib.parse.urlsplit(url).path), sha.digest(), _seconds(modified))


def _seconds(text: str | None) -> int | None:
    import email.utils

    try:
        return int(email.utils.parsedate_to_datetime(text).timestamp()) * 1_000_000_000 if text else None
    except (TypeError, ValueError):
        return None
