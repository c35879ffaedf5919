"""build, and `builder`: the build cache."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from layerfs.cli import rows
from layerfs.cli.buildprogress import FORMS, printer
from layerfs.cli.launch import OPTIONS, security_settings
from layerfs.cli.launch_limits import take
from layerfs.cli.options import format_option, parse_filters
from layerfs.cli.output import fail, out
from layerfs.cli.session import Session
from layerfs.cli.table import render
from layerfs.cli.upkeep import confirm
from layerfs.cli.verbs import verb, with_flags
from layerfs.errors import InvalidDockerfile, InvalidInput

if TYPE_CHECKING:
    from layerfs.build.output import Output
    from layerfs.build.steps import StepFailed
    from layerfs.engine import Image, Store

_LIMITED = {
    *("-m", "--memory-swap", "--memory-reservation", "--cpus", "-c", "--cpu-period", "--cpu-quota", "--cpuset-cpus"),
    *("--cpuset-mems", "--pids-limit", "--ulimit", "--shm-size", "--cgroup-parent", "--security-opt", "--cap-add"),
    *("--cap-drop", "--dns", "--dns-search", "--dns-option", "--sysctl"),
}
_CONFINEMENT = [flag for flag in OPTIONS if not _LIMITED.isdisjoint(flag.words)]  # docker's and podman's


def _pairs(values: Iterable[str], what: str, *, environment: bool = False, needed: bool = False) -> dict[str, str]:
    """`NAME=VALUE` texts; a name alone is refused when the value is `needed`; with `environment` it comes from there,
    if it is there."""
    found: dict[str, str] = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not name or (needed and not equals):
            raise InvalidInput(f"invalid {what}: {text!r}")
        if not equals and environment:
            if name in os.environ:
                found[name] = os.environ[name]
            continue
        found[name] = value
    return found


def _fields(text: str, what: str, names: Sequence[str]) -> dict[str, str]:
    """`key=value,…`. Raises InvalidInput for a key that is none of `names`."""
    found = {}
    for field in text.split(","):
        key, equals, value = field.partition("=")
        if not equals or key.strip().lower() not in names:
            raise InvalidInput(f"invalid {what} {text!r}: unexpected {field!r}")
        found[key.strip().lower()] = value
    return found


def parse_secrets(values: Iterable[str]) -> dict[str, bytes | str]:
    """`id=ID[,src=FILE|,env=NAME]`; without both the variable of that name, else the file."""
    found: dict[str, bytes | str] = {}
    for text in values:
        fields = _fields(text, "secret", ("id", "src", "source", "env", "type"))
        name = fields.get("id", "")
        if not name:
            raise InvalidInput(f"invalid secret {text!r}: it has no id")
        source = fields.get("src", fields.get("source", ""))
        variable = fields.get("env", source if fields.get("type") == "env" else "")
        if not variable and not source:
            variable = name if name in os.environ else ""
        if variable:
            found[name] = os.environb.get(os.fsencode(variable), b"")
        else:
            found[name] = source or name
    return found


def _agents(values: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in values:
        name, _, socket = text.partition("=")
        place = socket or os.environ.get("SSH_AUTH_SOCK", "")
        if not place:
            raise InvalidInput(f"invalid empty ssh agent socket for {name!r}: SSH_AUTH_SOCK is not set")
        found[name or "default"] = place
    return found


def _epoch(timestamp: int | None, build_args: Mapping[str, str]) -> int | None:
    text = build_args.get("SOURCE_DATE_EPOCH", os.environ.get("SOURCE_DATE_EPOCH", ""))
    if timestamp is not None or not text:
        return timestamp
    try:
        return int(text)
    except ValueError:
        raise InvalidInput(f"invalid SOURCE_DATE_EPOCH: {text}") from None


@verb("build")
@click.argument("context", required=False, metavar="PATH|URL|-")
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME[:TAG]", help="Name of the image; may be repeated.")
@click.option("-f", "--file", "dockerfile", metavar="FILE", help="The Dockerfile (default: PATH/Dockerfile), or -.")
@click.option("--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]", help="Value of an ARG.")
@click.option("--target", default="", metavar="STAGE", help="The stage to build.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label of the image.")
@click.option("--no-cache", is_flag=True, help="Run everything again.")
@click.option("--no-cache-filter", multiple=True, metavar="STAGE", help="Run these stages again.")
@click.option(
    "--cache-from", multiple=True, metavar="NAME|type=T,…", help="Read a cache: registry (ref=), local (src=)."
)
@click.option(
    "--cache-to", multiple=True, metavar="type=T,…", help="Write one: registry (ref=), local (dest=), inline; mode=max."
)
@click.option("--pull", is_flag=True, help="Look for newer base images.")
@click.option("--platform", metavar="OS/ARCH[/VARIANT]", help="Platform of the image.")
@click.option("--secret", "secrets", multiple=True, metavar="id=ID[,src=FILE|,env=NAME]", help="For RUN --mount.")
@click.option("--ssh", "agents", multiple=True, metavar="ID[=SOCKET]", help="For RUN --mount.")
@click.option(
    "--build-context", "contexts", multiple=True, metavar="NAME=DIR|URL|docker-image://…", help="One more context."
)
@click.option("--network", default="default", metavar="NETWORK", help="Of RUN: default, none, host, or a network.")
@click.option("--add-host", "add_hosts", multiple=True, metavar="NAME:IP", help="A line for /etc/hosts in RUN.")
@click.option("--allow", multiple=True, metavar="ENTITLEMENT", help="network.host, security.insecure.")
@click.option("--squash", is_flag=True, help="One layer on the base image.")
@click.option("--timestamp", type=int, metavar="SECONDS", help="No time in the image is later ($SOURCE_DATE_EPOCH).")
@click.option(
    "-o",
    "--output",
    "outputs",
    multiple=True,
    metavar="type=T,dest=FILE",
    help="image, registry, local, tar, oci, docker.",
)
@click.option("--iidfile", metavar="FILE", help="Write the image's ID to this.")
@click.option("--metadata-file", metavar="FILE", help="Write what was built to this, as JSON.")
@click.option("--progress", type=click.Choice(FORMS), default="auto", help="How to show it.")
@click.option("--check", is_flag=True, help="Only check the Dockerfile.")
@click.option("--debug", is_flag=True, help="Keep an image of a step that fails; on a terminal, enter it.")
@with_flags(_CONFINEMENT)
@click.option("-q", "--quiet", is_flag=True, help="Print only the ID.")
@click.option("--push", is_flag=True, help="Push its names: --output type=registry.")
@click.option("--load", is_flag=True, hidden=True)
@click.option("--compress", is_flag=True, hidden=True)
@click.option("--disable-content-trust", is_flag=True, hidden=True)
@click.option("--rm/--no-rm", hidden=True, default=True)
@click.option("--force-rm", is_flag=True, hidden=True)
@click.pass_obj
def build_command(session: Session, /, context: str | None, **options: Any) -> int:
    """Build an image from a Dockerfile. URL is that of a git repository (#REF:DIR), a tar or a Dockerfile. - reads a
    Dockerfile, or a tar that is the context, from standard input."""
    if context is None:
        raise InvalidInput("PATH is missing: the build's context, a URL, or - for standard input")
    try:
        if options["check"]:
            return _check(session, context, options)
        return _build(session, context, options)
    except InvalidDockerfile as error:
        return _refused(error)


def _refused(error: InvalidDockerfile) -> int:
    """The place with a caret, then the error in one line."""
    sys.stdout.flush()
    if error.excerpt:
        click.echo(error.excerpt, err=True)
    return fail(str(error))


def _confinement(options: Mapping[str, Any]) -> dict[str, Any]:
    """What limits every RUN, as `Store.create` takes it. Raises InvalidInput."""
    wanted = take(dict(options), _CONFINEMENT)
    return wanted | security_settings(wanted.pop("security_opt", ()))


def _outputs(texts: Sequence[str]) -> list[Output]:
    from layerfs.build.output import Output

    return [Output.parse(text) for text in texts] or [Output()]


def _build(session: Session, context: str, options: Mapping[str, Any]) -> int:
    from layerfs.build.steps import StepFailed

    form = "quiet" if options["quiet"] else options["progress"]
    outputs = _outputs([*options["outputs"], *(["type=registry"] if options["push"] else [])])
    pushed = any(output.push for output in outputs)
    build_args = _pairs(options["build_args"], "build argument", environment=True)
    dockerfile = sys.stdin.buffer if options["dockerfile"] == "-" else options["dockerfile"]
    names = [*options["tags"], *(name for output in outputs for name in output.names)]
    if pushed and not names:
        raise InvalidInput("tag is needed when pushing to registry")
    before = {image.id for image in session.store.images(all=True)}
    try:
        with printer(form) as progress:
            image = session.store.build(
                context,
                dockerfile,
                tag=names if any(output.kind in ("image", "docker") for output in outputs) else (),
                build_args=build_args,
                progress=progress,
                target=options["target"],
                labels=_pairs(options["labels"], "label"),
                no_cache=options["no_cache"],
                no_cache_filter=options["no_cache_filter"],
                cache_from=options["cache_from"],
                cache_to=options["cache_to"],
                pull=options["pull"],
                platform=options["platform"],
                secrets=parse_secrets(options["secrets"]),
                ssh=_agents(options["agents"]),
                build_contexts=_pairs(options["contexts"], "build context", needed=True),
                network=options["network"],
                allow=options["allow"],
                add_hosts=options["add_hosts"],
                squash=options["squash"],
                epoch=_epoch(options["timestamp"], build_args),
                debug=options["debug"],
                legacy=form == "legacy",
                confinement=_confinement(options),
            )
    except StepFailed as error:
        return _failed(session, error, legacy=form == "legacy")
    for name in names if pushed else ():
        session.store.push(name)
    _give(session.store, image, outputs, options, new=image.id not in before)
    if options["quiet"]:
        out(image.id)
    return 0


def _failed(session: Session, error: StepFailed, *, legacy: bool) -> int:
    """The exit code. With --debug, on a terminal, after a look into the step."""
    said = f"The command '{error.command}' returned a non-zero code: {error.returncode}" if legacy else str(error)
    code = fail(said, error.returncode if legacy else 1)
    if error.image and sys.stdin.isatty() and sys.stdout.isatty():
        from layerfs.cli.app import run

        run(["--store", str(session.store.path), "run", "--rm", "-it", error.image])
    return code


def _give(store: Store, image: Image, outputs: Sequence[Output], options: Mapping[str, Any], *, new: bool) -> None:
    from layerfs.engine.buildoutput import write_output

    for output in outputs:
        write_output(image, output)
    if options["iidfile"]:
        Path(options["iidfile"]).write_text(image.id)
    if options["metadata_file"]:
        found = {"containerimage.config.digest": image.id, "containerimage.digest": str(image.digest or image.id)}
        found |= {"image.name": ",".join(image.tags)} if image.tags else {}
        Path(options["metadata_file"]).write_text(json.dumps(found, indent=2) + "\n")
    if new and not image.tags and not any(output.kind in ("image", "docker") for output in outputs):
        with contextlib.suppress(OSError):
            store.remove_image(image.id)


def _check(session: Session, context: str, options: Mapping[str, Any]) -> int:
    dockerfile = sys.stdin.buffer if options["dockerfile"] == "-" else options["dockerfile"]
    report = session.store.check_dockerfile(
        context,
        dockerfile,
        build_args=_pairs(options["build_args"], "build argument", environment=True),
        target=options["target"],
        platform=options["platform"],
    )
    for warning in report.warnings:
        out(f"WARNING: {warning.rule.name} - {warning.rule.url}\n{warning.rule.description}")
        out(f"{options['dockerfile'] or 'Dockerfile'}:{warning.first}: {warning.message}\n")
    if report.error is not None:
        return _refused(report.error)
    count = len(report.warnings)
    words = f"{count} warning{'s'[: count != 1]} found" if count else "no warnings found"
    out(f"Check complete, {words}.")
    return 1 if count else 0


@verb("df")
@format_option()
@click.pass_obj
def builder_df_command(session: Session, format_: str | None) -> None:
    """Show what the build cache takes."""
    from layerfs.engine.buildcache import cache_records
    from layerfs.image.text import human_size

    render(rows.cache_rows(session.store), rows.CACHE, format=format_)
    if format_ is None:
        records = cache_records(session.store)
        freed = sum(record.size for record in records if not record.in_use)
        out(f"Reclaimable:\t{human_size(freed)}\nTotal:\t\t{human_size(sum(record.size for record in records))}")


@verb("prune")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also what images use.")
@click.option("--keep-storage", metavar="BYTES", help="Stop when only this much is left.")
@click.option("--filter", "filters", multiple=True, metavar="until=24h", callback=parse_filters, help="until.")
@click.pass_obj
def builder_prune_command(
    session: Session, force: bool, everything: bool, keep_storage: str | None, filters: dict[str, list[str]]
) -> None:
    """Remove the build cache."""
    from layerfs.engine.buildcache import prune_cache
    from layerfs.image.text import human_size
    from layerfs.image.values import parse_duration

    confirm(force, "all build cache" if everything else "all dangling build cache")
    unknown = set(filters) - {"until", "unused-for"}
    if unknown:
        raise InvalidInput(f"invalid filter '{min(unknown)}'")
    ages = [parse_duration(value) for values in filters.values() for value in values]
    gone = prune_cache(
        session.store,
        everything=everything,
        older_ns=max(ages) if ages else None,
        keep=keep_storage,
    )
    if gone:
        out("Deleted build cache objects:")
        for record in gone:
            out(record.id)
        out("")
    out(f"Total reclaimed space: {human_size(sum(record.size for record in gone))}")
