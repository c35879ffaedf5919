"""How registries are reached: TOML files, docker's daemon.json, podman's registries.conf, certificates, variables.

# /etc/layerfs/registries.toml, then ~/.config/layerfs/registries.toml, or LAYERFS_REGISTRIES alone
insecure-registries = ["registry.example:5000", "10.0.0.0/8"]   # docker's words
registry-mirrors = ["https://mirror.example"]                   # of docker.io
timeout = 60            # seconds without a byte
attempts = 5
keep-blobs = "auto"     # compressed layers that are kept beside their files: "always", "auto", "never"

[registry."registry.example"]
mirrors = ["https://near.example"]
insecure = false
ca = "/etc/ssl/example.pem"
"""

from __future__ import annotations

import functools
import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from layerfs._lazy import TYPE_CHECKING, cast
from layerfs._record import dataclass, field, replace
from layerfs.errors import InvalidInput
from layerfs.oci.fields import Fields
from layerfs.reference import DEFAULT_DOMAIN
from layerfs.registry import containersconf
from layerfs.registry.credentials import AuthFiles
from layerfs.registry.names import HUB_API, domain_of, host_name, is_loopback
from layerfs.registry.transport import Limits, origin
from layerfs.registry.watched import Watched

if TYPE_CHECKING:
    import ssl
    from typing import Any

    from layerfs.layer.read import KeepBlob

_SYSTEM = Path("/etc/layerfs/registries.toml")
_DAEMON = Path("/etc/docker/daemon.json")
_CERTS = (Path("/etc/layerfs/certs.d"), Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))
_KEYS = ("insecure-registries", "registry-mirrors", "timeout", "attempts", "keep-blobs", "registry")
_KEYS_OF_ONE = ("mirrors", "insecure", "ca")


@dataclass(frozen=True, slots=True)
class Settings:
    """What is known of registries before one is asked.

    insecure: hosts and networks (CIDR) that are reached without TLS when it has to be, and whose certificates are not
        verified. This machine always is one.
    mirrors: by domain, asked first when something is read.
    certificates: directories with one directory for each `host[:port]`: `*.crt` are CAs, `*.cert` and `*.key` ours.
    authorities: files with CAs, by domain.
    keep_blobs: which compressed layers of a pull are kept: with `auto` those that take less than the contents that
        they brought; the others can be had again where they came from.
    proxies: by scheme, and `no` for the exceptions, as `urllib.request.getproxies` gives them.
    """

    insecure: tuple[str, ...] = ()
    secure: tuple[str, ...] = ()
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    certificates: tuple[Path, ...] = ()
    authorities: Mapping[str, str] = field(default_factory=dict)
    proxies: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)
    auth: AuthFiles | None = None
    keep_blobs: KeepBlob = "auto"

    @classmethod
    def load(cls, environ: Mapping[str, str], *, home: Path | None = None, watched: Watched | None = None) -> Settings:
        """From the files and variables that are there.

        watched: is told of every file that plays a part, or would if it were there.

        Raises:
            InvalidInput: a file that cannot be understood; it says which and where.
        """
        home, watched = home or _home(environ), watched or Watched()
        personal = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        settings = cls(
            certificates=_certificates(personal),
            proxies=_proxies(environ),
            auth=AuthFiles.of(environ, home),
        )
        told = containersconf.read(environ, personal, watched)
        settings = replace(settings, insecure=tuple(told.insecure), mirrors=told.mirrors)
        settings = _with_daemon(settings, _DAEMON, watched)
        if alone := environ.get("LAYERFS_REGISTRIES"):
            return _with_toml(settings, Path(alone), watched, must=True)
        for path in (_SYSTEM, personal / "layerfs/registries.toml"):
            settings = _with_toml(settings, path, watched)
        return settings

    def is_insecure(self, host: str) -> bool:
        """Whether TLS, and its certificate, may be missing or bad at `host[:port]`."""
        domain = domain_of(host)
        if domain in self.secure or domain in self.authorities or any(self._certificate_dirs(host)):
            return False
        if is_loopback(host) or domain in self.insecure or host_name(host) in self.insecure:
            return True
        networks = [entry for entry in self.insecure if "/" in entry]
        return bool(networks) and _within(host, networks)

    def addresses(self, host: str) -> tuple[str, ...]:
        """What to try for a registry's API, best first."""
        return (f"https://{host}", f"http://{host}") if self.is_insecure(host) else (f"https://{host}",)

    def context(self, host: str) -> ssl.SSLContext:
        """TLS for a host: the system's CAs and its own.

        Raises:
            InvalidInput: a file of certificates that is none.
        """
        import ssl  # which takes longer to load than a small push without TLS

        if self.is_insecure(host):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return context
        context = ssl.create_default_context()
        if own := self.authorities.get(domain_of(host)):
            _load(own, lambda: context.load_verify_locations(own))
        for directory in self._certificate_dirs(host):
            _load_directory(context, directory)
        return context

    def _certificate_dirs(self, host: str) -> Iterable[Path]:
        names = {host, DEFAULT_DOMAIN} if host == HUB_API else {host}
        places = [f"{top}/{name}" for top in self.certificates for name in sorted(names)]
        return [Path(place) for place in places if os.path.isdir(place)]  # noqa: PTH112 (asked for each registry)

    def proxy(self, url: str) -> str | None:
        """The proxy for a URL; never for this machine, as Go has it."""
        parts = urlsplit(url)
        found = self.proxies.get(parts.scheme) or self.proxies.get("all")
        if not found or is_loopback(parts.netloc) or _without_proxy(url, self.proxies.get("no", "")):
            return None
        return found if "://" in found else f"http://{found}"


