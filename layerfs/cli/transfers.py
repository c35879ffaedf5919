"""pull and push: their options as data, and what they do; and the images that create and run need."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs.cli.flags import Plain, option
from layerfs.cli.output import fail, out
from layerfs.cli.progress import bars, blob_bars
from layerfs.cli.session import Session
from layerfs.errors import InvalidInput, LayerfsError
from layerfs.reference import Reference

if TYPE_CHECKING:
    from typing import Any

    from layerfs.engine.pulling import Pulled
    from layerfs.engine.registries import Pushed, PushedLayer

_LINES = {  # docker's words for what happens to a blob
    "wait": "Waiting",
    "exists": "Already exists",
    "download": "Pulling fs layer",
    "downloaded": "Download complete",
    "done": "Pull complete",
}
Say = Callable[[str], object]


def pull(session: Session, words: Sequence[str], options: dict[str, Any]) -> None:
    name, quiet = words[0], options["quiet"]
    if options["platform"] and options["all_platforms"]:
        raise InvalidInput("conflicting options: --platform and --all-platforms")
    say: Say = _silent if quiet else out
    how: dict[str, Any] = {key: options[key] for key in ("platform", "all_platforms", "quiet")}
    reference = Reference.parse(name)
    if options["all_tags"]:
        from layerfs.engine.pulling import tags_to_pull

        pulled = [_pull(session, str(each), say, **how) for each in tags_to_pull(name)]
        _tell_end(say, any(each.changed for each in pulled), reference.familiar_name)
        out(reference.name)
        return
    if reference != reference.tagged():
        say("Using default tag: latest")
    done = _pull(session, name, say, **how)
    _tell_end(say, done.changed, done.reference.familiar)
    out(str(done.reference))


def image_at_hand(session: Session, name: str, policy: str, *, platform: str | None, quiet: bool) -> None:
    """What `run` and `create` do before they begin: the image is pulled where docker would; it tells on stderr.

    Raises:
        ImageNotFound, RegistryError, InvalidInput.
    """
    from layerfs.engine.pulling import at_hand

    def fetch(name: str) -> None:
        reference = Reference.parse(name).tagged()
        notice = [] if policy == "always" else [f"Unable to find image '{reference.familiar}' locally"]
        if not quiet and notice and sys.stderr.isatty():
            fail(notice.pop())  # at once: the registry may be slow

        def say(text: str) -> None:
            if not quiet:
                if notice:
                    fail(notice.pop())
                sys.stderr.write(f"{text}\n")

        try:
            pulled = _pull(session, name, say, platform=platform, all_platforms=False, quiet=quiet)
        except LayerfsError as error:
            if notice:  # an error is one line
                error.message = f"{notice[0]}: {error.message}"
            raise
        _tell_end(say, pulled.changed, reference.familiar)

    at_hand(session.store, name, policy, platform=platform, fetch=fetch)


def _pull(session: Session, name: str, say: Say, *, quiet: bool, **how: Any) -> Pulled:
    """One name: docker's lines for it and its blobs, and bars on a terminal."""
    from layerfs.engine.pulling import pull

    reference = Reference.parse(name).tagged()
    begun = False
    told: set[tuple[str, str]] = set()
    plain = not sys.stderr.isatty()

    def begin() -> None:
        nonlocal begun
        if not begun:
            begun = True
            say(f"{str(reference) if reference.digest else reference.tag}: Pulling from {reference.path}")

    with blob_bars(quiet) as draw:

        def show(record: Any) -> None:
            begin()
            key = (record.kind, record.id)
            if record.kind in _LINES and key not in told and (plain or record.kind in ("exists", "done")):
                told.add(key)
                say(f"{record.id.removeprefix('sha256:')[:12]}: {_LINES[record.kind]}")
            draw(record)

        pulled = pull(session.store, name, progress=show, **how)
        begin()
    say(f"Digest: {pulled.digest}")
    return pulled


def _tell_end(say: Say, changed: bool, name: str) -> None:
    say(f"Status: {'Downloaded newer image for' if changed else 'Image is up to date for'} {name}")


def _silent(text: str) -> None:
    pass


def push(session: Session, words: Sequence[str], options: dict[str, Any]) -> None:
    name, quiet = words[0], options["quiet"]

    def told(layer: PushedLayer) -> None:
        how = {"there": "Layer already exists", "mounted": f"Mounted from {layer.sent.source}"}
        if not quiet:
            out(f"{layer.diff_id.short}: {how.get(layer.sent.how, 'Pushed')}")

    def finished(pushed: Pushed) -> None:
        if pushed.instead_of is not None:
            sys.stderr.write(f"WARNING! A new manifest, not {pushed.instead_of} as pulled: {pushed.reason}\n")
        if quiet:
            out(pushed.reference.familiar)
        else:
            out(f"{pushed.reference.tag or 'latest'}: digest: {pushed.digest} size: {pushed.size}")

    reference = Reference.parse(name)
    if options["platform"]:
        session.store.image(name).check_platform(name, options["platform"])
    if not quiet:
        if not options["all_tags"] and not reference.tag and not reference.digest:
            out("Using default tag: latest")
        out(f"The push refers to repository [{reference.name}]")
    how = {key: options[key] for key in ("all_tags", "all_platforms", "compression", "exact")}
    with bars(quiet) as progress:
        session.store.push(name, progress=progress, done=told, pushed=finished, **how)


PULL = Plain(
    [
        option("-a", "--all-tags", is_flag=True, help="Pull all tags of the repository."),
        option("--platform", metavar="OS/ARCH[/VARIANT]", help="What to take from an index."),
        option("--all-platforms", is_flag=True, help="Take all images of an index, and keep it as it is."),
        option("-q", "--quiet", is_flag=True, help="Only the name that was pulled."),
        option("--disable-content-trust", is_flag=True, help="So it is; for docker's sake."),
    ],
    pull,
    most=1,
)
PUSH = Plain(
    [
        option("-a", "--all-tags", is_flag=True, help="Push all tags of the repository."),
        option("--all-platforms", is_flag=True, help="Push the whole index that the name was pulled with."),
        option("-q", "--quiet", is_flag=True, help="Only the name that was pushed."),
        option("--platform", metavar="OS/ARCH[/VARIANT]", help="An error unless the image is of this one."),
        option("--disable-content-trust", is_flag=True, help="So it is; for docker's sake."),
        option(
            "--compression",
            choices=lambda: ["gzip", "zstd", "none"],
            default="gzip",
            help="Of layers that have no compressed form yet (default: gzip).",
        ),
        option("--exact", is_flag=True, help="Fail where a pulled image's own manifest cannot go byte for byte."),
    ],
    push,
    most=1,
)
