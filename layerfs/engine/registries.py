"""Registries, for a store and without one: push, login, copy, and what can be asked of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import replace
from layerfs.errors import InvalidInput, RegistryError
from layerfs.oci import ImageConfig, Index, Manifest, Platform, build_index
from layerfs.oci.config import CONFIG_MAX
from layerfs.oci.fields import format_time
from layerfs.reference import DEFAULT_DOMAIN, Reference
from layerfs.registry.client import SearchResult
from layerfs.registry.config import Settings
from layerfs.registry.connect import Registries, open_client
from layerfs.registry.credentials import AuthFiles, Credential
from layerfs.registry.names import credential_key, domain_of

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from layerfs.engine.store import Store
    from layerfs.layer.progress import Report
    from layerfs.registry.client import Client, Fetched
    from layerfs.registry.copy import Copied
    from layerfs.registry.download import Upstream
    from layerfs.registry.push import Pushed as Pushed
    from layerfs.registry.push import PushedLayer as PushedLayer


def registry_settings() -> Settings:
    """What files and variables of this user say; see docs/registries.md."""
    return Settings.load(os.environ)


# with a store


def push(
    store: Store,
    name: str,
    *,
    all_tags: bool = False,
    all_platforms: bool = False,
    compression: str = "gzip",
    exact: bool = False,
    settings: Settings | None = None,
    progress: Report | None = None,
    done: Callable[[PushedLayer], object] | None = None,
    pushed: Callable[[Pushed], object] | None = None,
) -> list[Pushed]:
    """See Store.push. `pushed` is told of each name when it is there."""
    from layerfs.registry.push import Pusher, tags_to_push

    if compression not in ("gzip", "zstd", "none"):
        raise InvalidInput(f"unknown compression {compression!r}")
    reference = Reference.parse(name)
    results = []
    tags = tags_to_push(store.root, reference, all_tags=all_tags)
    with Registries(settings or store.connections.settings(), kept=store.connections) as registries:
        pusher = Pusher(
            store.root,
            registries,
            reference,
            compression=compression,  # type: ignore[arg-type]
            exact=exact,
            progress=progress,
            done=done,
        )
        for tag in tags:
            results.append(pusher.push(tag, everything=all_platforms))
            if pushed is not None:
                pushed(results[-1])
    return results


# without one


def login(server: str, user: str, secret: str, *, settings: Settings | None = None) -> Path | None:
    """Tries a user and a password at a registry and keeps them; the file, where they are kept unencrypted.

    Raises:
        RegistryDenied: in docker's words. RegistryUnreachable; RegistryError: a credential helper does not work.
    """
    settings = settings or registry_settings()
    domain = domain_of(server)
    credential = Credential(user, secret)
    with open_client(settings, domain, credential=credential) as client:
        client.check()
    return _files(settings).store(domain, credential)


def check_login(server: str, *, settings: Settings | None = None) -> None:
    """Tries the user and the password that are kept for a registry. Raises as `login`."""
    with open_client(settings or registry_settings(), domain_of(server)) as client:
        client.check()


def logout(server: str, *, settings: Settings | None = None) -> bool:
    """Forgets a registry's user and password; False when there were none."""
    return _files(settings or registry_settings()).erase(domain_of(server))


def known_user(server: str, *, settings: Settings | None = None) -> str:
    """The user that is kept for a registry; empty when there is none."""
    found = _files(settings or registry_settings()).find(domain_of(server))
    return found.user if found else ""


def server_name(server: str) -> str:
    """What docker prints for a registry: the one of docker.io has its old address."""
    return credential_key(domain_of(server))


def _files(settings: Settings) -> AuthFiles:
    if settings.auth is None:
        raise InvalidInput("no files of credentials are known")
    return settings.auth


def tags(name: str, *, settings: Settings | None = None) -> list[str]:
    """All tags of a repository, sorted. Raises RegistryNotFound, RegistryDenied."""
    reference = Reference.parse(name)
    if reference.tag or reference.digest:
        raise InvalidInput("tags are listed of a repository: name it without a tag")
    with Registries(settings or registry_settings()) as registries:
        return sorted(_upstream(registries, reference).ask(lambda client: list(client.tags(reference.path))))


def search(
    term: str,
    *,
    limit: int | None = None,
    filters: Mapping[str, Sequence[str]] | None = None,
    settings: Settings | None = None,
) -> list[SearchResult]:
    """The repositories of a registry (`HOST[/PART]`) whose names have a part in them: by its catalog or, where it
    shows none (as docker.io), by docker's search.

    Args:
        limit: at most so many; of Docker Hub 25 unless given, and never more than 100.
        filters: `is-official` (true, false), `stars` (at least so many).

    Raises:
        InvalidInput: an unknown filter. RegistryDenied, RegistryNotFound, RegistryUnreachable.
    """
    wanted = _search_filter(filters or {})
    first, _, part = term.partition("/")
    is_host = "." in first or ":" in first or first == "localhost"
    domain, part = (domain_of(first), part) if is_host else (domain_of(""), term)
    found: list[SearchResult] = []
    with Registries(settings or registry_settings()) as registries:
        for each in _found(registries.client(domain), domain, part, limit):
            if limit is not None and len(found) >= limit:
                break
            if wanted(each):
                found.append(each)
    return found


_HUB_SEARCH = "https://index.docker.io/"


