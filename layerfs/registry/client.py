"""What can be asked of one registry: manifests, blobs, lists (distribution-spec 1.1, docker's registry API 2)."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from http import HTTPStatus
from types import TracebackType
from urllib.parse import quote, urljoin, urlsplit

from layerfs._lazy import pattern
from layerfs._record import dataclass
from layerfs.digest import Digest, is_hex
from layerfs.errors import Corrupt, InvalidArchive, NotFound, RegistryDenied, RegistryError, RegistryNotFound
from layerfs.oci import Descriptor, Index, Manifest, Platform, media, parse_document
from layerfs.oci.fields import DOCUMENT_MAX, Fields, load_object
from layerfs.registry.failures import action, words
from layerfs.registry.session import Session
from layerfs.registry.transport import Response, origin
from layerfs.registry.turns import finished
from layerfs.registry.wire import BLOCK

ACCEPT = ", ".join(
    (
        media.OCI_INDEX,
        media.OCI_MANIFEST,
        media.DOCKER_INDEX,
        media.DOCKER_MANIFEST,
        "application/json",
        *sorted(media.SCHEMA_1),  # to have it told by name
    )
)
INDEX_DEPTH = 8
_PAGES_MAX = 100_000
_PAGE = 1000
_RANGE = pattern(r"bytes (\d{1,18})-(\d{1,18})/(?:\d{1,18}|\*)\Z", re.ASCII)
_NEXT = pattern(r'<([^>]*)>\s*;(?:[^,]*;)?\s*rel="?next"?')
_NOT_BY_TAG = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.METHOD_NOT_ALLOWED})
_TYPES = media.MANIFESTS | media.INDEXES | media.SCHEMA_1


@dataclass(frozen=True, slots=True)
class Fetched:
    """A manifest or an index as the registry gave it, byte for byte, and where it is."""

    document: Manifest | Index
    repository: str

    @property
    def digest(self) -> Digest:
        return self.document.digest

    @property
    def raw(self) -> bytes:
        return self.document.raw

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.document.media_type, self.digest, len(self.raw))


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A repository that a registry knows of; a catalog has only names."""

    name: str
    description: str = ""
    stars: int = 0
    official: bool = False


class BlobStream:
    """The bytes of a blob from `offset` on, as they come; nothing is verified here. Read it to its end, or close it.

    `offset` is 0 when the registry could not start where it was asked to; `size` is the whole blob's, if it says so.
    """

    def __init__(self, answer: Response, offset: int, size: int | None) -> None:
        self._answer, self.offset, self.size = answer, offset, size

    def read(self, count: int = BLOCK) -> bytes:
        """The next bytes; empty at the end. Raises RegistryUnreachable when the connection breaks off before."""
        return self._answer.read(BLOCK if count < 0 else count)

    def shutdown(self) -> None:
        """Wakes another thread that waits in `read`."""
        self._answer.shutdown()

    def close(self) -> None:
        self._answer.close()

    def __enter__(self) -> BlobStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def pull_scope(repository: str) -> str:
    return f"repository:{repository}:pull"


def push_scope(repository: str) -> str:
    return f"repository:{repository}:pull,push"


