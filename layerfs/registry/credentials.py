"""Users and secrets: docker's config.json, podman's auth.json, credential helpers. `login` and `logout` write them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING, pattern
from layerfs._record import dataclass, field
from layerfs.errors import InvalidInput, RegistryError
from layerfs.registry.names import credential_key, domain_of

if TYPE_CHECKING:
    from typing import Any

_FILE_MAX = 4 << 20
_HELPER_SECONDS = 60
_HELPER_NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_TOKEN_USER = "<token>"  # a helper's way to say that the secret is an identity token


@dataclass(frozen=True, slots=True)
class Credential:
    """A user and a password, or an identity token."""

    user: str
    secret: str = field(repr=False)
    identity: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class AuthFiles:
    """The files that credentials are in, in the order they are asked; `target` is the one that `login` writes."""

    paths: tuple[Path, ...]
    target: Path

    @classmethod
    def of(cls, environ: Mapping[str, str], home: Path) -> AuthFiles:
        """Docker's and podman's places. REGISTRY_AUTH_FILE names the only one, as podman has it."""
        if alone := environ.get("REGISTRY_AUTH_FILE"):
            return cls((Path(alone),), Path(alone))
        docker = Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
        run = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "containers/auth.json"
        root = (Path("/run/containers/0/auth.json"),) if os.getuid() == 0 else ()
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "containers/auth.json"
        return cls((docker, run, *root, config), docker)

    def find(self, domain: str, repository: str = "") -> Credential | None:
        """What the first file that knows the registry says; podman's entries may be for a part of a registry.

        Raises:
            InvalidInput: a file that is no JSON. RegistryError: a helper that does not work.
        """
        for path in self.paths:
            found = _find(_read(path), path, domain, repository)
            if found is not None:
                return found
        return None

    def store(self, domain: str, credential: Credential) -> Path | None:
        """Keeps a credential, by the helper that the file names; the file, when it holds the secret itself."""
        with _changing(self.target) as document:
            helper = _helper(document, domain)
            auths = document.setdefault("auths", {})
            if not isinstance(auths, dict):
                raise InvalidInput("auths is not an object", path=str(self.target))
            key = credential_key(domain)
            if helper is not None:
                user = _TOKEN_USER if credential.identity else credential.user
                secret = credential.identity or credential.secret
                _call(helper, "store", json.dumps({"ServerURL": key, "Username": user, "Secret": secret}))
                auths[key] = {}
                return None
            auth = base64.b64encode(f"{credential.user}:{credential.secret}".encode()).decode()
            auths[key] = {"auth": auth} | ({"identitytoken": credential.identity} if credential.identity else {})
        return self.target

    def erase(self, domain: str) -> bool:
        """Forgets a registry in every file; whether there was something."""
        found = False
        for path in self.paths:
            document = _read(path)
            keys = [key for key in _auths(document) if _means(key, domain)]
            helper = _helper(document, domain)
            if helper is not None and _ask(helper, domain) is not None:
                _call(helper, "erase", credential_key(domain))
                found = True
            if keys:
                found = True
                with _changing(path) as changed:
                    for key in keys:
                        changed.get("auths", {}).pop(key, None)
        return found


def _find(document: Mapping[str, Any], path: Path, domain: str, repository: str) -> Credential | None:
    helper = _helper(document, domain)
    if helper is not None:
        found = _ask(helper, domain)
        if found is not None:
            return found
    auths = _auths(document)
    for key in _keys(domain, repository):
        for name, entry in auths.items():
            if isinstance(entry, dict) and _plain(name) == key:
                found = _entry(entry, path, name)
                if found is not None:
                    return found
    return None


def _keys(domain: str, repository: str) -> Iterator[str]:
    """Podman's names, the most special first: `host/team/app`, `host/team`, `host`."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), -1, -1):
        yield "/".join([domain, *parts[:count]])


def _plain(key: str) -> str:
    """A key of `auths` as `host[/path]`; docker's are hosts or URLs, whose path says nothing."""
    if "://" in key:
        with contextlib.suppress(InvalidInput):
            return domain_of(key)
    host, slash, rest = key.partition("/")
    if rest in ("", "v1", "v1/", "v2", "v2/"):
        slash = rest = ""
    with contextlib.suppress(InvalidInput):
        return domain_of(host) + slash + rest
    return key


def _means(key: str, domain: str) -> bool:
    return _plain(key) == domain


def _entry(entry: Mapping[str, Any], path: Path, name: str) -> Credential | None:
    texts = {key: value for key, value in entry.items() if isinstance(value, str)}
    user, secret = texts.get("username", ""), texts.get("password", "")
    if texts.get("auth"):
        try:
            user, colon, secret = base64.b64decode(texts["auth"], validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if not colon:
            raise InvalidInput(f"the entry of {name} is not base64 of USER:PASSWORD", path=str(path))
    identity = texts.get("identitytoken", "")
    return Credential(user, secret.rstrip("\0"), identity) if user or identity else None


def _auths(document: Mapping[str, Any]) -> Mapping[str, Any]:
    auths = document.get("auths")
    return auths if isinstance(auths, dict) else {}


def _read(path: Path) -> dict[str, Any]:
    """The object in a file; empty when there is no file."""
    try:
        with path.open("rb") as file:
            raw = file.read(_FILE_MAX + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise InvalidInput(f"cannot read the credentials: {error.strerror}", path=str(path)) from None
    try:
        document = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"not valid JSON: {error}", path=str(path)) from None
    if not isinstance(document, dict):
        raise InvalidInput("not a JSON object", path=str(path))
    return document


@contextlib.contextmanager
def _changing(path: Path) -> Iterator[dict[str, Any]]:
    """The file's object, written back as a whole; what others keep in the file stays. One at a time."""
    path = Path(os.path.realpath(path))
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        document = _read(path)
        yield document
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(document, file, indent="\t")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        os.close(directory)
        temporary.unlink(missing_ok=True)


def _helper(document: Mapping[str, Any], domain: str) -> str | None:
    """The helper for a registry: its own, else the general one."""
    special = document.get("credHelpers")
    if isinstance(special, dict):
        for key, name in special.items():
            if isinstance(name, str) and _means(key, domain):
                return name
    general = document.get("credsStore")
    return general if isinstance(general, str) and general else None


def _ask(helper: str, domain: str) -> Credential | None:
    answer = _call(helper, "get", credential_key(domain), missing_is_fine=True)
    if answer is None:
        return None
    try:
        document = json.loads(answer)
        user, secret = str(document["Username"]), str(document["Secret"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RegistryError(f"docker-credential-{helper} gave no user and secret for {domain}") from None
    return Credential("", "", secret) if user == _TOKEN_USER else Credential(user, secret)


def _call(helper: str, verb: str, text: str, *, missing_is_fine: bool = False) -> str | None:
    """docker-credential-helpers' protocol: text in, text out, words of failure on stdout."""
    if not _HELPER_NAME.match(helper):
        raise InvalidInput(f"bad name of a credential helper: {helper!r}")
    import subprocess

    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, verb], input=text, capture_output=True, text=True, errors="replace", timeout=_HELPER_SECONDS
        )
    except FileNotFoundError:
        raise RegistryError(
            f'error getting credentials - err: exec: "{program}": executable file not found in $PATH'
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RegistryError(f"error getting credentials - err: {program}: {error}") from None
    if done.returncode == 0:
        return done.stdout
    said = " ".join((done.stdout or done.stderr).split())[:500]
    if missing_is_fine and "credentials not found" in said.lower():
        return None
    raise RegistryError(f"credential helper {helper} ({verb}): err: exit status {done.returncode}, out: `{said}`")
