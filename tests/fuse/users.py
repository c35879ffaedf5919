"""Running a part of a test as somebody else: an ordinary user, or root of a user namespace, with a FUSE device that he
may open, in a mount namespace of its own.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from layerfs.snapshot import native

USER = 65534
_NEWNS, _NEWUSER = 0x20000, 0x10000000
_SET_DUMPABLE = 4
_BIND, _PRIVATE = 4096, 16384 | 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _prepare(place: Path, mode: int, fuse_conf: str) -> None:
    """A /dev/fuse of that mode and an /etc/fuse.conf, for this mount namespace."""
    _call("unshare", _NEWNS)
    _call("mount", b"none", b"/", None, _PRIVATE, None)
    node = place / "device"
    node.mkdir()
    _call("mount", b"none", os.fsencode(node), b"tmpfs", 0, None)
    os.mknod(node / "fuse", 0o20000 | mode, os.makedev(10, 229))
    (node / "fuse").chmod(mode)
    _call("mount", os.fsencode(node / "fuse"), b"/dev/fuse", None, _BIND, None)
    (node / "conf").write_text(fuse_conf)
    _call("mount", os.fsencode(node / "conf"), b"/etc/fuse.conf", None, _BIND, None)


def _become_user() -> None:
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)


def _become_root_of_a_namespace(single: bool) -> None:
    """With the user's id alone, or with 65,536 ids."""
    here, there = os.pipe(), os.pipe()
    parent = os.getpid()
    writer = os.fork()
    if writer == 0:
        os.read(here[0], 1)
        text = f"0 {USER} 1\n" if single else "0 100000 65536\n"
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{parent}/{name}").write_text(text)
        os.write(there[1], b"x")
        os._exit(0)
    _call("unshare", _NEWUSER | _NEWNS)
    os.write(here[1], b"x")
    os.read(there[0], 1)
    os.waitpid(writer, 0)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _call("prctl", _SET_DUMPABLE, 1, 0, 0, 0)  # as after an exec: others of the namespace may look at us in /proc


def as_other(
    who: str,
    part: Callable[[Path], None],
    *,
    device_mode: int = 0o666,
    fuse_conf: str = "",
    then: Callable[[Path], None] = lambda place: None,
) -> None:
    """Runs `part(place)` in a child as `user`, `single` (root of a user namespace with one id) or `mapped` (with many).

    `place` is a directory of his; `then(place)` follows here, as root. Raises AssertionError with the child's
    traceback. What the part needs must be imported before: the interpreter's files may be out of the child's reach.
    """
    place = Path(tempfile.mkdtemp(prefix="layerfs-user-", dir="/var/tmp"))
    owner = 100000 if who == "mapped" else USER
    said = place / "said"
    try:
        server = shutil.copy(native.SERVER, place / "layerfs-fuse")
        said.touch()
        for path in (place, said):
            os.chown(path, owner, owner)
        child = os.fork()
        if child == 0:
            try:
                native.SERVER = Path(server)
                _prepare(place, device_mode, fuse_conf)
                if who == "user":
                    _become_user()
                else:
                    _become_root_of_a_namespace(who == "single")
                part(place)
                os._exit(0)
            except BaseException:
                said.write_text(traceback.format_exc())
                os._exit(1)
        _, status = os.waitpid(child, 0)
        assert status == 0, said.read_text()
        then(place)
    finally:
        shutil.rmtree(place)
