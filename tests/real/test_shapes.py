"""Dockerfiles as people write them, really built, run, and compared with what podman makes of them.

Those that ask a registry are skipped aloud where none answers. `LAYERFS_SHAPES=all` compares every one with podman;
else those do that take a second.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.oci import ContainerConfig
from tests.build.conftest import Events, write_files
from tests.build.test_podman import MOUNT_POINTS, plain
from tests.cli.conftest import LAYERFS
from tests.real.conftest import PACKAGES
from tests.real.test_packages import OTHER_BYTES

pytestmark = [pytest.mark.root, pytest.mark.slow]
ALL = os.environ.get("LAYERFS_SHAPES") == "all"
NO_ANSWER = (
    "Temporary failure",
    "Could not resolve",
    "Connection refused",
    "EAI_AGAIN",
    "ETIMEDOUT",
    "NewConnectionError",
)
# What two builds of one file differ in by any builder: caches and logs with times in them, times in bytecode.
OTHERWISE = [pattern.lstrip("/") for pattern in OTHER_BYTES] + [
    "*.pyc",
    "var/cache/debconf/*",
    "etc/machine-id",
    "*/.package-lock.json",
    "*/.lock",
    "*/RECORD",
    "*.virtualenv",
]
# Where something is mounted for a step podman loses what the image has, and leaves directories that it made.
MOUNTED = ["etc/ssl", "etc/ssl/*", "etc/pip.conf", "usr/local/etc", "usr/local/etc/*", "var/lib/apt/lists*", "root/.*"]


@dataclass(frozen=True)
class Shape:
    """A Dockerfile on the image `base`, with files and named contexts; `said` is what its program says."""

    base: str
    text: str
    said: str
    files: Mapping[str, str] = field(default_factory=dict)
    contexts: tuple[str, ...] = ()
    asks: bool = False  # a registry
    quick: bool = False  # is always compared
    long: bool = False  # is built only together with all


APT = "DEBIAN_FRONTEND=noninteractive apt-get -qy --no-install-recommends"
FLASK = {
    "app.py": (
        "from flask import Flask\napp = Flask(__name__)\n\n@app.route('/')\ndef hello():\n"
        "    return 'hello,tb de docker'\n"
    ),
    "ask.py": "from app import app\nprint(app.test_client().get('/').data.decode())\n",
}
SHAPES = {
    "debian with packages": Shape(
        "debian:12",
        "FROM debian:12\n"
        "RUN --mount=from=apt,target=/apt tar --no-overwrite-dir -xpf /apt/apt-cache.tar -C / \\\n"
        f" && {APT} --no-download install {' '.join(PACKAGES)} \\\n"
        " && rm -rf /var/lib/apt/lists/* && apt-get clean\n"
        'ENTRYPOINT ["hello"]\nCMD ["-g", "built"]\n',
        "built\n",
        contexts=("apt",),
    ),
    "debian with packages of the registry": Shape(
        "debian:12",
        "FROM debian:12\n"
        f"RUN --mount=type=cache,target=/var/lib/apt/lists apt-get -q update && {APT} install hello\n"
        'ENTRYPOINT ["hello"]\n',
        "Hello, world!\n",
        asks=True,
    ),
    "the article's stress": Shape(
        "debian:12",
        "FROM debian:12\nRUN --mount=from=debs,target=/debs dpkg -i /debs/stress_*.deb\n"
        'ENTRYPOINT ["usr/bin/stress"]\nCMD ["--version"]\n',
        "stress 1.0.7\n",
        contexts=("debs",),
        quick=True,
    ),
    "the article's flask application": Shape(
        "real:1",
        "FROM real:1\nENV PIP_BREAK_SYSTEM_PACKAGES=1\n"
        'LABEL maintainer="tongbo<demo.com@126.com>"\nRUN pip install --no-cache-dir flask\n'
        'COPY app.py ask.py /app/\nWORKDIR /app\nEXPOSE 5000\nCMD ["python3", "ask.py"]\n',
        "hello,tb de docker\n",
        FLASK,
        asks=True,
    ),
    "python with a virtual environment": Shape(
        "real:1",
        "FROM real:1 AS build\n"
        "RUN --mount=type=cache,target=/root/.cache pip install --break-system-packages --target /tools virtualenv\n"
        "WORKDIR /app\nCOPY requirements.txt .\n"
        "RUN PYTHONPATH=/tools python3 -m virtualenv -q --no-vcs-ignore /venv \\\n"
        " && /venv/bin/pip install --no-cache-dir -r requirements.txt\n"
        "FROM real:1\nENV PATH=/venv/bin:$PATH\nCOPY --from=build /venv /venv\nCOPY *.py /app/\nWORKDIR /app\n"
        'USER nobody\nENTRYPOINT ["python", "ask.py"]\n',
        "hello,tb de docker\n",
        FLASK | {"requirements.txt": "flask\n"},
        asks=True,
        long=True,
    ),
    "node with packages": Shape(
        "debian:12",
        "FROM debian:12 AS node\nCOPY --from=host bin/node /usr/local/bin/\n"
        "COPY --from=host lib/node_modules/npm /usr/local/lib/node_modules/npm\n"
        "RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm\n"
        "FROM node\nWORKDIR /app\nCOPY package.json .\n"
        "RUN --mount=type=cache,target=/root/.npm npm install --omit=dev --no-audit --no-fund --no-update-notifier\n"
        'COPY . .\nENV NODE_ENV=production\nCMD ["node", "app.js"]\n',
        "172800000\n",
        {
            "package.json": '{"name": "app", "version": "1.0.0", "dependencies": {"ms": "2.1.3"}}\n',
            "app.js": "console.log(require('ms')('2 days'))\n",
            ".dockerignore": "node_modules\n",
        },
        contexts=("host",),
        asks=True,
    ),
    "a static program of two stages": Shape(
        "real:1",
        "FROM real:1 AS build\nWORKDIR /src\nCOPY hello.c Makefile ./\nRUN make\n"
        'FROM scratch\nCOPY --from=build /src/hello /\nCMD ["/hello"]\n',
        "hello,world,docker in c\n",
        {
            "hello.c": '#include <stdio.h>\nint main(void) { puts("hello,world,docker in c"); return 0; }\n',
            "Makefile": "hello: hello.c\n\tgcc -O1 -static -o $@ $<\n",
        },
    ),
}


@pytest.fixture(scope="module")
def store(debian: Path, big_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[layerfs.Store]:
    with layerfs.Store(tmp_path_factory.mktemp("shapes") / "store") as opened:
        opened.import_archive(debian, tag="debian:12")
        opened.load(big_image)
        yield opened


def contexts(shape: Shape, request: pytest.FixtureRequest) -> dict[str, Path]:
    """Directories, by name."""
    made = {}
    for name in shape.contexts:
        if name == "apt":
            made[name] = request.getfixturevalue("tmp_path") / "apt"
            made[name].mkdir()
            shutil.copy(request.getfixturevalue("packages"), made[name])
        elif name == "debs":
            made[name] = request.getfixturevalue("debs")
        elif not (program := shutil.which("node")) or not Path("/usr/lib/node_modules/npm").is_dir():
            pytest.skip("no node with npm here")
        else:
            made[name] = Path(program).resolve().parents[1]
    return made


def settings(shape: Shape) -> str:
    """The Dockerfile, with this machine's way to the registries: its certificates, and settings of pip and npm."""
    places = {"pip": "/etc/pip.conf", "npm": "/etc/npmrc", "ca": "/etc/ssl/certs/ca-certificates.crt"}
    targets = places | {"npm": "/usr/local/etc/npmrc"}
    flags = "".join(f" --mount=type=secret,id={name},target={targets[name]}" for name in secrets())
    return shape.text.replace("RUN ", f"RUN{flags} ") if shape.asks else shape.text


