"""Real input for tests and benchmarks: Debian root file systems by mmdebstrap, made once and kept in a cache directory.

    real_input.py debian     minbase, about 9,000 entries; prints the tar's path
    real_input.py image      a docker archive of two layers, over 30,000 entries; prints its path
    real_input.py variant    the same with a tenth of the upper layer's files changed

The cache is $LAYERFS_CACHE or /var/tmp/layerfs-cache. Only Debian's registry is asked.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

CACHE = Path(os.environ.get("LAYERFS_CACHE", "/var/tmp/layerfs-cache"))
PACKAGES = "python3,python3-pip,python3-dev,gcc,git,make,vim-runtime,perl,libboost1.74-dev"


def _bootstrap(name: str, *options: str) -> Path:
    target = CACHE / f"{name}.tar"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = CACHE / f".{name}.{os.getpid()}.tar"
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", *options, "bookworm", part], check=True, env=environment
        )
        part.rename(target)
    return target


def debian() -> Path:
    """A minimal Debian root file system as one tar."""
    return _bootstrap("debian")


def _difference(base: Path, full: Path, out: Path, *, change_every: int = 0) -> None:
    """A layer tar: what `full` adds to or changes in `base`; every n-th regular file with other content where asked."""
    with tarfile.open(base) as archive:
        known = {m.name: (m.type, m.mode, m.uid, m.gid, m.size, m.mtime, m.linkname) for m in archive}
    with tarfile.open(full) as source, tarfile.open(out, "w", format=tarfile.PAX_FORMAT) as target:
        written: set[str] = set()
        count = 0
        for member in source:
            state = (member.type, member.mode, member.uid, member.gid, member.size, member.mtime, member.linkname)
            if known.get(member.name) == state or (member.islnk() and member.linkname not in written):
                continue
            written.add(member.name)
            data = source.extractfile(member).read() if member.isreg() else b""  # type: ignore[union-attr]
            count += member.isreg()
            if change_every and member.isreg() and count % change_every == 0:
                data = b"# changed\n" + data
                member = copy.copy(member)
                member.size = len(data)
            target.addfile(member, io.BytesIO(data) if member.isreg() else None)


def docker_archive(name: str, tag: str, layers: list[Path]) -> Path:
    """A docker archive (`docker save` form) of plain layer tars, written by tarfile alone."""
    target = CACHE / f"{name}.tar"
    if target.exists():
        return target
    digests = []
    for layer in layers:
        with layer.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256").hexdigest())
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{d}" for d in digests]},
        "history": [{"created": "2024-01-01T00:00:00Z", "created_by": f"layer {i}"} for i in range(len(layers))],
    }
    raw = json.dumps(config).encode()
    image = hashlib.sha256(raw).hexdigest()
    manifest = [{"Config": f"{image}.json", "RepoTags": [tag], "Layers": [f"{d}/layer.tar" for d in digests]}]
    part = CACHE / f".{name}.{os.getpid()}.tar"
    with tarfile.open(part, "w") as archive:
        for digest, layer in zip(digests, layers, strict=True):
            archive.add(layer, f"{digest}/layer.tar")
        for member, data in ((f"{image}.json", raw), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    part.rename(target)
    return target


def _layers(change_every: int = 0) -> list[Path]:
    base, full = debian(), _bootstrap("full", f"--include={PACKAGES}")
    upper = CACHE / f"upper-{change_every}.tar"
    if not upper.exists():
        part = CACHE / f".upper.{os.getpid()}.tar"
        _difference(base, full, part, change_every=change_every)
        part.rename(upper)
    return [base, upper]


def image() -> Path:
    """A docker archive of Debian and, in a second layer, compilers, interpreters and headers."""
    return docker_archive("image", "real:1", _layers())


def variant() -> Path:
    """The same image with every tenth regular file of the upper layer changed."""
    return docker_archive("variant", "real:2", _layers(change_every=10))


if __name__ == "__main__":
    print({"debian": debian, "image": image, "variant": variant}[sys.argv[1]]())
