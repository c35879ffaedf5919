"""Real input: Debian root file systems (tools/real_input.py). Skipped aloud when nothing is in the cache and Debian's
registry cannot be reached.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import layerfs
from tests.conftest import PROJECT

PACKAGES = ["file", "cron", "iputils-ping", "less", "hello"]  # a user, a setgid program, a capability, alternatives
SYSTEM_PACKAGES = ["docker-registry", "hello", "stress"]


def _real_input() -> ModuleType:
    spec = importlib.util.spec_from_file_location("real_input", PROJECT / "tools/real_input.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _made(kind: str) -> Path:
    try:
        path: Path = getattr(_real_input(), kind)()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no real input: {error} (mmdebstrap and Debian's registry are needed once)")
    return path


@pytest.fixture(scope="session")
def debian() -> Path:
    """A minimal Debian as one tar."""
    return _made("debian")


@pytest.fixture(scope="session")
def big_image() -> Path:
    """A docker archive of two layers and over 30,000 files."""
    return _made("image")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[layerfs.Store]:
    with layerfs.Store(tmp_path / "store") as opened:
        yield opened


def extract(archive: Path, into: Path, *options: str) -> Path:
    """What GNU tar makes of it."""
    into.mkdir(exist_ok=True)
    command = ["tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", archive, "-C", into, *options]
    subprocess.run(command, check=True)
    return into


def in_root(root: Path, *command: str) -> None:
    """A program in a root directory, with its own /proc."""
    script = 'mount -t proc proc "$0/proc" && exec chroot "$0" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/ "$@"'
    prefix = ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "sh", "-c", script, str(root)]
    done = subprocess.run([*prefix, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def _from_apt(debian: Path, name: str, packages: list[str], *kept: str) -> Path:
    """A tar of what apt fetched for `packages`, asked from Debian's registry once."""
    cache = debian.parent / name
    if not cache.exists():
        top = debian.parent / f".apt.{os.getpid()}"
        try:
            extract(debian, top)
            (top / "etc/resolv.conf").write_bytes(Path("/etc/resolv.conf").read_bytes())
            in_root(top, "apt-get", "-q", "update")
            in_root(top, "apt-get", "-qy", "--no-install-recommends", "-d", "install", *packages)
            part = debian.parent / f".{os.getpid()}.{name}"
            subprocess.run(["tar", "-cf", part, "-C", top, *kept], check=True)
            part.rename(cache)
        except AssertionError as error:
            pytest.skip(f"Debian's registry cannot be reached: {error}")
        finally:
            shutil.rmtree(top, ignore_errors=True)
    return cache


@pytest.fixture(scope="session")
def packages(debian: Path) -> Path:
    """Lists and archives of apt for PACKAGES."""
    return _from_apt(debian, "apt-cache.tar", PACKAGES, "var/lib/apt/lists", "var/cache/apt/archives")


@pytest.fixture(scope="session")
def debs(debian: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the archives of SYSTEM_PACKAGES and of what they need."""
    archive = _from_apt(debian, "debs.tar", SYSTEM_PACKAGES, "var/cache/apt/archives")
    place = extract(archive, tmp_path_factory.mktemp("debs"))
    return place / "var/cache/apt/archives"


def install(root: Path, packages: Path) -> None:
    """apt-get and dpkg at work, without the network."""
    subprocess.run(["tar", "--no-overwrite-dir", "-xpf", packages, "-C", root], check=True)
    noise = ["-o", "APT::Install-Recommends=false", "-o", "Debug::NoLocking=false"]
    in_root(
        root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy", *noise, "--no-download", "install", *PACKAGES
    )
