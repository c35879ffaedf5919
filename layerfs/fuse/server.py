"""The server process of engine `python`: reads its orders as JSON from stdin, mounts, and serves until unmounted.

It says one line on the descriptor `report`: `{"ready": true}` when the mount answers, or
`{"error": ..., "errno": ...}`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from layerfs.errors import LayerfsError
from layerfs.layer.tree import Tree
from layerfs.mount import detach
from layerfs.union.content import Contents
from layerfs.union.union import Union

__all__ = ["main", "serve"]


def serve(orders: dict[str, Any], ready: Callable[[], None]) -> None:
    """Mounts and serves; `ready` is called when the mount answers. For `orders` see snapshot.python."""
    _raise_limit()
    from layerfs.fuse.binding import Server, context
    from layerfs.fuse.operations import UnionOperations

    os.umask(0)
    tree = Tree.open(orders["tree"])
    packs = [(number, Path(orders["packs"]) / f"{number:016x}") for number in tree.packs]
    union = Union(
        tree,
        Contents(Path(orders["objects"]), packs),
        upper=Path(orders["upper"]) if orders.get("upper") else None,
        work=Path(orders["work"]) if orders.get("work") else None,
        frozen=[Path(each) for each in orders.get("frozen", ())],
        sync=not orders.get("volatile", False),
    )
    operations = UnionOperations(union, context, ready)
    Server(operations, orders["target"], **mount_options(orders, writable=union.writable))


def mount_options(orders: dict[str, Any], *, writable: bool) -> dict[str, Any]:
    """libfuse's options. Attributes are not cached: names of a hard-linked file are different inodes for libfuse."""
    options: dict[str, Any] = {
        "foreground": True,
        "nothreads": True,
        "fsname": orders["name"],
        "subtype": "layerfs",
        "use_ino": True,
        "default_permissions": True,
        "big_writes": True,
        "nonempty": True,
        "attr_timeout": 0,
        "entry_timeout": 3600,
        "negative_timeout": 3600,
    }
    if os.geteuid() == 0:
        options["allow_other"] = True
        wanted = set(orders.get("options", ()))
        options.update(
            {"nosuid" if "nosuid" in wanted else "suid": True, "nodev" if "nodev" in wanted else "dev": True}
        )
        options.update({"noexec": True} if "noexec" in wanted else {})
    return options if writable and not orders.get("read_only") else {**options, "ro": True}


def _raise_limit() -> None:
    """A pack is a descriptor, and so is every open file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    orders = json.load(sys.stdin)
    report = int(orders["report"])

    def say(message: dict[str, Any]) -> bool:
        try:
            os.write(report, json.dumps(message).encode() + b"\n")
            return True
        except OSError:
            return False  # who started us was killed
        finally:
            with contextlib.suppress(OSError):
                os.close(report)

    def ready() -> None:
        """A mount that nobody waits for any more may have lost its row already: it goes, and we with it."""
        if not say({"ready": True}):
            with contextlib.suppress(LayerfsError):
                detach(Path(orders["target"]), lazy=True)

    try:
        serve(orders, ready)
    except RuntimeError:  # libfuse has said why on stderr
        say({"error": "libfuse could not mount", "errno": errno.EIO})
        return 1
    except ImportError as error:
        say({"error": f"the engine python needs fusepy: {error}", "errno": errno.ENOTSUP})
        return 1
    except OSError as error:
        code = error.errno or errno.ENOTSUP
        say({"error": str(error), "errno": code})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
