"""Image names: parse, normalise, print.

The grammar and the default domain are docker's (distribution's reference grammar): a first part that has a
dot or a colon, is `localhost` or has an upper-case letter is a host; anything else belongs to docker.io, and a
single part lives below `library/`. Error texts are docker's too, because users look for them.
"""

from __future__ import annotations

import functools

from layerfs._lazy import pattern
from layerfs._record import dataclass, replace
from layerfs.digest import Digest, is_hex
from layerfs.errors import InvalidInput

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"
NAME_MAX = 255

_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_FULL = pattern(rf"({_HOST})/({_PART}(?:/{_PART})*)(?::({_TAG}))?(?:@({_DIGEST}))?\Z")
_TAG_ONLY = pattern(_TAG + r"\Z")
_IN_TAGS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """A normalised image name. `str()` is the full form, `.familiar` what docker shows.

    A name with both a tag and a digest keeps both; the digest decides what it means (`key`).
    """

    domain: str
    path: str
    tag: str | None = None
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse what a user types; nothing is added for a missing tag (see `tagged`).

        Raises:
            InvalidInput: docker's text for the broken rule.
        """
        return parse(text)

    @property
    def name(self) -> str:
        """Domain and path: `docker.io/library/debian`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """The shortest form that parses back to `name`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        short = self.path.removeprefix(_OFFICIAL)
        candidate = self.path if "/" in short else short
        if is_hex(candidate) or _split_domain(candidate) != (self.domain, self.path):
            return self.name
        return candidate

    @property
    def familiar(self) -> str:
        return self.familiar_name + self._suffix()

    @property
    def key(self) -> str:
        """The row of the `references` table that this names: `name@digest`, else `name:tag`."""
        if self.digest is not None:
            return f"{self.name}@{self.digest}"
        return f"{self.name}:{self.tag or DEFAULT_TAG}"

    def tagged(self) -> Reference:
        """The same name with `latest` when it has neither a tag nor a digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def with_tag(self, tag: str) -> Reference:
        """The repository with this tag (and no digest)."""
        if not _TAG_ONLY.match(tag):
            raise InvalidInput("invalid tag format")
        return Reference(self.domain, self.path, tag)

    def with_digest(self, digest: Digest) -> Reference:
        """The repository at this digest (and no tag)."""
        return Reference(self.domain, self.path, None, digest)

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.name + self._suffix()


@functools.lru_cache(maxsize=256)
def parse(text: str) -> Reference:
    """See `Reference.parse`."""
    if not isinstance(text, str):
        raise TypeError(f"the name of an image is a str, not {type(text).__name__}")
    if is_hex(text):
        raise InvalidInput(f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings")
    domain, rest = _split_domain(text)
    remote = rest.partition(":")[0]
    if remote.lower() != remote:
        raise InvalidInput(f"invalid reference format: repository name ({remote}) must be lowercase")
    if domain == DEFAULT_DOMAIN and (found := _plain(rest)):
        return Reference(domain, *found)
    match = _FULL.match(f"{domain}/{rest}")
    if match is None:
        raise InvalidInput("invalid reference format")
    host, path, tag, digest = match.groups()
    if len(host) + 1 + len(path) > NAME_MAX:
        raise InvalidInput(f"repository name must not be more than {NAME_MAX} characters")
    return Reference(host, path, tag, _digest(digest) if digest else None)


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, remainder = text.partition("/")
    is_host = first == "localhost" or "." in first or ":" in first or first.lower() != first
    if not slash or not is_host:
        domain, rest = DEFAULT_DOMAIN, text
    elif first == _LEGACY_DOMAIN:
        domain, rest = DEFAULT_DOMAIN, remainder
    else:
        domain, rest = first, remainder
    if domain == DEFAULT_DOMAIN and "/" not in rest:
        rest = _OFFICIAL + rest
    return domain, rest


def _plain(rest: str) -> tuple[str, str | None] | None:
    """Path and tag of nearly every name, without the pattern, whose compilation takes longer than many commands; None
    for any other one, which may be right too."""
    path, colon, tag = rest.partition(":")
    words = path.replace("/", "-").replace(".", "-").replace("_", "-").split("-")
    plain = path.isascii() and len(path) < NAME_MAX // 2 and all(word.isalnum() for word in words)
    right = not colon or (0 < len(tag) <= 128 and tag[0] not in ".-" and not tag.strip(_IN_TAGS))
    return (path, tag or None) if plain and right else None


def _digest(text: str) -> Digest:
    algorithm, _, digits = text.partition(":")
    if algorithm != "sha256":
        raise InvalidInput("unsupported digest algorithm")
    if len(digits) != 64:
        raise InvalidInput("invalid checksum digest length")
    if not is_hex(digits):
        raise InvalidInput("invalid checksum digest format")
    return Digest(digits)
