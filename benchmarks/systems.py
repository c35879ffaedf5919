"""The union file systems that are compared, on the same layers: engine native, kernel overlayfs, fuse-overlayfs.

A `Stack` is a list of layer tars, once in a store and once unpacked on the host's file system. `Stack.open` gives each
system's `Place`: a mount with an upper directory of its own (or read-only), which can be mounted again, cold.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import layerfs
from layerfs import mount

OURS, OVERLAY, FUSE_OVERLAY, URING = "layerfs", "overlayfs", "fuse-overlayfs", "layerfs, io_uring"
VOLATILE = "layerfs, volatile"  # waits for no disk
SYSTEMS = (OURS, OVERLAY, FUSE_OVERLAY)
URING_SWITCH = Path("/sys/module/fuse/parameters/enable_uring")
_numbers = itertools.count(1)


def drop_caches() -> None:
    """Start cold: nothing of the page, entry and inode caches stays."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


class Place:
    """One system's mount of a stack."""

    def __init__(self, name: str, root: Path, attach: Callable[[], Any], detach: Callable[[], Any]) -> None:
        self.name, self.root = name, root
        self._attach, self._detach = attach, detach
        self._attach()
        self.mounted = True

    def remount(self) -> None:
        self.close()
        self._attach()
        self.mounted = True

    def close(self) -> None:
        if self.mounted:
            self.mounted = False
            self._detach()


def _patiently(action: Callable[[], Any]) -> Any:
    """A container that starts elsewhere on the machine copies our mounts for a moment, which keeps their server up."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return action()
        except layerfs.LayerfsError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _unmount(root: Path) -> None:
    try:
        mount.detach(root)
    except layerfs.LayerfsError:
        mount.detach(root, lazy=True)  # somebody still looks at it: no reason to lose the other figures


class Stack:
    """Layers, base first, in `store` and unpacked below `base`."""

    @classmethod
    def make(cls, base: Path, store: layerfs.Store, name: str, layers: Sequence[Path]) -> Stack:
        """From layer tars: loads them as an image, and unpacks them."""
        from tools.real_input import docker_archive  # type: ignore[import-not-found]

        archive = docker_archive(f"bench-{name}-{os.getpid()}", f"{name}:1", list(layers))
        try:
            image = store.load(archive)[0].image
        finally:
            archive.unlink()
        return cls(base, store, image, layers)

    def __init__(self, base: Path, store: layerfs.Store, image: layerfs.Image, layers: Sequence[Path]) -> None:
        self.base, self.store, self.image = base, store, image
        base.mkdir(parents=True)
        self.lowers: list[Path] = []  # topmost first, as overlayfs wants them
        for number, layer in enumerate(layers):
            lower = base / f"{number}"
            lower.mkdir()
            subprocess.run(["tar", "xf", layer, "-C", lower], check=True)
            self.lowers.insert(0, lower)

    @contextlib.contextmanager
    def open(self, *names: str, writable: bool = True) -> Iterator[dict[str, Place]]:
        """Places by system; all when none is named. They, and what was written to them, are gone afterwards."""
        home = self.base / f"places{next(_numbers)}"
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, home, ignore_errors=True)
            places = {}
            for name in names or SYSTEMS:
                make = {OURS: self._ours, URING: self._uring, OVERLAY: self._overlay, FUSE_OVERLAY: self._fuse_overlay}
                make[VOLATILE] = functools.partial(self._ours, name=VOLATILE, options=["volatile"])
                places[name] = make[name](home / name.split(",")[0], writable, stack)
                stack.callback(places[name].close)
            yield places

    def _ours(
        self,
        home: Path,
        writable: bool,
        stack: contextlib.ExitStack,
        name: str = OURS,
        options: Sequence[str] = (),
    ) -> Place:
        home = home.with_name(home.name + str(next(_numbers)))
        home.mkdir(parents=True)
        handles: list[Any] = []
        what: Any = self.image
        if writable:
            what = self.store.create(self.image, name=f"bench{next(_numbers)}")
            stack.callback(what.remove, force=True)

        def attach() -> None:
            handles.append(_patiently(lambda: what.mount(home, engine="native", options=options)))

        return Place(name, home, attach, lambda: _patiently(handles.pop().unmount))

    def _uring(self, home: Path, writable: bool, stack: contextlib.ExitStack) -> Place:
        """The kernel's switch is host-wide: it is on only while this mount is made."""
        place = None
        before = URING_SWITCH.read_text().strip()
        try:
            URING_SWITCH.write_text("Y")
            place = self._ours(home, writable, stack, URING)
        finally:
            URING_SWITCH.write_text(before)
        return place

    def _directories(self, home: Path, writable: bool) -> tuple[Path, Path, Path, list[Path]]:
        """Mount point, upper, work, and lower directories (overlayfs wants two of them when there is no upper)."""
        root, upper, work, empty = (home / part for part in ("m", "upper", "work", "empty"))
        for folder in (root, upper, work, empty):
            folder.mkdir(parents=True)
        return root, upper, work, self.lowers if writable or len(self.lowers) > 1 else [*self.lowers, empty]

    def _overlay(self, home: Path, writable: bool, stack: contextlib.ExitStack) -> Place:
        """As a distribution mounts it: with the module's defaults."""
        root, upper, work, lowers = self._directories(home, writable)
        options: list[tuple[str, str | int | None]] = [("source", "bench"), *(("lowerdir+", str(p)) for p in lowers)]
        if writable:
            options += [("upperdir", str(upper)), ("workdir", str(work))]
        return Place(OVERLAY, root, lambda: mount.attach("overlay", options, root), lambda: _unmount(root))

    def _fuse_overlay(self, home: Path, writable: bool, stack: contextlib.ExitStack) -> Place:
        root, upper, work, lowers = self._directories(home, writable)
        options = "dev,suid,lowerdir=" + ":".join(os.path.relpath(path, self.base) for path in lowers)
        if writable:
            options += f",upperdir={upper},workdir={work}"

        def attach() -> None:
            subprocess.run(["fuse-overlayfs", "-o", options, root], cwd=self.base, check=True, capture_output=True)

        return Place(FUSE_OVERLAY, root, attach, lambda: _unmount(root))


def uring_offered() -> bool:
    """Whether the kernel has FUSE over io_uring, and this server too."""
    from layerfs.snapshot.native import SERVER

    return URING_SWITCH.exists() and os.access(URING_SWITCH, os.W_OK) and b"enable_uring" in SERVER.read_bytes()


def unmount_below(base: Path) -> None:
    """Whatever a failed benchmark has left."""
    for entry in reversed(mount.mount_table()):
        target = Path(os.fsdecode(entry.target))
        if target.is_relative_to(base):
            with contextlib.suppress(layerfs.LayerfsError):
                mount.detach(target, lazy=True)
