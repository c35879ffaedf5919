"""A container mounted by the native engine with mount options, and what its upper directory really holds."""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from layerfs.layer.tree import Tree
from layerfs.snapshot import MountHandle, MountTable, Writable, mount_tree
from layerfs.store.root import StoreRoot


@dataclass
class OptionBox:
    """`mount()` may be called again and again; the last options hold."""

    store: StoreRoot
    tree: Tree
    home: Path
    options: str = ""
    engine: str = "native"
    handle: MountHandle | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        for path in (self.upper, self.work):
            path.mkdir(parents=True)
        self.upper.chmod(0o755)

    @property
    def upper(self) -> Path:
        return self.home / "upper"

    @property
    def work(self) -> Path:
        return self.home / "work"

    @property
    def root(self) -> Path:
        return self.home / "m"

    @property
    def pid(self) -> int:
        (record,) = [each for each in MountTable(self.store).records() if each.target == str(self.root)]
        return record.pid

    def mount(self, options: str | None = None) -> Path:
        self.unmount()
        self.options = self.options if options is None else options
        writable = Writable(hashlib.sha256(os.fsencode(self.home)).hexdigest(), self.upper, self.work)
        self.handle = mount_tree(
            self.store, self.tree, engine=self.engine, target=self.root, writable=writable, options=self.options
        )
        return self.root

    def unmount(self) -> None:
        if self.handle is not None:
            handle, self.handle = self.handle, None
            handle.unmount()

    def counted(self) -> tuple[int, int]:
        """Bytes and entries as the mount says."""
        said = os.statvfs(self.root)
        return (said.f_blocks - said.f_bfree) * said.f_frsize, said.f_files - said.f_ffree

    def held(self) -> tuple[int, int]:
        """The same as du(1) finds it: each inode once, whiteouts not at all."""
        seen: dict[int, int] = {}
        for path in (self.upper, *self.upper.rglob("*")):
            status = path.lstat()
            if not (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0):
                seen[status.st_ino] = status.st_blocks * 512
        return sum(seen.values()), len(seen)

    def held_files(self) -> int:
        """Bytes of the files at the top, while somebody changes them."""
        total = 0
        with os.scandir(self.upper) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
        return total
