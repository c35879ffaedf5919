"""The `layerfs` command: finds the verb, opens the store when it is needed, turns errors into one line and an exit
code.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Sequence
from typing import Any

import click

from layerfs._version import __version__
from layerfs.cli.session import Session, guarded
from layerfs.cli.verbs import Group, Verb, usage_error

__all__ = ["Session", "cli", "load_verb", "run"]

# verb -> (module below layerfs.cli, heading in --help)
_VERBS: dict[str, tuple[str, str]] = {
    "build": ("build", "Images"),
    "import": ("archives", "Images"),
    "load": ("archives", "Images"),
    "save": ("archives", "Images"),
    "export": ("archives", "Images"),
    "images": ("images", "Images"),
    "history": ("images", "Images"),
    "inspect": ("images", "Images"),
    "tag": ("images", "Images"),
    "waste": ("waste", "Images"),
    "optimize": ("waste", "Images"),
    "rmi": ("images", "Images"),
    "push": ("registries", "Registries"),
    "login": ("registries", "Registries"),
    "logout": ("registries", "Registries"),
    "search": ("registries", "Registries"),
    "tags": ("registries", "Registries"),
    "copy": ("registries", "Registries"),
    "pull": ("registries", "Registries"),
    "create": ("launch_verbs", "Containers"),
    "run": ("launch_verbs", "Containers"),
    "start": ("life", "Containers"),
    "stop": ("life", "Containers"),
    "restart": ("life", "Containers"),
    "kill": ("life", "Containers"),
    "wait": ("life", "Containers"),
    "attach": ("life", "Containers"),
    "logs": ("life", "Containers"),
    "exec": ("life", "Containers"),
    "top": ("life", "Containers"),
    "cp": ("life", "Containers"),
    "ps": ("containers", "Containers"),
    "rm": ("containers", "Containers"),
    "rename": ("containers", "Containers"),
    "diff": ("containers", "Containers"),
    "commit": ("containers", "Containers"),
    "snapshot": ("snapshots", "Containers"),
    "rollback": ("snapshots", "Containers"),
    "fork": ("snapshots", "Containers"),
    "log": ("snapshots", "Containers"),
    "bundle": ("containers", "Containers"),
    "update": ("limits", "Containers"),
    "pause": ("limits", "Containers"),
    "unpause": ("limits", "Containers"),
    "stats": ("limits", "Containers"),
    "port": ("networks", "Containers"),
    "mount": ("mounts", "Mounts"),
    "umount": ("mounts", "Mounts"),
    "events": ("life", "The store"),
    "gc": ("upkeep", "The store"),
    "fsck": ("upkeep", "The store"),
    "system": ("upkeep", "The store"),
    "bench": ("bench", "The store"),
    "debug": ("debug", "The store"),
    "info": ("upkeep", "The store"),
    "version": ("upkeep", "The store"),
    "completion": ("completion", "The store"),
}
_INNER = {  # what only a noun has
    **{f"builder_{name}": "build" for name in ("df", "prune")},
    **{f"volume_{name}": "volumes" for name in ("create", "ls", "inspect", "rm", "prune")},
    **{f"network_{name}": "networks" for name in ("create", "ls", "inspect", "rm", "prune", "connect", "disconnect")},
    "manifest_inspect": "registries",
    "manifest_referrers": "registries",
    "manifest_rm": "registries",
    "image_inspect": "images",
    "container_inspect": "images",
    "image_prune": "upkeep",
    "container_prune": "upkeep",
}
_NOUNS: dict[str, dict[str, str]] = {
    "builder": {"build": "build", "df": "builder_df", "prune": "builder_prune"},
    "image": {
        "build": "build",
        "ls": "images",
        "list": "images",
        "history": "history",
        "inspect": "image_inspect",
        "tag": "tag",
        "rm": "rmi",
        "import": "import",
        "load": "load",
        "save": "save",
        "push": "push",
        "pull": "pull",
        "prune": "image_prune",
    },
    "manifest": {
        "inspect": "manifest_inspect",
        "referrers": "manifest_referrers",
        "rm": "manifest_rm",
    },
    "volume": {
        "ls": "volume_ls",
        "list": "volume_ls",
        "create": "volume_create",
        "inspect": "volume_inspect",
        "rm": "volume_rm",
        "prune": "volume_prune",
    },
    "network": {
        "ls": "network_ls",
        "list": "network_ls",
        "create": "network_create",
        "inspect": "network_inspect",
        "rm": "network_rm",
        "prune": "network_prune",
        "connect": "network_connect",
        "disconnect": "network_disconnect",
    },
    "container": {
        "ls": "ps",
        "list": "ps",
        "ps": "ps",
        "create": "create",
        "run": "run",
        "start": "start",
        "stop": "stop",
        "restart": "restart",
        "kill": "kill",
        "wait": "wait",
        "attach": "attach",
        "logs": "logs",
        "exec": "exec",
        "top": "top",
        "cp": "cp",
        "rm": "rm",
        "rename": "rename",
        "diff": "diff",
        "commit": "commit",
        "bundle": "bundle",
        "export": "export",
        "update": "update",
        "pause": "pause",
        "unpause": "unpause",
        "stats": "stats",
        "port": "port",
        "inspect": "container_inspect",
        "prune": "container_prune",
    },
}


class _Verbs(Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_VERBS, *_NOUNS, "help"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _NOUNS:
            return _noun(cmd_name)
        if cmd_name == "help":
            return _help_command
        return load_verb(cmd_name) if cmd_name in _VERBS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading in dict.fromkeys(h for _, h in _VERBS.values()):
            rows = [(v, load_verb(v).get_short_help_str(80)) for v, (_, h) in _VERBS.items() if h == heading]
            with formatter.section(heading):
                formatter.write_dl(rows)
        with formatter.section("Docker's long forms"):
            formatter.write_dl([(noun, f"{noun} " + " ".join(verbs)) for noun, verbs in _NOUNS.items()])


def load_verb(name: str) -> click.Command:
    """The command of a verb, from its module."""
    home = _VERBS[name][0] if name in _VERBS else _INNER[name]
    command: click.Command = getattr(importlib.import_module(f"layerfs.cli.{home}"), f"{name}_command")
    return command


class _Noun(Group):
    """`image` or `container`: its verbs are loaded one by one too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_NOUNS[self.name or ""])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = _NOUNS[self.name or ""].get(cmd_name)
        return load_verb(found) if found else None


