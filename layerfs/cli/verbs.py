"""Commands and groups of click that parse and complain as docker's do (reference 5.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from layerfs.cli.flags import Flag
from layerfs.cli.output import fail, out

_TRUE, _FALSE = {"1", "t", "true"}, {"0", "f", "false"}
_ABSENT: dict[str, str] = {  # docker's flags that are not here, and why
    "--gpus": "there are no drivers of devices here; give the device files by --device",
    **dict.fromkeys(("--cpu-rt-period", "--cpu-rt-runtime"), "no real-time budgets: version 2 of cgroups has none"),
    **dict.fromkeys(("--ip6", "--link-local-ip", "--ipv6"), "networks have IPv4 only"),
    "--isolation": "it is Windows's",
    "--kernel-memory": "Linux has no such limit any more",
    "--use-api-socket": "there is no daemon whose socket it could be",
    **dict.fromkeys(("--checkpoint", "--checkpoint-dir"), "programs cannot be written to disk and taken up again"),
    **dict.fromkeys(("--config-from", "--config-only", "--ingress"), "it is Swarm's"),
    **dict.fromkeys(("--availability", "--cluster", "--group", "--limit-bytes", "--required-bytes"), "it is Swarm's"),
    **dict.fromkeys(("--sharing", "--topology-preferred", "--topology-required"), "it is Swarm's"),
    "--ipam-opt": "the only driver of addresses has no options",
    "--driver-opt": "there are no options of endpoints",
    **dict.fromkeys(("--cpu-count", "--cpu-percent", "--io-maxbandwidth", "--io-maxiops"), "it is Windows's"),
    "--tree": "an image here is of one platform, so it has no parts to show",
}


class Verb(click.Command):
    """A command whose flags may be written `--flag=true` and `--flag=false`, as docker's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, list(self._plain_flags(ctx, args)))
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click's parser does not say where it was
            raise

    def _plain_flags(self, ctx: click.Context, args: list[str]) -> Iterable[str]:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        flags = {name: option for option in options if option.is_flag for name in option.opts + option.secondary_opts}
        valued = {name for option in options if not option.is_flag for name in option.opts}
        rest = iter(args)
        for arg in rest:
            name, equals, value = arg.partition("=")
            if arg == "--" or (not arg.startswith("-") and not ctx.allow_interspersed_args):
                yield arg
                break
            if equals and name in flags:
                yield from _plain_flag(flags[name], name, value, ctx)
                continue
            yield arg
            if arg in valued:
                yield from (following for following in [next(rest, None)] if following is not None)
        yield from rest


def _plain_flag(param: click.Parameter, name: str, value: str, ctx: click.Context) -> list[str]:
    if value.lower() not in _TRUE | _FALSE:
        raise click.BadOptionUsage(
            name, f'invalid argument "{value}" for "{flag_text(param)}" flag: must be true or false', ctx
        )
    wanted = value.lower() in _TRUE
    if name in param.secondary_opts:
        name, wanted = param.opts[-1], not wanted
    return [name] if wanted else param.secondary_opts[:1]


class Group(click.Group):
    """A group that prints its help when nothing is asked for, and has docker's words for what it does not know."""

    command_class = Verb

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not args[0].startswith("-") and self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise click.UsageError(f"unknown command: {ctx.command_path} {args[0]}", ctx)
        return super().resolve_command(ctx, args)


def verb(name: str, **attributes: Any) -> Callable[[Callable[..., Any]], Verb]:
    """`click.command` for one of ours."""
    return click.command(name, cls=Verb, **attributes)


def with_flags(flags: Iterable[Flag]) -> Callable[[Any], Any]:
    """Adds options of a table to a command."""

    def add(function: Any) -> Any:
        for flag in reversed(list(flags)):
            attributes = dict(flag.attributes)
            if choices := attributes.pop("choices", None):
                attributes["type"] = click.Choice(choices())
            if attributes.pop("pairs", False):
                from layerfs.cli.options import parse_filters

                attributes["callback"] = parse_filters
            function = click.option(*flag.words, flag.name, **attributes)(function)
        return function

    return add


def flag_text(param: click.Parameter) -> str:
    """`-f, --filter`, as docker names a flag."""
    return ", ".join(sorted(param.opts, key=len))


def _arity(command: click.Command) -> str:
    """docker's words for how many arguments a command takes."""
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    least = sum(max(1, a.nargs) for a in arguments if a.required)
    most = None if any(a.nargs < 0 for a in arguments) else sum(a.nargs for a in arguments)
    if most == 0:
        return "accepts no arguments"
    if most is None:
        return f"requires at least {least} argument{'s'[: least != 1]}"
    if least == most:
        return f"requires {most} argument{'s'[: most != 1]}"
    if least == 0:
        return f"accepts at most {most} argument{'s'[: most != 1]}"
    return f"requires at least {least} and at most {most} arguments"


def usage_error(error: click.UsageError) -> int:
    """docker's words and codes: wrong flags give 125, wrong arguments and unknown commands 1; one line."""
    path = error.ctx.command_path if error.ctx else "layerfs"
    hint = f"(see '{path} --help')"
    if isinstance(error, click.NoSuchOption):
        flag = error.option_name
        unknown = (
            f"unknown flag: {flag}" if flag.startswith("--") else f"unknown shorthand flag: '{flag[1:]}' in {flag}"
        )
        return fail(f"{unknown}: {_ABSENT[flag]}" if flag in _ABSENT else f"{unknown} {hint}", 125)
    if isinstance(error, click.BadOptionUsage):
        message = error.format_message()
        if "requires an argument" in message:
            flag = error.option_name or ""
            message = f"flag needs an argument: {flag if flag.startswith('--') else f'{flag[1:]!r} in {flag}'}"
        return fail(f"{message} {hint}", 125)
    command = error.ctx.command if error.ctx else None
    if error.ctx and isinstance(command, Group) and error.message.startswith("Missing command"):
        out(error.ctx.get_help())
        return 0
    if isinstance(error, click.MissingParameter) or (command and error.message.startswith("Got unexpected extra")):
        return fail(f"'{path}' {_arity(command)} {hint}" if command else error.format_message())
    if isinstance(error, click.BadParameter):
        if isinstance(error.param, click.Option):
            return fail(f'invalid argument for "{flag_text(error.param)}" flag: {error.message} {hint}', 125)
        return fail(f"{error.message} {hint}", 125 if error.param is None else 1)
    return fail(f"{error.format_message()} {hint}")
