"""The same Dockerfiles by podman's builder: config and tree are the same, but for what docs/limits.md says."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.oci import ContainerConfig
from tests.build.conftest import read, write_files

pytestmark = pytest.mark.root

MOUNT_POINTS = (b"etc/hostname", b"etc/hosts", b"etc/resolv.conf")  # podman leaves them in the layer

FILES = {
    "a.txt": "a\n",
    "b.txt": "b\n",
    "d/x": "x",
    "d/sub/y": "y",
    "d/link ->": "x",
    "skip.log": "",
    ".dockerignore": "*.log\n",
}
CASES = {
    "metadata": (
        'FROM box:1\nARG V=1\nENV A=1 B="two words" C=$V\nLABEL one=1 two="2 3"\nEXPOSE 80 443/tcp 53/udp\n'
        "VOLUME /v /w\n"
        'USER bob\nWORKDIR /x\nWORKDIR y\nSTOPSIGNAL SIGINT\nSHELL ["/bin/sh", "-ec"]\nCMD ["x"]\n'
        "HEALTHCHECK --interval=5s --retries=2 CMD true\n"
    ),
    "entrypoint": 'FROM box:1\nCMD ["a"]\nENTRYPOINT ["echo", "x"]\n',
    "copies": (
        "FROM box:1\nCOPY d /c1\nCOPY d/ /c2/\nCOPY a.txt /new/sub/file\nCOPY *.txt /w/\nCOPY . /all\n"
        "COPY --chown=bob:staff d /own\nCOPY --chmod=750 a.txt /mode\nADD a.txt b.txt /two/\n"
        "WORKDIR /rel\nCOPY a.txt .\n"
    ),
    "stages": (
        "FROM box:1 AS one\nRUN echo made > /made && chown bob /made\nFROM box:1\nCOPY --from=one /made /taken\n"
        "COPY --from=0 /made /d/\nENV FROM=two\n"
    ),
    "runs": (
        "FROM box:1\nARG V=2\nENV A=one\nWORKDIR /w\n"
        "RUN echo $A $V > f && mkdir d && chmod 700 d && ln -s f l && ln f h\n"
        'RUN ["/bin/sh", "-c", "echo exec > e"]\nUSER bob\nRUN id -un > /tmp/who\nUSER root\nRUN rm f && rm -r d\n'
    ),
}


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Iterator[Any]:
    if not shutil.which("podman"):
        pytest.skip("no podman here")
    place, short = tmp_path_factory.mktemp("podman"), Path(tempfile.mkdtemp(dir="/run"))  # it takes 50 characters
    options = ["--root", str(place / "root"), "--runroot", str(short), "--storage-driver", "vfs"]

    def run(*arguments: object) -> None:
        done = subprocess.run(["podman", *options, *map(str, arguments)], check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    with tarfile.open(place / "base.tar", "w") as tar:
        tar.add(base, ".")
    run("import", "-q", place / "base.tar", "box:1")
    yield run
    subprocess.run(["podman", *options, "system", "reset", "-f"], check=False, capture_output=True)
    shutil.rmtree(short, ignore_errors=True)


def described(image: layerfs.Image) -> dict[str, object]:
    """Everything but times; sizes of directories and devices say nothing."""
    tree, found = image.tree(), {}
    for path, inode in tree.walk():
        if not path or path.split(b"/")[0] in (b"proc", b"sys", b"dev", b"run") or path in MOUNT_POINTS:
            continue
        kind = stat.S_IFMT(inode.mode)
        text = tree.readlink(inode) if kind == stat.S_IFLNK else b""
        data = read(image, path.decode()) if kind == stat.S_IFREG else b""
        found[path.decode()] = (inode.mode if text == b"" else kind, inode.uid, inode.gid, text, data)
    return found


def plain(image: layerfs.Image) -> ContainerConfig:
    """Without podman's label, its PATH where the image has none, and what docker alone writes."""
    config = image.config.config
    return replace(
        config,
        labels=tuple(pair for pair in config.labels if not pair[0].startswith("io.buildah")),
        env=tuple(pair for pair in config.env if not pair.startswith("PATH=")),
        cmd=config.cmd or None,
        entrypoint=config.entrypoint or None,
        args_escaped=False,
    )


@pytest.mark.parametrize("name", CASES)
def test_both_builders_agree(podman: Any, store: layerfs.Store, tmp_path: Path, name: str) -> None:
    context = write_files(tmp_path / "context", {**FILES, "Dockerfile": CASES[name]})
    ours = store.build(context, network="none")
    flags = ("--isolation", "chroot", "--pull=never", "--format", "docker", "--layers=false")
    podman("build", "-q", *flags, "-t", f"theirs:{name}", context)
    podman("save", "-q", "--format", "docker-archive", "-o", tmp_path / "theirs.tar", f"theirs:{name}")
    (loaded,) = store.load(tmp_path / "theirs.tar")
    theirs = loaded.image
    assert described(ours) == described(theirs)
    assert plain(ours) == plain(theirs)
