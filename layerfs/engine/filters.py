"""The seccomp filter of a container, compiled once for a profile, a set of capabilities, a kernel and a library, and
kept in the store's `cache/seccomp/`, which may be removed at any time.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs.errors import InvalidInput
from layerfs.native import sha256

if TYPE_CHECKING:
    from layerfs.engine.settings import Settings
    from layerfs.runtime.seccomp import Filter
    from layerfs.store.root import StoreRoot

UNCONFINED = "unconfined"
_VERSION = b"1"  # of what seccomp_compile makes


def check_profile(text: str | None) -> None:
    """Raises InvalidInput for what is no profile."""
    if text not in (None, UNCONFINED, ""):
        from layerfs.runtime.seccomp import parse, resolve

        resolve(parse(text or ""), os.uname().machine, os.uname().release, ())


def filter_of(root: StoreRoot, settings: Settings) -> bytes:
    """The filter for a container's programs; empty when it has none. Raises InvalidInput, Unsupported, RunError."""
    if (settings.privileged and settings.seccomp is None) or settings.seccomp == UNCONFINED:
        return b""
    key = _key(settings)
    place = root.path / f"cache/seccomp/{key}"
    kept = _read(place)
    return kept if kept is not None else _keep(place, _compile(settings), read_only=root.read_only)


def _capabilities(settings: Settings) -> frozenset[str]:
    return _names(settings.cap_add, settings.cap_drop, privileged=settings.privileged)


def _names(added: tuple[str, ...], dropped: tuple[str, ...], *, privileged: bool) -> frozenset[str]:
    from layerfs.runtime.capabilities import NAMES, choose

    mask = choose(added, dropped, privileged=privileged)
    return frozenset(f"CAP_{name}" for number, name in enumerate(NAMES) if mask >> number & 1)


def _key(settings: Settings) -> str:
    return _key_of(settings.seccomp or "", settings.privileged, settings.cap_add, settings.cap_drop)


@functools.lru_cache(maxsize=64)
def _key_of(profile: str, privileged: bool, added: tuple[str, ...], dropped: tuple[str, ...]) -> str:
    host, chosen = os.uname(), _names(added, dropped, privileged=privileged)
    parts = [profile, host.machine, host.release, *sorted(chosen), _library_stamp()]
    return sha256(_VERSION + b"\0" + json.dumps(parts).encode()).hex()


@functools.cache
def _library_stamp() -> str:
    """A newer libseccomp knows more calls. Its file, without loading it: that takes longer than all the rest. A process
    that has loaded one stays with it."""
    for directory in ("/usr/lib64", f"/usr/lib/{os.uname().machine}-linux-gnu", "/usr/lib", "/lib"):
        with contextlib.suppress(OSError):
            return str(Path(directory, "libseccomp.so.2").resolve(strict=True))
    return ""


def _compile(settings: Settings) -> bytes:
    from layerfs.runtime.seccomp_compile import compile_filter

    return compile_filter(_resolved(settings))


def _resolved(settings: Settings) -> Filter:
    from layerfs.runtime import seccomp_default
    from layerfs.runtime.seccomp import parse, resolve

    document = parse(settings.seccomp) if settings.seccomp else seccomp_default.document()
    host = os.uname()
    return resolve(document, host.machine, host.release, _capabilities(settings))


def rules_of(settings: Settings) -> Filter | None:
    """What `filter_of` compiles, for who compiles it himself; None where there is no filter. Raises InvalidInput."""
    if (settings.privileged and settings.seccomp is None) or settings.seccomp == UNCONFINED:
        return None
    return _resolved(settings)


def _read(place: Path) -> bytes | None:
    """What is kept there, if it is whole."""
    try:
        data = place.read_bytes()
    except OSError:
        return None
    code, digest = data[:-32], data[-32:]
    return code if code and len(code) % 8 == 0 and sha256(code) == digest else None


def _keep(place: Path, code: bytes, *, read_only: bool) -> bytes:
    if read_only:
        return code
    temporary = place.with_name(f".{os.urandom(8).hex()}")
    with contextlib.suppress(OSError):  # a full disk: it is compiled again next time
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_bytes(code + sha256(code))
        temporary.replace(place)
    with contextlib.suppress(OSError):
        temporary.unlink(missing_ok=True)
    return code


def profile_from(value: str) -> str:
    """What `--security-opt seccomp=VALUE` means: `unconfined`, or a file's text. Raises InvalidInput."""
    if value in ("", UNCONFINED):
        return UNCONFINED
    try:
        text = Path(value).read_text()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise InvalidInput(f"opening seccomp profile ({value}) failed: {(reason or '').lower()}") from None
    check_profile(text)
    return text
