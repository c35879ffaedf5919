"""The `layerfs` command: finds the verb, opens the store when it is needed, turns errors into one line and an exit
code.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from layerfs.errors import LayerfsError

if TYPE_CHECKING:
    from layerfs.engine import Store

# verb -> (module below layerfs.cli, heading in --help)
_VERBS: dict[str, tuple[str, str]] = {
    "import": ("archives", "Images"),
    "load": ("archives", "Images"),
    "save": ("archives", "Images"),
    "export": ("archives", "Images"),
    "images": ("images", "Images"),
    "history": ("images", "Images"),
    "inspect": ("images", "Images"),
    "tag": ("images", "Images"),
    "rmi": ("images", "Images"),
    "create": ("containers", "Containers"),
    "run": ("containers", "Containers"),
    "ps": ("containers", "Containers"),
    "rm": ("containers", "Containers"),
    "rename": ("containers", "Containers"),
    "diff": ("containers", "Containers"),
    "commit": ("containers", "Containers"),
    "mount": ("mounts", "Mounts"),
    "umount": ("mounts", "Mounts"),
    "gc": ("upkeep", "The store"),
    "fsck": ("upkeep", "The store"),
    "system": ("upkeep", "The store"),
    "debug": ("upkeep", "The store"),
    "version": ("upkeep", "The store"),
    "completion": ("completion", "The store"),
}
_NOUNS: dict[str, dict[str, str]] = {
    "image": {
        "ls": "images",
        "list": "images",
        "history": "history",
        "inspect": "inspect",
        "tag": "tag",
        "rm": "rmi",
        "import": "import",
        "load": "load",
        "save": "save",
        "prune": "image_prune",
    },
    "container": {
        "ls": "ps",
        "list": "ps",
        "create": "create",
        "run": "run",
        "rm": "rm",
        "rename": "rename",
        "diff": "diff",
        "commit": "commit",
        "export": "export",
        "inspect": "inspect",
        "prune": "container_prune",
    },
}


class _Verbs(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_VERBS, *_NOUNS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _NOUNS:
            return _noun(cmd_name)
        return load_verb(cmd_name) if cmd_name in _VERBS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for heading in dict.fromkeys(h for _, h in _VERBS.values()):
            rows = [(v, load_verb(v).get_short_help_str(80)) for v, (_, h) in _VERBS.items() if h == heading]
            with formatter.section(heading):
                formatter.write_dl(rows)
        with formatter.section("Docker's long forms"):
            formatter.write_dl([(noun, f"{noun} " + " ".join(verbs)) for noun, verbs in _NOUNS.items()])


def load_verb(name: str) -> click.Command:
    module = importlib.import_module(f"layerfs.cli.{_VERBS[name][0] if name in _VERBS else 'upkeep'}")
    command: click.Command = getattr(module, f"{name}_command")
    return command


def _noun(name: str) -> click.Group:
    group = click.Group(name, help=f"Manage {name}s.")
    for word, verb in _NOUNS[name].items():
        group.add_command(load_verb(verb), word)
    return group


class Session:
    """What the verbs share: the store's place, and the store once it is opened."""

    def __init__(self, path: str | None) -> None:
        self.path = path
        self._store: Store | None = None

    @property
    def store(self) -> Store:
        if self._store is None:
            from layerfs.engine import Store

            self._store = Store(self.path)
        return self._store

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


@click.group(cls=_Verbs, context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110})
@click.option("--store", "store", metavar="DIR", envvar="LAYERFS_STORE", help="The store (default: $LAYERFS_STORE).")
@click.version_option(package_name="layerfs", prog_name="layerfs")
@click.pass_context
def cli(ctx: click.Context, store: str | None) -> None:
    """Container images and layered file systems in one directory, without a daemon."""
    ctx.obj = Session(store)
    ctx.call_on_close(ctx.obj.close)


def fail(message: str, code: int = 1) -> int:
    """Print one line on stderr, whatever the message holds; returns the code."""
    click.echo(f"layerfs: {' '.join(message.split())}", err=True)
    return code


def _usage_error(error: click.UsageError) -> int:
    """docker's words and codes (reference 5.1): unknown flags give 125, wrong arguments 1."""
    path = error.ctx.command_path if error.ctx else "layerfs"
    hint = f"(see '{path} --help')"
    if isinstance(error, click.NoSuchOption):
        flag = error.option_name
        word = "unknown flag" if flag.startswith("--") else "unknown shorthand flag"
        return fail(f"{word}: {flag} {hint}", 125)
    if isinstance(error, click.BadOptionUsage):
        return fail(f"{error.format_message()} {hint}", 125)
    if isinstance(error, click.MissingParameter) and isinstance(error.param, click.Argument):
        return fail(f"'{path}' requires at least {max(1, error.param.nargs)} argument {hint}")
    return fail(f"{error.format_message()} {hint}", 125 if isinstance(error, click.BadParameter) else 1)


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns the exit code."""
    try:
        result: Any = cli.main(args=list(arguments), prog_name="layerfs", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        return _usage_error(error)
    except (click.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # keeps the interpreter's last flush quiet
        return 141
    except LayerfsError as error:
        return fail(str(error), error.exit_code)
    except OSError as error:
        return fail(f"{error.strerror}: {error.filename}" if error.filename else str(error))
    except Exception as error:
        if os.environ.get("LAYERFS_DEBUG"):
            raise
        return fail(f"internal error ({type(error).__name__}: {error}); LAYERFS_DEBUG=1 shows where")
