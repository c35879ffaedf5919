"""The same listing as `applier.listing`, of a directory of the host; shares no code with layerfs."""

import os
import stat


def blocks_of(path, size):
    blocks, at = {}, 0
    fd = os.open(path, os.O_RDONLY)
    try:
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA) & ~4095
            except OSError:
                break
            end = min(os.lseek(fd, at, os.SEEK_HOLE), size)
            while at < end:
                data = os.pread(fd, min(4096, size - at), at)
                if data.strip(b"\0"):
                    blocks[at] = data.ljust(4096, b"\0")
                at += 4096
        return blocks
    finally:
        os.close(fd)


def xattrs_of(path):
    names = [name for name in os.listxattr(path, follow_symlinks=False) if name != "security.selinux"]
    return {os.fsencode(name): os.getxattr(path, name, follow_symlinks=False) for name in names}


def host_listing(top):
    """`data` blocks are padded to 4 KiB, as the applier has them."""
    result, first = {}, {}
    stack = [(b"", os.fsencode(top))]
    while stack:
        name, path = stack.pop()
        status = os.lstat(path)
        regular, directory = stat.S_ISREG(status.st_mode), stat.S_ISDIR(status.st_mode)
        device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
        result[name] = {
            "mode": status.st_mode,
            "owner": (status.st_uid, status.st_gid),
            "mtime_ns": status.st_mtime_ns,
            "rdev": (os.major(status.st_rdev), os.minor(status.st_rdev)) if device else (0, 0),
            "target": os.readlink(path) if stat.S_ISLNK(status.st_mode) else b"",  # noqa: PTH115
            "xattrs": xattrs_of(path),
            "size": status.st_size if regular else 0,
            "data": blocks_of(path, status.st_size) if regular else {},
            "first": None if directory else (status.st_dev, status.st_ino),
        }
        if directory:
            stack += [(name + b"/" + child, path + b"/" + child) for child in os.listdir(path)]  # noqa: PTH208
    for name in sorted(result):
        if result[name]["first"]:
            result[name]["first"] = first.setdefault(result[name]["first"], name)
    return dict(sorted(result.items()))
