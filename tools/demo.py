"""The main job on real input, step by step: `make demo`.

Makes a root file system of programs of this host (no network), an image of it, mounts it with a writable layer,
changes it, and shows diff, commit, history, a snapshot, a fork, a rollback, a built Dockerfile, a run, and that the
store is whole. Everything happens in a temporary directory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAMS = (
    "sh",
    "ls",
    "cat",
    "cp",
    "rm",
    "mkdir",
    "chmod",
    "grep",
    "sed",
    "sort",
    "head",
    "wc",
    "uname",
    "hostname",
    "id",
    "find",
    "du",
)
LAYERFS = Path(sys.executable).parent / "layerfs"


def host_rootfs(root: Path) -> int:
    """Copy programs of the host and the libraries they need; returns the number of files."""
    wanted = {Path(found) for name in PROGRAMS if (found := shutil.which(name, path="/usr/bin:/bin"))}
    for program in sorted(wanted):
        listing = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        wanted |= {Path(p) for p in re.findall(r"(/\S+) \(0x", listing)}
    for source in sorted(wanted):
        target = root / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=True)
    for name in ("bin", "lib", "lib64"):  # usrmerge, as on the host
        link = Path("/", name)
        if link.is_symlink() and not (root / name).exists():
            (root / name).symlink_to(link.readlink())
    for name in ("etc", "tmp", "proc", "sys", "dev", "root", "usr/share/doc"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/motd").write_text("made of this host's own programs\n")
    return sum(len(files) for _, _, files in os.walk(root))


class Demo:
    def __init__(self, store: Path) -> None:
        self.store, self.step = store, 0

    def run(self, *arguments: str, lines: int = 3, show: bool = True) -> str:
        """Run one layerfs command, print it with its time and the first lines of its output."""
        self.step += 1
        began = time.perf_counter()
        done = subprocess.run([LAYERFS, "--store", self.store, *arguments], capture_output=True, text=True, check=False)
        took = (time.perf_counter() - began) * 1000
        if done.returncode != 0:
            sys.exit(f"layerfs {' '.join(arguments)} failed ({done.returncode}): {done.stderr.strip()}")
        shown = " ".join(a if len(a) < 60 else a[:57] + "..." for a in arguments).replace(str(self.store.parent), "~")
        print(f"{self.step:2} layerfs {shown}   [{took:.0f} ms]")
        if show:
            for line in done.stdout.rstrip().splitlines()[:lines]:
                print("     " + line[:110].replace(str(self.store.parent), "~"))
        return done.stdout.strip()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="layerfs-demo-") as place:
        base = Path(place)
        rootfs = base / "rootfs"
        count = host_rootfs(rootfs)
        print(f" 0 a root file system of this host's programs: {count} files")
        demo = Demo(base / "store")
        demo.run("import", str(rootfs), "host:1", "--change", 'CMD ["sh"]', show=False)
        demo.run("create", "--name", "box", "host:1", show=False)
        mounted = Path(demo.run("mount", "box"))
        try:
            (mounted / "etc/motd").write_text("changed in the writable layer\n")
            (mounted / "usr/bin/du").unlink()
            (mounted / "root/new").write_text("new\n")
        finally:
            demo.run("umount", str(mounted), show=False)
        demo.run("diff", "box", lines=7)
        demo.run("commit", "-m", "first change", "box", "host:2", show=False)
        demo.run("history", "host:2", lines=3)
        demo.run("images", lines=3)
        demo.run("snapshot", "box", "before", show=False)
        demo.run("fork", "box", "child")
        demo.run("rollback", "box", "before", show=False)
        demo.run("log", lines=6)
        (base / "Dockerfile").write_text("FROM host:2\nRUN wc -l /etc/passwd > /count\nCMD cat /count\n")
        demo.run("build", "-q", "-t", "app:1", str(base), "-f", str(base / "Dockerfile"), show=False)
        demo.run("run", "--rm", "app:1", lines=1)
        demo.run("export", "-o", str(base / "flat.tar"), "host:2", show=False)
        demo.run("run", "--rm", "host:2", "sh", "-c", "cat /etc/motd; echo pid $$ on $(hostname)", lines=2)
        demo.run("fsck", lines=1)


if __name__ == "__main__":
    main()
