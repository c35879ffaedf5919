"""pull, push (what they do is in `transfers`), login, logout, search, tags, manifest, copy."""

from __future__ import annotations

import sys
from typing import Any

import click

from layerfs.cli import transfers
from layerfs.cli.options import filter_option, format_option, image_argument, no_trunc_option
from layerfs.cli.output import fail, harmless, out
from layerfs.cli.progress import bars
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.verbs import verb, with_flags
from layerfs.errors import InvalidInput, RegistryDenied

_platform = click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="What to take from an index.")


@verb("pull")
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
@with_flags(transfers.PULL.flags)
@click.pass_obj
def pull_command(session: Session, /, name: str, **options: Any) -> None:
    """Download an image from a registry."""
    transfers.pull(session, [name], options)


@verb("push")
@image_argument("name", metavar="NAME[:TAG]")
@with_flags(transfers.PUSH.flags)
@click.pass_obj
def push_command(session: Session, /, name: str, **options: Any) -> None:
    """Upload an image to a registry."""
    transfers.push(session, [name], options)


@verb("login")
@click.argument("server", required=False, default="", metavar="[SERVER]")
@click.option("-u", "--username", metavar="USER", help="User name.")
@click.option("-p", "--password", metavar="PASSWORD", help="Password; others see it in the list of processes.")
@click.option("--password-stdin", is_flag=True, help="Take the password from standard input.")
def login_command(server: str, username: str | None, password: str | None, password_stdin: bool) -> None:
    """Log in to a registry and keep the credentials, as docker does."""
    from layerfs.engine import registries

    if password is not None:
        if password_stdin:
            raise InvalidInput("--password and --password-stdin are mutually exclusive")
        _warn("WARNING! Using --password via the CLI is insecure. Use --password-stdin.")
    if password_stdin:
        if not username:
            raise InvalidInput("Must provide --username with --password-stdin")
        password = sys.stdin.read().removesuffix("\n").removesuffix("\r")
    if username is None and password is None and _known(server):
        return
    if username is None:
        username = _ask_user(registries.known_user(server))
    if password is None:
        password = _ask_password()
    if not username or not password:
        raise InvalidInput("username is empty" if not username else "password is empty")
    where = registries.login(server, username, password)
    if where is not None:
        _warn(f"\nWARNING! Your credentials are stored unencrypted in '{where}'.")
        _warn("Configure a credential helper to remove this warning.\n")
    out("Login Succeeded")


def _known(server: str) -> bool:
    """Whether the user and the password that are kept for a registry still let us in."""
    from layerfs.engine import registries

    if not registries.known_user(server):
        return False
    out("Authenticating with existing credentials...")
    try:
        registries.check_login(server)
    except RegistryDenied as error:
        _warn(f"Login did not succeed, error: {harmless(str(error))}")
        return False
    out("Login Succeeded")
    return True


def _warn(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _terminal() -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("Cannot perform an interactive login from a non TTY device")


def _ask_user(known: str) -> str:
    _terminal()
    value: str = click.prompt("Username", default=known or None, err=True)
    return value


def _ask_password() -> str:
    _terminal()
    value: str = click.prompt("Password", hide_input=True, err=True)
    return value


@verb("logout")
@click.argument("server", required=False, default="", metavar="[SERVER]")
def logout_command(server: str) -> None:
    """Forget a registry's credentials."""
    from layerfs.engine import registries

    found = registries.logout(server)
    name = registries.server_name(server)
    out(f"Removing login credentials for {name}" if found else f"Not logged in to {name}")


@verb("search")
@click.argument("term", metavar="[REGISTRY/]TERM")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Stop after so many.")
@filter_option("stars, is-official")
@no_trunc_option()
@format_option()
def search_command(
    term: str, limit: int | None, filters: dict[str, list[str]], no_trunc: bool, format_: str | None
) -> None:
    """List a registry's repositories, by its catalog or docker's search. TERM alone is looked for on Docker Hub."""
    from layerfs.engine import registries
    from layerfs.image.text import ellipsis

    found = []
    for each in registries.search(term, limit=limit, filters=filters):
        about = "".join(c if c.isprintable() else " " for c in each.description)
        found.append(
            {
                "Name": "".join(c for c in each.name if c.isprintable()),
                "Description": about if no_trunc else ellipsis(about, 45),
                "StarCount": str(each.stars),
                "IsOfficial": "[OK]" if each.official else "",
                "IsAutomated": "",
            }
        )
    columns = {"NAME": "Name", "DESCRIPTION": "Description", "STARS": "StarCount", "OFFICIAL": "IsOfficial"}
    render(found, columns, format=format_)


@verb("tags")
@click.argument("name", metavar="REPOSITORY")
@format_option()
def tags_command(name: str, format_: str | None) -> None:
    """List the tags of a repository in its registry."""
    from layerfs.engine import registries

    found = [{"Repository": name, "Tag": harmless(tag)} for tag in registries.tags(name)]
    render(found, {"REPOSITORY": "Repository", "TAG": "Tag"}, format=format_ or "{{.Tag}}")


@verb("inspect")
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
@_platform
def manifest_inspect_command(name: str, platform: str | None) -> None:
    """Print the manifest or index that a name means in its registry, byte for byte."""
    from layerfs.engine import registries

    _print_raw(registries.manifest(name, platform=platform))


@verb("referrers")
@click.argument("name", metavar="NAME[:TAG|@DIGEST]")
@click.option("--artifact-type", default="", metavar="TYPE", help="Only those of a type.")
def manifest_referrers_command(name: str, artifact_type: str) -> None:
    """List what refers to a manifest in its registry (signatures, attestations), as an index."""
    from layerfs.engine import registries

    _print_raw(registries.referrers(name, artifact_type))


def _print_raw(raw: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(raw if raw.endswith(b"\n") or not sys.stdout.isatty() else raw + b"\n")
    sys.stdout.buffer.flush()


@verb("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME[:TAG|@DIGEST]...")
def manifest_rm_command(names: tuple[str, ...]) -> int:
    """Remove manifests from their registry; by digest with all their tags."""
    from layerfs.cli.output import for_each
    from layerfs.engine import registries

    return for_each(names, registries.delete_manifest)


@verb("copy")
@click.argument("source", metavar="SOURCE")
@click.argument("target", metavar="TARGET")
@click.option("-a", "--all", "everything", is_flag=True, help="A whole index, with all platforms and attestations.")
@_platform
@click.option("--referrers", is_flag=True, help="Also what refers to the image: signatures, attestations.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bars.")
def copy_command(
    source: str, target: str, everything: bool, platform: str | None, referrers: bool, quiet: bool
) -> int | None:
    """Copy an image between registries (docker://NAME), layouts (oci:DIR[:TAG], oci-archive:FILE[:TAG]) and
    docker-archive:FILE[:NAME], without a store.
    """
    from layerfs.engine import registries

    if everything and platform:
        return fail("--all and --platform are mutually exclusive")
    with bars(quiet) as progress:
        copied = registries.copy(
            source, target, everything=everything, platform=platform, referrers=referrers, progress=progress
        )
    out(str(copied.digest))
    return None
