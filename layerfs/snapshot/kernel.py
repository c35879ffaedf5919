"""Engine `kernel`: the tree as a file-backed EROFS mount that nobody sees, under the kernel's own overlayfs.

The overlay holds the only reference to the EROFS mount, so that one unmount frees everything, and a failure
half way leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from layerfs import mount
from layerfs.errors import MountError, Unsupported

__all__ = ["erofs", "mount_kernel"]


@contextlib.contextmanager
def erofs(tree: Path, packs: Sequence[Path]) -> Iterator[int]:
    """A detached read-only mount of a tree file; `packs` in the order of its device slots.

    Raises:
        Unsupported: this kernel cannot mount EROFS from plain files (Linux 6.12 and later can).
        MountError: a damaged tree or a pack that is gone.
    """
    with contextlib.ExitStack() as stack:
        options: list[mount.Option] = [("source", stack.enter_context(mount.short_path(tree)))]
        folders: dict[str, str] = {}
        for pack in packs:  # as text: there may be hundreds, and paths as objects take most of the time
            folder, _, name = os.fspath(pack).rpartition("/")
            if folder not in folders:
                folders[folder] = _folder(stack, folder)
            options.append(("device", f"{folders[folder]}/{name}"))
        try:
            fd = mount.detached("erofs", options, attributes=mount.READ_ONLY)
        except MountError as error:
            raise _explain(error) from error
        stack.callback(os.close, fd)
        yield fd


def _folder(stack: contextlib.ExitStack, folder: str) -> str:
    """The packs' directory, named so that `folder/pack` fits into an fsconfig string whatever the store's path is."""
    if len(os.fsencode(folder)) <= 200:
        return folder
    fd = os.open(folder or "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def _explain(error: MountError) -> Exception:
    if error.errno == errno.ENOTBLK:
        return Unsupported(
            "the engine kernel cannot mount from plain files here: Linux 6.12 or later is needed, and a store on a "
            "file system that EROFS can read from (tmpfs is none); use another engine"
        )
    return error


def mount_kernel(
    target: Path,
    *,
    tree: Path,
    packs: Sequence[Path],
    objects: Path,
    frozen: Sequence[Path] = (),
    upper: mount.Upper | None = None,
    source: str,
    attributes: int = 0,
    volatile: bool = False,
) -> None:
    """Mount a tree with its contents; `frozen` are upper-format directories above it, newest first."""
    with erofs(tree, packs) as lower:
        mount.overlay(
            target,
            lower=[*frozen, lower],
            data=[objects],
            upper=upper,
            source=source,
            attributes=attributes,
            volatile=volatile,
        )