@functools.lru_cache(maxsize=4)
def _certificates(personal: Path) -> tuple[Path, ...]:
    return (personal / "layerfs/certs.d", personal / "containers/certs.d", *_CERTS)


def _proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """`https_proxy`, `http_proxy`, `all_proxy` and `no_proxy` in either case; lower case counts.

    A web server's programs get a client's `Proxy:` header as HTTP_PROXY, which is not ours to obey.
    """
    found: dict[str, str] = {}
    for name in sorted((name for name in environ if name.lower().endswith("_proxy")), key=str.islower):
        forged = name == "HTTP_PROXY" and "REQUEST_METHOD" in environ
        if (environ[name] or name.islower()) and not forged:
            found[name.lower().removesuffix("_proxy")] = environ[name]
    return {scheme: value for scheme, value in found.items() if value}


def _without_proxy(url: str, exceptions: str) -> bool:
    """Whether `no_proxy` has a host: `*`, a name with all below it, an address, a network, each with a port or not."""
    _, host, port = origin(url)
    for text in filter(None, (entry.strip().lower() for entry in exceptions.split(","))):
        name, only = _with_port(text.removeprefix("*").strip("."))
        if not name and not text.startswith("*"):
            continue
        if only in ("", str(port)) and (name in ("", host) or host.endswith(f".{name}") or _is_in(host, name)):
            return True
    return False


def _with_port(text: str) -> tuple[str, str]:
    """A host and its port; of `[::1]:5000`, `::1`, `host:80` and `10.0.0.0/8` alike."""
    if text.startswith("["):
        name, _, port = text[1:].partition("]")
        return name, port.removeprefix(":")
    name, _, port = text.partition(":") if text.count(":") == 1 else (text, "", "")
    return name.rstrip("."), port


def _is_in(address: str, network: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _within(host: str, networks: Iterable[str]) -> bool:
    import ipaddress

    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host_name(host), None)}
    except OSError:
        return False
    for text in networks:
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            continue
        if any(ipaddress.ip_address(address.partition("%")[0]) in network for address in addresses):
            return True
    return False


def _home(environ: Mapping[str, str]) -> Path:
    """Of a user whom nobody knows it is the root: there is nothing to read, and nothing can be written."""
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError:
        return Path("/")


def _with_daemon(settings: Settings, path: Path, watched: Watched) -> Settings:
    watched.look(path)
    try:
        value = json.loads(path.read_bytes())
    except OSError:
        return settings
    except ValueError as error:
        raise InvalidInput(f"not valid JSON: {error}", path=str(path)) from None
    return _with(settings, Fields(value, str(path))) if isinstance(value, dict) else settings


def _with_toml(settings: Settings, path: Path, watched: Watched, *, must: bool = False) -> Settings:
    watched.look(path)
    try:
        text = path.read_text(encoding="utf-8")
        import tomllib

        value = tomllib.loads(text)
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        if must:
            raise InvalidInput(f"open {path}: {(error.strerror or '').lower()}") from None
        return settings
    except (ValueError, OSError) as error:
        raise InvalidInput(f"not valid TOML: {error}", path=str(path)) from None
    fields = Fields(value, str(path))
    _check_keys(fields)
    return _with(settings, fields)


def _check_keys(fields: Fields) -> None:
    """A word that nobody reads is a mistake, and some decide whether TLS is verified; daemon.json has docker's others.

    Raises:
        InvalidInput: an unknown key.
    """
    _check_names(fields, _KEYS, _KEYS_OF_ONE)
    registries = fields.child("registry")
    for name in registries.names() if registries else ():
        if (one := registries.child(name) if registries else None) is not None:
            _check_names(one, _KEYS_OF_ONE, _KEYS)


