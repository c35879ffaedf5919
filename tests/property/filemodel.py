"""A file tree as a dict: what every implementation must agree with. Errnos are those of Linux system calls."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import Any

NOREPLACE, EXCHANGE = 1, 2


@dataclass
class Inode:
    """kind: "dir", "file" or "link" (a symlink)."""

    kind: str
    mode: int = 0o644
    data: bytes = b""
    target: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    children: dict[str, Inode] = field(default_factory=dict)


class Refused(Exception):
    """The errno that the operation must give."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.number = number


class Model:
    """Symlinks are never followed: the tests open with O_NOFOLLOW."""

    def __init__(self) -> None:
        self.root = Inode("dir", 0o755)

    # lookup

    def find(self, path: str) -> Inode:
        node = self.root
        for name in path.split("/"):
            if node.kind == "link":
                raise Refused(errno.ENOENT)  # all links here point nowhere
            if node.kind != "dir":
                raise Refused(errno.ENOTDIR)
            if name not in node.children:
                raise Refused(errno.ENOENT)
            node = node.children[name]
        return node

    def parent(self, path: str) -> tuple[Inode, str]:
        folder, _, name = path.rpartition("/")
        node = self.find(folder) if folder else self.root
        if node.kind == "link":
            raise Refused(errno.ENOENT)
        if node.kind != "dir":
            raise Refused(errno.ENOTDIR)
        return node, name

    def _place(self, path: str, node: Inode) -> None:
        folder, name = self.parent(path)
        if name in folder.children:
            raise Refused(errno.EEXIST)
        folder.children[name] = node

    def names_of(self, node: Inode) -> int:
        """nlink of a non-directory."""
        return sum(1 for _, other in self.walk() if other is node)

    def walk(self, node: Inode | None = None, path: str = "") -> list[tuple[str, Inode]]:
        found: list[tuple[str, Inode]] = []
        for name, child in sorted((node or self.root).children.items()):
            where = f"{path}/{name}" if path else name
            found.append((where, child))
            if child.kind == "dir":
                found += self.walk(child, where)
        return found

    # operations

    def create(self, path: str, data: bytes, mode: int) -> None:
        self._place(path, Inode("file", mode, data))

    def mkdir(self, path: str, mode: int) -> None:
        self._place(path, Inode("dir", mode))

    def symlink(self, path: str, target: str) -> None:
        self._place(path, Inode("link", 0o777, target=target))

    def _file(self, path: str) -> Inode:
        node = self.find(path)
        if node.kind == "dir":
            raise Refused(errno.EISDIR)
        if node.kind == "link":
            raise Refused(errno.ELOOP)
        return node

    def write(self, path: str, offset: int, data: bytes) -> None:
        node = self._file(path)
        padded = node.data.ljust(offset, b"\0")
        node.data = padded[:offset] + data + padded[offset + len(data) :]

    def truncate(self, path: str, size: int) -> None:
        node = self._file(path)
        node.data = node.data[:size].ljust(size, b"\0")

    def read(self, path: str) -> bytes:
        return self._file(path).data

    def chmod(self, path: str, mode: int) -> None:
        node = self.find(path)
        if node.kind == "link":
            raise Refused(errno.ENOTSUP)
        node.mode = mode

    def setxattr(self, path: str, name: str, value: bytes) -> None:
        node = self.find(path)
        if node.kind == "link":
            raise Refused(errno.EPERM)
        node.xattrs[name] = value

    def unlink(self, path: str) -> None:
        folder, name = self.parent(path)
        node = self.find(path)
        if node.kind == "dir":
            raise Refused(errno.EISDIR)
        del folder.children[name]

    def rmdir(self, path: str) -> None:
        folder, name = self.parent(path)
        node = self.find(path)
        if node.kind != "dir":
            raise Refused(errno.ENOTDIR)
        if node.children:
            raise Refused(errno.ENOTEMPTY)
        del folder.children[name]

    def link(self, old: str, new: str) -> None:
        node = self.find(old)
        folder, name = self.parent(new)
        if name in folder.children:
            raise Refused(errno.EEXIST)
        if node.kind == "dir":
            raise Refused(errno.EPERM)
        folder.children[name] = node

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        old_folder, old_name = self.parent(old)
        new_folder, new_name = self.parent(new)
        source = self.find(old)
        target = new_folder.children.get(new_name)
        if flags & NOREPLACE and target is not None:
            raise Refused(errno.EEXIST)
        if flags & EXCHANGE and target is None:
            raise Refused(errno.ENOENT)
        if new.startswith(old + "/"):
            raise Refused(errno.EINVAL)
        if old.startswith(new + "/"):
            raise Refused(errno.EINVAL if flags & EXCHANGE else errno.ENOTEMPTY)
        if flags & EXCHANGE:
            assert target is not None
            old_folder.children[old_name], new_folder.children[new_name] = target, source
            return
        if source is target:
            return
        self._may_replace(source, target)
        new_folder.children[new_name] = source
        del old_folder.children[old_name]

    @staticmethod
    def _may_replace(source: Inode, target: Inode | None) -> None:
        if target is None:
            return
        if target.kind == "dir" and source.kind != "dir":
            raise Refused(errno.EISDIR)
        if source.kind == "dir" and target.kind != "dir":
            raise Refused(errno.ENOTDIR)
        if target.kind == "dir" and target.children:
            raise Refused(errno.ENOTEMPTY)


class Beside:
    """For a machine: `model`, and `tested` drivers by name, which must answer as it does."""

    model: Any
    tested: dict[str, Any]

    def act(self, operation: str, *arguments: Any) -> None:
        try:
            wanted: Any = getattr(self.model, operation)(*arguments)
        except Refused as refused:
            wanted = refused.number
        for name, driver in self.tested.items():
            try:
                got = getattr(driver, operation)(*arguments)
            except OSError as error:
                got = error.errno
            assert got == wanted, f"{name}: {operation}{arguments!s:.200} gave {got!s:.200}, not {wanted!s:.200}"

    def act_on_tree(self, path: str) -> None:
        """Removes all that is there, from below."""
        try:
            node = self.model.find(path)
        except Refused:
            return
        for where, child in reversed(self.model.walk(node, path) if node.kind == "dir" else []):
            self.act("rmdir" if child.kind == "dir" else "unlink", where)
        self.act("rmdir" if node.kind == "dir" else "unlink", path)
