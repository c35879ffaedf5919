"""The same files shown with other ids, in three ways: by the native engine's maps, by the kernel's id-mapped mounts of
a native mount, and by those of a plain directory (the oracle).
"""

from __future__ import annotations

import ctypes
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from limited import OptionBox

from layerfs import mount

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_CLONE, _EMPTY_PATH, _MOVE_EMPTY, _IDMAP = 1, 0x1000, 4, 0x100000
BASE, COUNT = 100_000, 65_536
CAPABILITY = struct.pack("<5I", 0x2000001, 1 << 10, 0, 0, 0)  # CAP_NET_BIND_SERVICE, of root


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def _call(number: int, *arguments: object) -> int:
    result = _LIBC.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def id_mapped(source: Path, target: Path) -> None:
    """A second place for what is mounted (or just is) at `source`, with stored ids 0… shown as BASE…"""
    wait = "import ctypes, sys; ctypes.CDLL(None).unshare(0x10000000); print('x', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.read(1) == b"x"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text(f"0 {BASE} {COUNT}")
        space = os.open(f"/proc/{holder.pid}/ns/user", os.O_RDONLY)
        fd = _call(_OPEN_TREE, -100, os.fsencode(source), _CLONE)
        attributes = _Attributes(set=_IDMAP, userns=space)
        _call(_MOUNT_SETATTR, fd, b"", _EMPTY_PATH, ctypes.byref(attributes), ctypes.sizeof(attributes))
        _call(_MOVE_MOUNT, fd, b"", -100, os.fsencode(target), _MOVE_EMPTY)
        os.close(fd)
        os.close(space)
    finally:
        holder.communicate()


class View:
    """`root`: where the ids are mapped. `stored`: where they are as they are stored."""

    def __init__(self, kind: str, box: OptionBox, home: Path) -> None:
        self.kind, self.box = kind, box
        self.root, self.place = home / "mapped", home / "plain"
        self.root.mkdir()
        self.place.mkdir()
        if kind == "native":
            self.root = box.mount(f"uidmap=0:{BASE}:{COUNT},gidmap=0:{BASE}:{COUNT}")
            self.stored = box.upper
            return
        if kind == "native, mapped by the kernel":
            id_mapped(box.mount(""), self.root)
            self.stored = box.upper
            return
        self.stored = self.place
        for name, owner in (("f", 0), ("mine", 1000), ("nobodys", 70_000), ("d", 1000)):
            path = self.place / name
            path.mkdir() if name == "d" else path.write_bytes(name.encode())
            os.chown(path, owner, owner)
        (self.place / "able").write_bytes(b"able")
        os.setxattr(self.place / "able", "security.capability", CAPABILITY)
        self.place.chmod(0o777)
        id_mapped(self.place, self.root)

    def close(self) -> None:
        if self.kind != "native":
            mount.detach(self.root, lazy=True)
        self.box.unmount()

    def does(self, uid: int, act: Callable[[], object]) -> int:
        """The errno of doing it as somebody, in the root (whose ancestors nobody else may enter); 0 when it went."""
        pid = os.fork()
        if not pid:
            code = 255
            try:
                os.chdir(self.root)
                if uid:
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                act()
                code = 0
            except OSError as error:
                code = error.errno or 254
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