def _found(client: Client, domain: str, part: str, limit: int | None) -> Iterator[SearchResult]:
    count = min(limit or 25, 100)
    if domain == DEFAULT_DOMAIN:
        yield from client.search(part, count, _HUB_SEARCH)
        return
    try:
        for name in client.catalog():
            if part in name:
                yield SearchResult(f"{domain}/{name}")
    except RegistryError as error:
        try:
            found = list(client.search(part, count))
        except OSError:
            raise error from None
        for each in found:
            yield replace(each, name=f"{domain}/{each.name}")


def _search_filter(filters: Mapping[str, Sequence[str]]) -> Callable[[SearchResult], bool]:
    tests: list[Callable[[SearchResult], bool]] = []
    for name, values in filters.items():
        for value in values:
            if name == "stars" and value.isascii() and value.isdigit():
                tests.append(lambda each, least=int(value): each.stars >= least)  # type: ignore[misc]
            elif name in ("is-official", "is-automated") and value in ("true", "false", "1", "0"):
                if name == "is-official":
                    tests.append(lambda each, yes=value in ("true", "1"): each.official == yes)  # type: ignore[misc]
            else:
                raise InvalidInput(f"invalid filter '{name}={value}'")
    return lambda each: all(test(each) for test in tests)


def manifest(name: str, *, platform: str | None = None, settings: Settings | None = None) -> bytes:
    """The manifest, or index, that a name means in its registry, byte for byte; with a platform its manifest."""
    with Registries(settings or registry_settings()) as registries:
        reference = Reference.parse(name).tagged()
        upstream, wanted = _upstream(registries, reference), reference.digest or reference.tag or ""
        if platform is None:
            return upstream.ask(lambda client: client.manifest(reference.path, wanted)).raw
        which = Platform.parse(platform)
        return upstream.ask(lambda client: client.choose(reference.path, wanted, which))[0].raw


def referrers(name: str, artifact_type: str = "", *, settings: Settings | None = None) -> bytes:
    """What says in its registry that it belongs to a manifest (signatures, attestations), as an OCI index."""
    with Registries(settings or registry_settings()) as registries:
        reference = Reference.parse(name).tagged()
        client = registries.client(reference.domain, reference.path)
        digest = reference.digest or client.manifest(reference.path, reference.tag or "").digest
        return build_index(client.referrers(reference.path, digest, artifact_type)).raw


def delete_manifest(name: str, *, settings: Settings | None = None) -> None:
    """Removes a manifest from a registry: by digest with all its tags, by tag where the registry can do that."""
    with Registries(settings or registry_settings()) as registries:
        reference = Reference.parse(name).tagged()
        client = registries.client(reference.domain, reference.path)
        client.delete_manifest(reference.path, reference.digest or reference.tag or "")


def copy(
    source: str,
    target: str,
    *,
    everything: bool = False,
    platform: str | None = None,
    referrers: bool = False,
    settings: Settings | None = None,
    progress: Report | None = None,
) -> Copied:
    """Copies an image between registries, layouts and archives; see layerfs.registry.copy."""
    from layerfs.registry.copy import copy as copy_places
    from layerfs.registry.places import Place

    with Registries(settings or registry_settings()) as registries:
        return copy_places(
            Place.parse(source),
            Place.parse(target),
            registries,
            everything=everything,
            platform=Platform.parse(platform) if platform else None,
            referrers=referrers,
            progress=progress,
        )


def inspect_remote(name: str, *, platform: str | None = None, settings: Settings | None = None) -> dict[str, Any]:
    """What `inspect` shows of an image, from its registry: only manifests and the config are fetched."""
    with Registries(settings or registry_settings()) as registries:
        reference = Reference.parse(name).tagged()
        wanted = Platform.parse(platform) if platform else Platform.host()

        def asked(client: Client) -> dict[str, Any]:
            chosen, index = client.choose(reference.path, reference.digest or reference.tag or "", wanted)
            assert isinstance(chosen.document, Manifest)
            return _inspected(reference, chosen, chosen.document, index, _config(client, reference, chosen.document))

        return _upstream(registries, reference).ask(asked)


def _upstream(registries: Registries, reference: Reference) -> Upstream:
    """What to read from: mirrors, then the registry."""
    from layerfs.registry.download import upstream_of

    return upstream_of(registries, reference.name)


def _config(client: Client, reference: Reference, document: Manifest) -> ImageConfig:
    from layerfs.registry.client import read_blob
    from layerfs.registry.pull import check_kind

    check_kind(document, reference.familiar)
    raw = read_blob(client, reference.path, document.config, limit=CONFIG_MAX)
    return ImageConfig.parse(raw, what=f"{client.place(reference.path)}: config {document.config.digest}")


def _inspected(
    reference: Reference, chosen: Fetched, document: Manifest, index: Fetched | None, config: ImageConfig
) -> dict[str, Any]:
    digest = (index or chosen).digest
    listed = index.document.manifests if index and isinstance(index.document, Index) else ()
    return {
        "Id": str(config.id),
        "RepoTags": [reference.familiar] if reference.tag and not reference.digest else [],
        "RepoDigests": [reference.with_digest(digest).familiar],
        "Digest": str(chosen.digest),
        "MediaType": document.media_type,
        "Created": format_time(config.created_ns) if config.created_ns else "0001-01-01T00:00:00Z",
        "Author": config.author,
        "Config": config.config.document(),
        "Architecture": config.platform.architecture,
        **({"Variant": config.platform.variant} if config.platform.variant else {}),
        "Os": config.platform.os,
        "Size": sum(layer.size for layer in document.layers),
        "RootFS": {"Type": "layers", "Layers": [str(diff_id) for diff_id in config.diff_ids]},
        "Layers": [layer.document() for layer in document.layers],
        "Platforms": [str(entry.platform) for entry in listed if entry.platform and not entry.platform.unknown],
    }
