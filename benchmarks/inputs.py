"""Layers for the benchmarks: made from nothing but a seed, from this project's own sources, or from packages of Debian,
PyPI and npm (kept in real_input's cache)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.real_input import CACHE  # type: ignore[import-not-found]

PROJECT = Path(__file__).resolve().parents[1]
WHEELS = ("pygments==2.18.0", "rich==13.9.4", "markdown-it-py==3.0.0", "mdurl==0.1.2")
NPM_PACKAGE, DEB = "date-fns@3.6.0", "vim-runtime"


def write_layer(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """A layer tar of regular files; directories come by themselves."""
    made: set[str] = set()
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            for parent in list(Path(name).parents)[-2::-1]:
                if str(parent) not in made:
                    made.add(str(parent))
                    folder = tarfile.TarInfo(str(parent))
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                    archive.addfile(folder)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def small_files(root: str, count: int, *, per_directory: int = 100, largest: int = 8192) -> Iterator[tuple[str, bytes]]:
    """`count` files of up to `largest` bytes below `root`."""
    source = random.Random(root)
    block = source.randbytes(2 * largest)
    for number in range(count):
        start = source.randrange(largest)
        data = block[start : start + source.randint(1, largest)]
        yield f"{root}/d{number // per_directory:03}/f{number:05}", data


def names(root: str, count: int) -> list[str]:
    return [name for name, _ in small_files(root, count, largest=1)]


def write_list(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def _download(folder: str, *command: str) -> Path:
    """Once; into a directory of the cache."""
    target = CACHE / folder
    if not target.exists():
        part = CACHE / f".{folder}.{os.getpid()}"
        part.mkdir(parents=True)
        part.chmod(0o777)  # apt downloads as somebody else
        subprocess.run(command, cwd=part, check=True, stdout=subprocess.DEVNULL)
        part.rename(target)
    return target


def _packages() -> Iterator[tuple[str, bytes]]:
    pip = (sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", *WHEELS)
    for folder, command in (
        ("bench-wheels", pip),
        ("bench-npm", ("npm", "pack", "--silent", NPM_PACKAGE)),
        ("bench-deb", ("apt-get", "download", "-qq", DEB)),
    ):
        for file in sorted(_download(folder, *command).iterdir()):
            yield f"packages/{folder.removeprefix('bench-')}/{file.name}", file.read_bytes()


def _sources() -> Iterator[tuple[str, bytes]]:
    """This project's C core, and a makefile that compiles it."""
    for file in sorted((PROJECT / "layerfs_native").glob("[ci]*/*.[ch]")):
        yield f"work/{file.relative_to(PROJECT / 'layerfs_native')}", file.read_bytes()
    rules = "SOURCES := $(wildcard core/*.c)\nOUT ?= out\nall: $(SOURCES:core/%.c=$(OUT)/%.o)\n"
    rules += "$(OUT)/%.o: core/%.c\n\t@mkdir -p $(OUT)\n\t@gcc -std=gnu11 -D_GNU_SOURCE -Iinclude -c -o $@ $<\n"
    yield "work/Makefile", rules.encode()


def _repository(place: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """A git repository with all its files committed."""
    for name, data in small_files("repository", count, largest=512):
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    git = ("git", "-C", place / "repository", "-c", "user.name=layerfs", "-c", "user.email=layerfs@localhost")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all"), ("gc", "-q")):
        subprocess.run([*git, *command], check=True)
    for folder in ("refs/heads", "objects/pack"):  # git wants them, and a layer of files has no empty ones
        (place / "repository/.git" / folder / "kept").touch()
    for file in sorted((place / "repository").rglob("*")):
        if file.is_file():
            yield str(file.relative_to(place)), file.read_bytes()


def work_layer(place: Path, count: int) -> Path:
    """What the jobs work on: sources, packages to install, a git repository of `count` files."""
    place.mkdir(parents=True)
    files = [*_sources(), *_packages(), *_repository(place, count)]
    return write_layer(place / "work.tar", files)


def _files(archive: Path, without: Iterable[str] = ()) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo, bytes]]:
    """Regular files with contents in the layers of a docker archive: layer, its tar, member, digest."""
    with tarfile.open(archive) as outer:
        manifest = outer.extractfile("manifest.json")
        assert manifest is not None
        for name in set(json.load(manifest)[0]["Layers"]) - set(without):
            with tarfile.open(fileobj=outer.extractfile(name)) as layer:
                for member in layer:
                    if member.isreg() and member.size and (file := layer.extractfile(member)) is not None:
                        yield name, layer, member, hashlib.file_digest(file, "sha256").digest()


def unpack_new_files(archive: Path, base: Path, place: Path) -> None:
    """What an image's layers have that no file of another image has, as tar leaves it on a disk."""
    known = list(_files(base))
    seen = {digest for *_, digest in known}
    for _, layer, member, digest in _files(archive, {name for name, *_ in known}):
        if digest not in seen:
            seen.add(digest)
            layer.extract(member, place, filter="fully_trusted")