def _noun(name: str) -> click.Group:
    return _Noun(name, help=f"Manage {name}s.")


@click.command("help", cls=Verb)
@click.argument("words", nargs=-1, metavar="[COMMAND]")
@click.pass_context
def _help_command(ctx: click.Context, words: tuple[str, ...]) -> int:
    """Show the help of a command."""
    return _invoke([*words, "--help"])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110})
@click.option("--store", metavar="DIR", envvar="LAYERFS_STORE", help="The store ($LAYERFS_STORE, /var/lib/layerfs).")
@click.version_option(__version__, "-v", "--version", message="layerfs version %(version)s")
@click.pass_context
def cli(ctx: click.Context, store: str | None) -> None:
    """Container images and layered file systems in one directory, without a daemon."""
    ctx.obj = Session(store)
    ctx.call_on_close(ctx.obj.close)


def _invoke(arguments: Sequence[str]) -> int:
    with cli.make_context("layerfs", list(arguments)) as ctx:
        result: Any = cli.invoke(ctx)
    return result if isinstance(result, int) else 0


def _complete(instruction: str) -> int:
    """What a shell's completion script asks for."""
    from click.shell_completion import shell_complete

    return shell_complete(cli, {}, "layerfs", "_LAYERFS_COMPLETE", instruction)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code. Errors are one line on stderr."""
    return guarded(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    try:
        if instruction := os.environ.get("_LAYERFS_COMPLETE"):
            return _complete(instruction)
        return _invoke(arguments)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        return usage_error(error)
    except click.Abort:
        return 128 + signal.SIGINT