class Client:
    """One registry. Safe from threads; a context manager. Repositories are paths as references have them."""

    def __init__(self, session: Session) -> None:
        self.session = session

    @property
    def name(self) -> str:
        return self.session.name

    def place(self, repository: str) -> str:
        """What errors and records call a repository: `host/path`."""
        return f"{self.name}/{repository}"

    # manifests

    def manifest(self, repository: str, reference: str | Digest) -> Fetched:
        """A manifest or an index by tag or digest; by digest it is verified.

        Raises:
            RegistryNotFound, RegistryDenied: in docker's words. InvalidArchive: no such document, or too long.
            Corrupt: other bytes than the digest promises.
        """
        answer = self._ask_manifest("GET", repository, reference)
        if answer.status != HTTPStatus.OK:
            raise self._manifest_failure(answer, repository, reference)
        what = f"manifest {self._named(repository, reference)}"
        raw = _document(answer, what)
        told = answer.headers.get("Docker-Content-Digest", "")
        for expected in (str(reference), told):
            if expected.startswith("sha256:") and expected != Digest.of(raw):
                raise Corrupt(f"{what}: digest mismatch: got {Digest.of(raw)}, expected {expected[:100]}")
        return Fetched(parse_document(raw, _media_type(answer), what=what), repository)

    def head_manifest(self, repository: str, reference: str | Digest) -> Digest | None:
        """What a tag means now, as the registry says; None when it does not say, which some never do to HEAD."""
        answer = self._ask_manifest("HEAD", repository, reference)
        answer.discard()
        if answer.status == HTTPStatus.UNAUTHORIZED:
            raise self._manifest_failure(answer, repository, reference)
        if answer.status != HTTPStatus.OK:
            return None
        try:
            return Digest.parse(answer.headers.get("Docker-Content-Digest", ""))
        except OSError:
            return None

    def _ask_manifest(self, method: str, repository: str, reference: str | Digest) -> Response:
        try:
            path = f"/v2/{repository}/manifests/{reference}"
            return self._pull(path, repository, method, headers={"Accept": ACCEPT})
        except RegistryDenied as error:  # by the token server
            raise self._denied(repository, error.message.removeprefix(f"{self.place(repository)}: ")) from None

    def choose(self, repository: str, reference: str | Digest, platform: Platform) -> tuple[Fetched, Fetched | None]:
        """The manifest for a platform, and the index that it was chosen from, if it was.

        Raises:
            RegistryNotFound: nothing for the platform, in docker's words.
        """
        fetched = top = self.manifest(repository, reference)
        for _ in range(INDEX_DEPTH):
            if isinstance(fetched.document, Manifest):
                return fetched, (None if fetched is top else top)
            chosen = fetched.document.choose(platform)
            if chosen is None:
                raise RegistryNotFound(
                    f"no matching manifest for {platform} in the manifest list entries of "
                    f"{self._named(repository, reference)}"
                )
            fetched = self.child(repository, chosen)
        raise InvalidArchive(f"{self._named(repository, reference)}: indexes are nested too deep")

    def child(self, repository: str, descriptor: Descriptor) -> Fetched:
        """What an index names. Raises Corrupt when the size is another."""
        if descriptor.data is not None:
            what = f"manifest {self._named(repository, descriptor.digest)}"
            return Fetched(parse_document(descriptor.data, descriptor.media_type, what=what), repository)
        fetched = self.manifest(repository, descriptor.digest)
        if len(fetched.raw) != descriptor.size:
            raise Corrupt(
                f"manifest {self._named(repository, descriptor.digest)}: "
                f"size mismatch: got {len(fetched.raw)} bytes, expected {descriptor.size}"
            )
        return fetched

    def _manifest_failure(self, answer: Response, repository: str, reference: str | Digest) -> RegistryError:
        body = answer.beginning()
        said = words(answer.status, body)
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return _with_status(self._denied(repository, said), answer)
        if answer.status == HTTPStatus.NOT_FOUND:
            what = f"manifest for {self._named(repository, reference)} not found"
            unknown = said if body else "manifest unknown: manifest unknown"
            return _with_status(RegistryNotFound(f"{what}: {unknown}"), answer)
        return _with_status(RegistryError(f"{self._named(repository, reference)}: {said}"), answer)

    def _denied(self, repository: str, said: str) -> RegistryDenied:
        return RegistryDenied(
            f"pull access denied for {self.place(repository)}, repository does not exist or may require "
            f"'layerfs login': {said}"
        )

    def _named(self, repository: str, reference: str | Digest) -> str:
        joint = "@" if isinstance(reference, Digest) or ":" in reference else ":"
        return f"{self.place(repository)}{joint}{reference}"

    # blobs

    def has_blob(self, repository: str, digest: Digest, *, push: bool = False) -> int | None:
        """The size of a blob that is there, None for one that is not; `push`: with the token of a push."""
        return finished(self.looks_for_blob(repository, digest, push=push))

    def looks_for_blob(
        self, repository: str, digest: Digest, *, push: bool = False
    ) -> Generator[int | None, None, int | None]:
        """`has_blob` as a task."""
        scope = push_scope(repository) if push else pull_scope(repository)
        answer = yield from self.session.exchange("HEAD", f"/v2/{repository}/blobs/{digest}", scopes=[scope])
        answer.discard()
        if answer.status == HTTPStatus.OK:
            return answer.length if answer.length is not None else 0
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        raise self.session.failure(answer, self.place(repository))

    def blob(self, repository: str, digest: Digest, offset: int = 0, size: int | None = None) -> BlobStream:
        """A blob's bytes from an offset on. `size`: the whole blob's; some registries want a range to have an end.

        Raises:
            RegistryNotFound, RegistryDenied, RegistryUnreachable, RegistryError.
        """
        headers = {"Range": f"bytes={offset}-{size - 1 if size else ''}"} if offset else {}
        answer = self._pull(f"/v2/{repository}/blobs/{digest}", repository, headers=headers)
        return self._stream(answer, offset, f"{self.place(repository)}: blob {digest}")

    def external(self, url: str, offset: int = 0) -> BlobStream:
        """A foreign layer's bytes from where its descriptor says that they are; nobody is told who we are."""
        scheme, host, _ = origin(url)
        if scheme not in ("http", "https") or not host or urlsplit(url).username is not None:
            raise RegistryError(f"refused to fetch a foreign layer from {url[:200]!r}")
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        answer = self.session.transport.request("GET", url, headers=headers)
        return self._stream(answer, offset, action("GET", url))

    def _stream(self, answer: Response, offset: int, what: str) -> BlobStream:
        if answer.status == HTTPStatus.OK:
            return BlobStream(answer, 0, answer.length)
        if answer.status == HTTPStatus.PARTIAL_CONTENT and offset:
            told = answer.headers.get("Content-Range", "")
            match = _RANGE.match(told)
            if match is None or int(match[1]) != offset:
                answer.close()
                raise RegistryError(f"{what}: asked for bytes from {offset} on, got {told[:100]!r}")
            return BlobStream(answer, offset, None if answer.length is None else offset + answer.length)
        if answer.status < HTTPStatus.BAD_REQUEST:
            answer.close()
            raise RegistryError(f"{what}: {words(answer.status, b'')}")
        raise self.session.failure(answer, what)

    def _pull(self, path: str, repository: str, method: str = "GET", headers: dict[str, str] | None = None) -> Response:
        return self.session.request(method, path, scopes=[pull_scope(repository)], headers=headers)

    # lists

    def tags(self, repository: str) -> Iterator[str]:
        """All tags of a repository, page by page. Raises RegistryNotFound: `name unknown: …`."""
        where = self.place(repository)
        for page in self._pages(f"/v2/{repository}/tags/list?n={_PAGE}", pull_scope(repository), where):
            yield from page.texts("tags") or ()

    def catalog(self) -> Iterator[str]:
        """All repositories that the registry tells of."""
        for page in self._pages(f"/v2/_catalog?n={_PAGE}", "registry:catalog:*", self.name):
            yield from page.texts("repositories") or ()

    def search(self, term: str, count: int, host: str = "") -> Iterator[SearchResult]:
        """By docker's old search, which Docker Hub has (at another `host`). Raises RegistryError, RegistryNotFound."""
        url = f"{host or self.session.url('/')}v1/search?q={quote(term, safe='')}&n={count}"
        answer = self.session.request("GET", url)
        if answer.status != HTTPStatus.OK:
            raise self.session.failure(answer, f"search on {self.name}")
        document = load_object(_document(answer, self.name), f"search on {self.name}")
        for row in document.children("results"):
            about = row.text("description") if row.has("description") else ""
            yield SearchResult(row.text("name"), about, row.integer("star_count"), row.flag("is_official"))

    def _pages(self, path: str, scope: str, what: str) -> Iterator[Fields]:
        seen: set[str] = set()
        url = self.session.url(path)
        while url not in seen and len(seen) < _PAGES_MAX:
            seen.add(url)
            answer = self.session.request("GET", url, scopes=[scope])
            if answer.status != HTTPStatus.OK:
                raise self.session.failure(answer, what)
            yield load_object(_document(answer, what), what)
            match = _NEXT.search(answer.headers.get("Link", ""))
            if match is None:
                return
            try:
                following = urljoin(url, match[1])
            except ValueError:
                raise RegistryError(f"{what}: bad address of the next page: {match[1][:200]!r}") from None
            if origin(following) != origin(url):
                raise RegistryError(f"{what}: the next page is said to be on another host")
            url = following

    def referrers(self, repository: str, digest: Digest, artifact_type: str = "") -> tuple[Descriptor, ...]:
        """What says that it belongs to a manifest (signatures, attestations); by tag where there is no such API."""
        query = f"?artifactType={quote(artifact_type, safe='')}" if artifact_type else ""
        found: list[Descriptor] = []
        try:
            for page in self._pages(
                f"/v2/{repository}/referrers/{digest}{query}", pull_scope(repository), self.place(repository)
            ):
                found += map(Descriptor.read, page.children("manifests"))
        except RegistryNotFound:
            found = list(self._referrers_by_tag(repository, digest))
        return tuple(one for one in found if not artifact_type or one.artifact_type in ("", artifact_type))

    def _referrers_by_tag(self, repository: str, digest: Digest) -> tuple[Descriptor, ...]:
        try:
            document = self.manifest(repository, referrers_tag(digest)).document
        except NotFound:
            return ()
        return document.manifests if isinstance(document, Index) else ()

    # removal

    def delete_manifest(self, repository: str, reference: str | Digest) -> None:
        """By digest: with all its tags; by tag, where the registry can do that."""
        what = self._named(repository, reference)
        try:
            self._delete(f"/v2/{repository}/manifests/{reference}", repository, what)
        except RegistryError as error:
            if isinstance(reference, Digest) or error.status not in _NOT_BY_TAG:
                raise
            digest = self.manifest(repository, reference).digest  # or there is none: some take any tag for a bad digest
            told = RegistryError(f"{what}: the registry removes no single tag; with all its tags goes {digest}")
            told.status = error.status
            raise told from None

    def delete_blob(self, repository: str, digest: Digest) -> None:
        self._delete(f"/v2/{repository}/blobs/{digest}", repository, f"{self.place(repository)}: blob {digest}")

    def _delete(self, path: str, repository: str, what: str) -> None:
        answer = self.session.request("DELETE", path, scopes=[f"repository:{repository}:delete,pull"])
        if answer.status not in (HTTPStatus.ACCEPTED, HTTPStatus.OK, HTTPStatus.NO_CONTENT):
            raise self.session.failure(answer, what)
        answer.discard()

    def check(self) -> None:
        """Whether we are let in: for `login`. Raises RegistryDenied."""
        answer = self.session.request("GET", "/v2/")
        if answer.status != HTTPStatus.OK:
            raise self.session.failure(answer)
        answer.discard()

    def close(self) -> None:
        self.session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_blob(client: Client, repository: str, descriptor: Descriptor, *, limit: int) -> bytes:
    """A small blob in memory, verified: a config.

    Raises:
        Corrupt: other bytes. InvalidArchive: it is said to be longer than `limit` bytes.
    """
    if descriptor.data is not None:
        return descriptor.data
    what = f"{client.place(repository)}: blob {descriptor.digest}"
    if descriptor.size > limit:
        raise InvalidArchive(f"{what} is {descriptor.size} bytes long, more than the {limit} allowed")
    data = b""
    with client.blob(repository, descriptor.digest) as stream:
        while len(data) <= descriptor.size and (piece := stream.read(descriptor.size + 1 - len(data))):
            data += piece
    if len(data) != descriptor.size:
        raise Corrupt(f"{what}: size mismatch: got {len(data)} bytes or more, expected {descriptor.size}")
    if Digest.of(data) != descriptor.digest:
        raise Corrupt(f"{what}: digest mismatch: got {Digest.of(data)}, expected {descriptor.digest}")
    return data


def referrers_tag(digest: Digest) -> str:
    """The tag that holds the index of referrers where a registry has no API for them."""
    return f"sha256-{digest.hex}"


def is_referrers_tag(tag: str) -> bool:
    return tag.startswith("sha256-") and is_hex(tag.removeprefix("sha256-"))


def _document(answer: Response, what: str) -> bytes:
    """A small body. Raises InvalidArchive when it is longer than documents may be."""
    if answer.length is not None and answer.length > DOCUMENT_MAX:
        answer.close()
        raise InvalidArchive(f"{what} is {answer.length} bytes long, more than the {DOCUMENT_MAX} allowed")
    return answer.body(DOCUMENT_MAX)


def _media_type(answer: Response) -> str:
    """What the registry says that a manifest is; nothing when it says something general."""
    told = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return told if told in _TYPES else ""


def _with_status(error: RegistryError, answer: Response) -> RegistryError:
    error.status = answer.status
    return error
