"""Giving blobs and manifests to a registry: mounted from another repository, in one request, or in chunks that a broken
connection does not lose.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from urllib.parse import quote, urlsplit

from layerfs._lazy import TYPE_CHECKING, cast, pattern
from layerfs._record import dataclass, replace
from layerfs.digest import Digest
from layerfs.errors import (
    Corrupt,
    InvalidArchive,
    LayerfsError,
    NotFound,
    RegistryDenied,
    RegistryError,
    RegistryUnreachable,
)
from layerfs.oci import Descriptor, Index, Manifest, build_index
from layerfs.registry.client import Client, pull_scope, push_scope, referrers_tag
from layerfs.registry.transport import AGAIN, Body, Exchange, Limits, Response
from layerfs.registry.turns import Begun, Task, finished

if TYPE_CHECKING:
    from typing import BinaryIO

CHUNK = 64 << 20
_MOUNTS_MAX = 3  # repositories that are tried
_SKIP = 1 << 20
_ANEW = AGAIN | {404, 416}  # 404: the upload is not known any more
_NO_CHUNKS = frozenset({400, 405, 411, 413, 416, 501})  # of registries that take none, none that large, or miscount
_SENT = pattern(r"(?:bytes=)?0-(\d{1,18})\Z", re.ASCII)
Report = Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Sent:
    """How a blob came there: it `was there`, was `mounted` from another repository, or `sent`."""

    how: str
    source: str = ""


class _Astray(RegistryError):
    """A registry and we do not agree how far an upload is."""


def _begin(client: Client, repository: str) -> Exchange:
    return client.session.exchange(
        "POST", f"/v2/{repository}/blobs/uploads/", scopes=[push_scope(repository)], body=b""
    )


class Uploads:
    """Writing to one registry. Safe from threads.

    Args:
        chunk: bytes; blobs that are larger go in such pieces, and go on after a broken connection. Where the registry
            does not get along with that, they go in one, as from docker.
    """

    def __init__(self, client: Client, *, chunk: int = CHUNK) -> None:
        self.client, self._chunk = client, chunk
        self._in_one = False

    def blob(
        self,
        repository: str,
        descriptor: Descriptor,
        open: Callable[[], BinaryIO],
        *,
        mounts: Sequence[str] = (),
        report: Report | None = None,
    ) -> Sent:
        """Brings a blob into a repository, unless it is there.

        Args:
            open: gives its bytes, from the start, as often as it takes.
            mounts: repositories of the same registry that may have it.
            report: is told how many bytes are sent.

        Raises:
            RegistryDenied, RegistryUnreachable, RegistryError; what reading it raises.
        """
        return finished(self.gives(repository, descriptor, open, mounts=mounts, report=report))

    def gives(
        self,
        repository: str,
        descriptor: Descriptor,
        open: Callable[[], BinaryIO],
        *,
        mounts: Sequence[str] = (),
        known_missing: bool = False,
        begun: Begun[Response] | None = None,
        report: Report | None = None,
    ) -> Task[Sent]:
        """`blob` as a task.

        Args:
            known_missing: it was looked for a moment ago, or is new.
            begun: an upload to the same repository that was begun for it: nothing is mounted then.
        """
        if not known_missing:
            there = yield from self.client.looks_for_blob(repository, descriptor.digest, push=True)
            if there is not None:
                return Sent("there")
        transport = self.client.session.transport
        for attempt in range(1, transport.limits.attempts + 1):
            try:
                if begun is not None:
                    started: Sent | Response | None = yield from begun.rest()
                else:
                    started = yield from self._mount(repository, descriptor.digest, mounts)
                if isinstance(started, Sent):
                    return started
                yield from self._send(repository, descriptor, open, started, report)
                return Sent("sent")
            except RegistryError as error:
                begun, asked = None, error.retry_after
                if not _again(error, transport.limits, _ANEW) or attempt == transport.limits.attempts:
                    raise
            transport.pause(attempt, "PUT", self.client.session.url(f"/v2/{repository}/blobs/uploads/"), asked)
        raise AssertionError("no attempt was made")

    def _send(
        self,
        repository: str,
        descriptor: Descriptor,
        open: Callable[[], BinaryIO],
        started: Response | None,
        report: Report | None,
    ) -> Task[None]:
        upload = partial(_Upload, self.client, repository, descriptor, open, report)
        if not self._in_one and descriptor.size > self._chunk:
            try:
                yield from self._upload(upload(), started, self._chunk)
                return
            except RegistryError as error:
                if not isinstance(error, _Astray) and error.status not in _NO_CHUNKS:
                    raise
            self._in_one, started = True, None
        yield from self._upload(upload(), started, descriptor.size)

    def _upload(self, upload: _Upload, started: Response | None, chunk: int) -> Task[None]:
        yield from upload.begin(started)
        try:
            yield from upload.send(chunk)
        except BaseException:
            upload.abandon()
            raise

    def begin(self, repository: str) -> Begun[Response]:
        """Opens an upload while its blob is still being read or made."""
        return Begun(_begin(self.client, repository))

    def _mount(self, repository: str, digest: Digest, mounts: Sequence[str]) -> Task[Sent | Response | None]:
        """What came of mounting: it is there, or an upload was begun, or neither."""
        begun: Response | None = None
        for source in [name for name in mounts if name != repository][:_MOUNTS_MAX]:
            path = f"/v2/{repository}/blobs/uploads/?mount={quote(str(digest))}&from={quote(source, safe='')}"
            try:
                answer = yield from self.client.session.exchange(
                    "POST", path, scopes=[push_scope(repository), pull_scope(source)], body=b""
                )
            except RegistryDenied:  # no token for both
                continue
            answer.discard()
            if answer.status in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED):
                self._forget(repository, begun)
                begun = answer
            if answer.status == HTTPStatus.CREATED:
                return Sent("mounted", source)
        return begun

    def _forget(self, repository: str, begun: Response | None) -> None:
        """Ends an upload that is not needed; the registry would do so by itself some day."""
        if begun is not None:
            with contextlib.suppress(LayerfsError):
                url = self.client.session.location(begun)
                self.client.session.request("DELETE", url, scopes=[push_scope(repository)], attempts=1).discard()

    def manifest(self, repository: str, reference: str | Digest, document: Manifest | Index) -> Digest:
        """Puts a manifest or an index, byte for byte; what it names has to be there already.

        Where a registry does not list referrers itself, the index that stands for that is brought up to date.
        """
        return finished(self.puts_manifest(repository, reference, document))

    def puts_manifest(self, repository: str, reference: str | Digest, document: Manifest | Index) -> Task[Digest]:
        """`manifest` as a task."""
        path = f"/v2/{repository}/manifests/{reference}"
        headers = {"Content-Type": document.media_type}
        answer = yield from self.client.session.exchange(
            "PUT", path, scopes=[push_scope(repository)], headers=headers, body=document.raw
        )
        if answer.status not in (HTTPStatus.CREATED, HTTPStatus.OK, HTTPStatus.ACCEPTED):
            raise self.client.session.failure(answer, self.client.place(repository))
        told = answer.headers.get("Docker-Content-Digest", "")
        listed = answer.headers.get("OCI-Subject")
        answer.discard()
        if told.startswith("sha256:") and told != document.digest:
            raise Corrupt(
                f"{self.client.place(repository)}: sent {document.digest}, the registry made {told[:100]} of it"
            )
        if isinstance(document, Manifest) and document.subject is not None and not listed:
            self._list_referrer(repository, document.subject.digest, document)
        return document.digest

    def _list_referrer(self, repository: str, subject: Digest, referrer: Manifest) -> None:
        """distribution-spec, "Referrers Tag Schema"."""
        entry = replace(
            Descriptor(referrer.media_type, referrer.digest, len(referrer.raw)),
            artifact_type=referrer.artifact_type or referrer.config.media_type,
            annotations=referrer.annotations,
        )
        known: tuple[Descriptor, ...] = ()
        with contextlib.suppress(NotFound, InvalidArchive):
            document = self.client.manifest(repository, referrers_tag(subject)).document
            known = document.manifests if isinstance(document, Index) else ()
        if any(one.digest == entry.digest for one in known):
            return
        self.manifest(repository, referrers_tag(subject), build_index((*known, entry)))


def _again(error: RegistryError, limits: Limits, statuses: frozenset[int]) -> bool:
    """Whether another attempt may do better, after no longer than we have patience for."""
    if isinstance(error, RegistryUnreachable):
        return error.again
    return error.status in statuses and (error.retry_after or 0) <= limits.patience


class _Upload:
    """One upload: where it goes on, and how far it is."""

    def __init__(
        self,
        client: Client,
        repository: str,
        descriptor: Descriptor,
        open: Callable[[], BinaryIO],
        report: Report | None,
    ) -> None:
        self._client, self._session, self._repository, self._descriptor = client, client.session, repository, descriptor
        self._what = client.place(repository)
        self._scopes = [push_scope(repository)]
        self._source = _Source(open, descriptor, report)
        self._location, self._sent, self._least = "", 0, 0

    def begin(self, answer: Response | None) -> Task[None]:
        """With the answer to a mount that became an upload, else with a request of its own."""
        if answer is None:
            answer = yield from _begin(self._client, self._repository)
        self._expect(answer, HTTPStatus.ACCEPTED)
        least = answer.headers.get("OCI-Chunk-Min-Length", "")
        self._least = int(least[:18]) if least.isascii() and least.isdigit() else 0

    def send(self, chunk: int) -> Task[None]:
        size, chunk = self._descriptor.size, max(chunk, self._least)
        try:
            body: bytes | Body = Body(size, partial(self._source.window, 0, size)) if size else b""
            if size > chunk:
                yield from self._chunks(chunk)
                body = b""
            joint = "&" if urlsplit(self._location).query else "?"
            url = f"{self._location}{joint}digest={quote(str(self._descriptor.digest))}"
            answer = yield from self._request("PUT", url, body)
            if answer.status not in (HTTPStatus.CREATED, HTTPStatus.OK, HTTPStatus.NO_CONTENT):
                raise self._session.failure(answer, self._what)
            told = answer.headers.get("Docker-Content-Digest", "")
            answer.discard()
            if told.startswith("sha256:") and told != self._descriptor.digest:
                raise Corrupt(f"{self._what}: sent {self._descriptor.digest}, the registry has {told[:100]}")
        finally:
            self._source.close()

    def _chunks(self, chunk: int) -> Task[None]:
        failures, most, unsure = 0, 0, False
        transport = self._session.transport
        while self._sent < self._descriptor.size:
            try:
                if unsure:
                    yield from self._ask()
                unsure = False
                if self._sent < self._descriptor.size:
                    yield from self._chunk(min(chunk, self._descriptor.size - self._sent))
            except RegistryError as error:
                failures, unsure = failures + 1, True
                if not _again(error, transport.limits, AGAIN) or failures >= transport.limits.attempts:
                    raise
                transport.pause(failures, "PATCH", self._location, error.retry_after)
            if self._sent > most:
                failures, most = 0, self._sent

    def _chunk(self, count: int) -> Task[None]:
        start = self._sent
        headers = {"Content-Range": f"{start}-{start + count - 1}", "Content-Type": "application/octet-stream"}
        body = Body(count, partial(self._source.window, start, count))
        answer = yield from self._request("PATCH", self._location, body, headers)
        if answer.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            answer.discard()
            yield from self._ask()
        else:
            self._expect(answer, HTTPStatus.ACCEPTED)
            self._sent = self._told(answer, start + count)
        if self._sent <= start:
            raise _Astray(f"{self._what}: the registry does not go on with an upload at byte {start}")

    def _ask(self) -> Task[None]:
        """How far the registry says that it is."""
        answer = yield from self._request("GET", self._location)
        here = self._location
        self._expect(answer, HTTPStatus.NO_CONTENT, keep=here)
        self._sent = self._told(answer, self._sent)

    def _told(self, answer: Response, otherwise: int) -> int:
        match = _SENT.match(answer.headers.get("Range", ""))
        if match is None:
            return otherwise
        end = int(match[1])
        sent = end + 1 if end else 0  # `0-0` is said of nothing
        if sent > self._descriptor.size:
            raise _Astray(f"{self._what}: the registry says that it has {sent} bytes of an upload, more than there are")
        return sent

    def _request(
        self, method: str, url: str, body: bytes | Body | None = None, headers: dict[str, str] | None = None
    ) -> Exchange:
        headers = headers or ({"Content-Type": "application/octet-stream"} if body is not None else {})
        return self._session.exchange(method, url, scopes=self._scopes, headers=headers, body=body, attempts=1)

    def _expect(self, answer: Response, status: int, keep: str = "") -> None:
        if answer.status != status:
            raise self._session.failure(answer, self._what)
        answer.discard()
        self._location = keep if keep and not answer.headers.get("Location") else self._session.location(answer)

    def abandon(self) -> None:
        """Lets the registry forget what it has; it would do so by itself some day."""
        with contextlib.suppress(LayerfsError):
            finished(self._request("DELETE", self._location)).discard()


class _Source:
    """Parts of a blob, read once where they are asked for in order."""

    def __init__(self, open: Callable[[], BinaryIO], descriptor: Descriptor, report: Report | None) -> None:
        self._open, self._descriptor, self._report = open, descriptor, report
        self._file: BinaryIO | None = None
        self.at = 0

    def window(self, start: int, count: int) -> BinaryIO:
        if self._file is None or self.at != start:
            self.close()
            self._file, self.at = self._open(), 0
            while self.at < start:
                self.at += len(self._piece(min(_SKIP, start - self.at)))
        return cast("BinaryIO", _Window(self, count))

    def read(self, count: int) -> bytes:
        data = self._piece(count)
        self.at += len(data)
        if self._report is not None:
            self._report(self.at)
        return data

    def _piece(self, count: int) -> bytes:
        assert self._file is not None
        data = self._file.read(count)
        if not data:
            size, digest = self._descriptor.size, self._descriptor.digest
            raise Corrupt(f"blob {digest} has {self.at} bytes instead of {size}")
        return data

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class _Window:
    """What one request sends."""

    def __init__(self, source: _Source, count: int) -> None:
        self._source, self._left = source, count

    def read(self, count: int = -1) -> bytes:
        wanted = self._left if count < 0 else min(count, self._left)
        if not wanted:
            return b""
        data = self._source.read(wanted)
        self._left -= len(data)
        return data

    def close(self) -> None:
        pass
