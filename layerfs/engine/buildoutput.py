"""Acting on `--output`: archives, and trees written to directories of the host."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Hashable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from layerfs.build.context import DirectoryFiles
from layerfs.build.files import Item, TreeFiles, walk
from layerfs.build.output import Output
from layerfs.errors import AlreadyExists
from layerfs.store.durable import writing

if TYPE_CHECKING:
    from layerfs.engine.image import Image

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def write_output(image: Image, output: Output) -> None:
    """Raises NoSpace, AlreadyExists: a file where a directory has to be, or the other way round."""
    store = image.store
    if output.kind == "local":
        write_tree(image, Path(output.dest))
    elif output.kind == "tar":
        store.export(image, _target(output.dest))
    elif output.kind in ("oci", "docker") and output.dest:
        compression = {"uncompressed": "none", "": None}.get(output.compression, output.compression)
        names = image.tags or (image.id,)
        store.save(names, _target(output.dest), format=output.kind, compression=compression)


def _target(dest: str) -> str | BinaryIO:
    return sys.stdout.buffer if dest == "-" else dest


def write_tree(image: Image, target: Path) -> None:
    """All files of an image below a directory, over what is there; owners only as root. No link there is followed."""
    with writing(f"the directory {target}"):
        target.mkdir(parents=True, exist_ok=True)
        with DirectoryFiles(target) as places:
            _Writer(TreeFiles(image.store.root, image.tree()), places).write()


class _Writer:
    def __init__(self, files: TreeFiles, places: DirectoryFiles) -> None:
        self._files, self._places = files, places
        self._links: dict[Hashable, bytes] = {}
        self._owners = os.geteuid() == 0

    def write(self) -> None:
        directories = []
        for path, item in walk(self._files, self._files.root):
            if not path:
                continue
            parent, _, name = path.rpartition(b"/")
            where = self._places.directory(parent)
            if item.is_dir:
                self._directory(name, where, path)
                directories.append((path, item))
            else:
                self._other(item, path, name, where)
        for path, item in reversed(directories):
            parent, _, name = path.rpartition(b"/")
            self._dress(item, name, self._places.directory(parent))

    def _directory(self, name: bytes, where: int, path: bytes) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=where)
        except FileExistsError:
            if not stat.S_ISDIR(os.stat(name, dir_fd=where, follow_symlinks=False).st_mode):
                raise AlreadyExists("there is a file where a directory has to be", path=path) from None

    def _other(self, item: Item, path: bytes, name: bytes, where: int) -> None:
        try:
            os.unlink(name, dir_fd=where)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            raise AlreadyExists("there is a directory where a file has to be", path=path) from None
        first = self._links.get(item.inode) if item.inode is not None else None
        if first is not None:
            parent, _, old = first.rpartition(b"/")
            source = os.dup(self._places.directory(parent))
            try:
                os.link(old, name, src_dir_fd=source, dst_dir_fd=self._places.directory(path.rpartition(b"/")[0]))
            finally:
                os.close(source)
            return
        if item.inode is not None:
            self._links[item.inode] = path
        if item.is_link:
            os.symlink(self._files.readlink(item), name, dir_fd=where)
        elif item.is_file:
            self._file(item, name, where)
        else:
            os.mknod(name, item.mode, item.rdev, dir_fd=where)
        self._dress(item, name, where)

    def _file(self, item: Item, name: bytes, where: int) -> None:
        content = self._files.content(item)
        with os.fdopen(os.open(name, _NEW, 0o600, dir_fd=where), "wb") as file:
            for offset, length in content.extents() if content else ():
                file.seek(offset)
                for piece in content.pieces(((offset, length),)) if content else ():
                    file.write(piece)
            file.truncate(item.size)

    def _dress(self, item: Item, name: bytes, where: int) -> None:
        if self._owners:
            os.chown(name, item.uid, item.gid, dir_fd=where, follow_symlinks=False)
        if not item.is_link:
            os.chmod(name, stat.S_IMODE(item.mode), dir_fd=where)
        os.utime(name, ns=(item.mtime_ns, item.mtime_ns), dir_fd=where, follow_symlinks=False)