def secrets() -> dict[str, Path]:
    found = {"pip": "/etc/pip.conf", "npm": "/etc/npmrc", "ca": "/etc/ssl/certs/ca-certificates.crt"}
    return {name: Path(path) for name, path in found.items() if Path(path).exists()}


@pytest.mark.parametrize("name", SHAPES)
def test_a_shape_is_built_and_does_its_work(
    name: str, store: layerfs.Store, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    shape = SHAPES[name]
    if shape.long and not ALL:
        pytest.skip("a minute's work: LAYERFS_SHAPES=all does it")
    context = write_files(tmp_path / "context", {**shape.files, "Dockerfile": settings(shape)})
    how: dict[str, Any] = {"build_contexts": contexts(shape, request), "network": "host" if shape.asks else "none"}
    how["secrets"] = secrets()
    events = Events()
    try:
        image = store.build(context, tag="shape:1", progress=events, **how)
    except layerfs.LayerfsError:
        if shape.asks and any(word in events.output() for word in NO_ANSWER):
            pytest.skip(f"no registry answers: {events.output()[-300:]}")
        print(events.output()[-3000:])
        raise
    command = [*LAYERFS, "--store", store.path, "run", "--rm", "shape:1"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == shape.said
    again = Events()
    assert store.build(context, progress=again, **how).id == image.id
    assert again.kinds("done") == [text for text in again.kinds("done") if "FROM" in text]
    if shape.quick or ALL:
        compare(shape, image, how, context, tmp_path, request.getfixturevalue("podman"))


# beside podman


@pytest.fixture(scope="module")
def podman(debian: Path, big_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if not shutil.which("podman"):
        pytest.skip("no podman here")
    place = tmp_path_factory.mktemp("podman")
    options = ["--root", str(place / "root"), "--runroot", str(place / "run"), "--storage-driver", "overlay"]
    options += ["--tmpdir", str(place / "tmp")]  # what is shared by default another one's `system reset` takes away

    def run(*arguments: object) -> None:
        done = subprocess.run(["podman", *options, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    run("import", "-q", debian, "debian:12")
    if ALL:
        run("load", "-q", "-i", big_image)
    yield run
    subprocess.run(["podman", *options, "system", "reset", "-f"], check=False, capture_output=True)
    subprocess.run(["umount", "-l", place / "root/overlay"], check=False, capture_output=True)  # it leaves it


def compare(shape: Shape, image: layerfs.Image, how: dict[str, Any], context: Path, place: Path, podman: Any) -> None:
    """Tree, config and history are the same, but for what docs/limits.md says."""
    flags = ["--isolation", "chroot", "--pull=never", "--format", "docker", "--layers"]
    flags += [f"--build-context={name}={path}" for name, path in how["build_contexts"].items()]
    flags += [f"--secret=id={name},src={path}" for name, path in how["secrets"].items()]
    podman("build", "-q", *flags, "-t", "shape:1", context)
    podman("save", "-q", "--format", "docker-archive", "-o", place / "theirs.tar", "shape:1")
    (loaded,) = image.store.load(place / "theirs.tar")
    theirs = loaded.image
    assert rooted(plain(theirs)) == rooted(plain(image))
    ours, others = contents(image), contents(theirs)
    assert {
        path: (ours.get(path), others.get(path)) for path in ours | others if ours.get(path) != others.get(path)
    } == {}
    assert made_layers(image) == made_layers(theirs)
    if shape.asks:  # with something mounted in places of the image
        below = contents(image.store.image(shape.base), MOUNTED)
        assert {path: what for path, what in contents(image, MOUNTED).items() if below.get(path) != what} == {}


def rooted(config: ContainerConfig) -> ContainerConfig:
    """Of an image from scratch BuildKit says that `/` is the working directory, podman says nothing."""
    return replace(config, working_dir=config.working_dir or "/")


def contents(image: layerfs.Image, patterns: Sequence[str] = ()) -> dict[str, tuple[Any, ...]]:
    """What a user sees, but for times: contents by their digest; of these paths, or of all that can be compared."""
    tree, found = image.tree(), {}
    for path, inode in tree.walk():
        name = path.decode(errors="surrogateescape")
        if not path or path.split(b"/")[0] in (b"proc", b"sys", b"dev", b"run") or path in MOUNT_POINTS:
            continue
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns or (*OTHERWISE, *MOUNTED)) != bool(patterns):
            continue
        kind = stat.S_IFMT(inode.mode)
        text = tree.readlink(inode) if kind == stat.S_IFLNK else tree.content(inode) if kind == stat.S_IFREG else b""
        found[name] = (inode.mode if kind != stat.S_IFLNK else kind, inode.uid, inode.gid, text, tree.xattrs(inode))
    return found


def made_layers(image: layerfs.Image) -> list[bool]:
    """Without WORKDIR: where it makes the directory, podman tells of no layer, and BuildKit does."""
    return [not row.empty_layer for row in image.config.history if "WORKDIR" not in (row.created_by or "")]
