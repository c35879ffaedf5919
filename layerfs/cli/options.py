"""Options that several verbs have, and what completes their arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import click

from layerfs.cli.flags import pairs_of
from layerfs.cli.verbs import flag_text

FC = TypeVar("FC", bound=Callable[..., Any] | click.Command)


class Decorator(Protocol):
    """What click's `option` and `argument` give."""

    def __call__(self, function: FC, /) -> FC: ...


def format_option(help: str = "json, table, table TEMPLATE, or a Go template.") -> Decorator:
    return click.option("--format", "format_", metavar="FORMAT", help=help)


def quiet_option(help: str = "Only IDs.") -> Decorator:
    return click.option("-q", "--quiet", is_flag=True, help=help)


def no_trunc_option() -> Decorator:
    return click.option("--no-trunc", is_flag=True, help="Do not cut IDs and texts.")


def filter_option(names: str) -> Decorator:
    """`-f key=value`; the command gets a dict of lists."""
    return click.option(
        "-f", "--filter", "filters", multiple=True, metavar="NAME=VALUE", callback=parse_filters, help=f"{names}."
    )


def prune_filter_option(names: str = "label, label!, until") -> Decorator:
    """`--filter` alone, since `-f` is --force there."""
    return click.option(
        "--filter", "filters", multiple=True, metavar="NAME=VALUE", callback=parse_filters, help=f"{names}."
    )


def parse_filters(ctx: click.Context, param: click.Parameter, values: Iterable[str]) -> dict[str, list[str]]:
    """`NAME=VALUE` texts as a dict of lists, in docker's words when one is none."""
    try:
        return pairs_of(values)
    except ValueError as error:
        raise click.BadOptionUsage(
            "--filter",
            f'invalid argument "{error}" for "{flag_text(param)}" flag: invalid filter (expected name=value)',
            ctx,
        ) from None


def image_argument(name: str = "image", **attributes: Any) -> Decorator:
    return click.argument(name, shell_complete=_complete_images, **attributes)


def container_argument(name: str = "container", **attributes: Any) -> Decorator:
    return click.argument(name, shell_complete=_complete_containers, **attributes)


def any_argument(name: str = "name", **attributes: Any) -> Decorator:
    return click.argument(
        name,
        shell_complete=lambda *about: [*_complete_containers(*about), *_complete_images(*about)],
        **attributes,
    )


def _known(ctx: click.Context, kind: str) -> list[str]:
    """Names in the store; none where there is no store, or anything else is wrong: the shell waits for us."""
    from layerfs.engine import Store

    try:
        with Store(ctx.find_root().params.get("store"), create=False) as store:
            if kind == "container":
                return [record.name for record in store.container_table.list()]
            if kind == "network":
                return [network.name for network in store.networks.all()]
            return [tag.reference.familiar for summary in store.image_summaries() for tag in summary.tags]
    except Exception:
        return []


def _complete_images(ctx: click.Context, param: click.Parameter, start: str) -> list[str]:
    return [name for name in _known(ctx, "image") if name.startswith(start)]


def _complete_containers(ctx: click.Context, param: click.Parameter, start: str) -> list[str]:
    return [name for name in _known(ctx, "container") if name.startswith(start)]


def complete_networks(ctx: click.Context, param: click.Parameter, start: str) -> list[str]:
    return [name for name in _known(ctx, "network") if name.startswith(start)]