def _check_names(fields: Fields, known: tuple[str, ...], elsewhere: tuple[str, ...]) -> None:
    for name in fields.names():
        if name in known:
            continue
        import difflib

        near = difflib.get_close_matches(name, known, 1)
        if near:
            hint = f"did you mean {near[0]}?"
        elif name in elsewhere:
            hint = "it belongs " + ('below [registry."HOST"]' if known is _KEYS else "at the top, before [registry...]")
        else:
            hint = f"known are {', '.join(known)}"
        raise InvalidInput(f"unknown key {name!r} ({hint})", path=fields.where)


def _with(settings: Settings, fields: Fields) -> Settings:
    """What a document says, over what was said before."""
    insecure = [_host(entry, fields.where) for entry in fields.texts("insecure-registries") or ()]
    mirrors = dict(settings.mirrors)
    if (hub := fields.texts("registry-mirrors")) is not None:
        mirrors[DEFAULT_DOMAIN] = tuple(_mirror(text, fields.where) for text in hub)
    secure, authorities = list(settings.secure), dict(settings.authorities)
    registries = fields.child("registry")
    for name in registries.names() if registries else ():
        entry = registries.child(name) if registries else None
        if entry is None:
            continue
        domain = domain_of(name)
        if (own := entry.texts("mirrors")) is not None:
            mirrors[domain] = tuple(_mirror(text, fields.where) for text in own)
        if entry.has("insecure"):
            (insecure if entry.flag("insecure") else secure).append(domain)
        if entry.has("ca"):
            authorities[domain] = entry.text("ca")
    limits = settings.limits
    if fields.has("timeout"):
        if (seconds := fields.integer("timeout")) < 1:
            raise InvalidInput(f"timeout is {seconds}, not at least 1 second", path=fields.where)
        limits = replace(limits, read=float(seconds))
    if fields.has("attempts"):
        limits = replace(limits, attempts=max(1, fields.integer("attempts")))
    return replace(
        settings,
        keep_blobs=_keep_blobs(fields) or settings.keep_blobs,
        insecure=(*settings.insecure, *insecure),
        secure=tuple(secure),
        mirrors=mirrors,
        authorities=authorities,
        limits=limits,
    )


def _keep_blobs(fields: Fields) -> KeepBlob | None:
    found = fields.text("keep-blobs") if fields.has("keep-blobs") else None
    if found not in (None, "always", "auto", "never"):
        raise InvalidInput(f'keep-blobs is {found!r}, not "always", "auto" or "never"', path=fields.where)
    return cast("KeepBlob | None", found)


def _host(entry: str, where: str) -> str:
    """An entry of `insecure-registries`: a host, or a network."""
    text = entry.strip().rstrip("/")
    try:
        if "/" in text and "://" not in text:
            import ipaddress

            ipaddress.ip_network(text, strict=False)
            return text
        _ = urlsplit(text if "://" in text else f"//{text}").port  # ValueError
        return domain_of(text)
    except (ValueError, InvalidInput):
        raise InvalidInput(f"insecure-registries: {entry!r} is neither a host nor a network", path=where) from None


def _mirror(entry: str, where: str) -> str:
    """The address of a mirror: a host, or the URL that it is reached by."""
    text = entry.strip()
    try:
        parts = urlsplit(text if "://" in text else f"https://{text}")
        _ = parts.port  # ValueError
        sound = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        if sound and domain_of(text):
            return text.rstrip("/")
    except (ValueError, InvalidInput):
        pass
    raise InvalidInput(f"invalid mirror {entry!r}: want http://HOST[:PORT] or https://HOST[:PORT]", path=where)


def _load_directory(context: ssl.SSLContext, directory: Path) -> None:
    """Docker's certs.d: `*.crt` are CAs; `x.cert` and `x.key` are what we show."""
    for path in sorted(directory.iterdir()):
        if path.suffix == ".crt":
            _load(path, lambda path=path: context.load_verify_locations(path))
        elif path.suffix == ".cert":
            key = path.with_suffix(".key")
            if not key.exists():
                raise InvalidInput(f"missing key {key.name} for client certificate {path.name}", path=str(directory))
            _load(path, lambda path=path, key=key: context.load_cert_chain(path, key))


def _load(path: Path | str, load: Any) -> None:
    try:
        load()
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot use the certificates: {error}", path=str(path)) from None
