"""A host of its own for whole-system tests: a store, a network namespace, and the `layerfs` command in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

import layerfs
from layerfs.runtime import netns
from layerfs.runtime.rtnetlink import Netlink
from tests.cli.conftest import LAYERFS
from tests.cli.test_terminal import Session
from tests.real.conftest import debian, debs
from tests.workplace import remove

__all__ = ["debian", "debs"]  # fixtures
Result = TypeVar("Result")
BUSYBOX = ("sh", "cat", "echo", "sleep", "ls", "ip", "httpd", "hostname", "ps", "true", "wget", "head", "yes", "test")


class Host:
    """host("ps", "-a"): what the command says; its exit code is `code`, and nothing is ever a traceback."""

    def __init__(self, place: Path) -> None:
        self.store, self.network = place / "store", place / "net"
        netns.create(self.network)
        with Netlink(netns.route_socket(self.network)) as inner:
            inner.set_up(1)
        self.environment = {name: value for name, value in os.environ.items() if name != "LAYERFS_NETWORK"}
        self.environment["LAYERFS_STORE"] = str(self.store)
        self._sessions: list[Session] = []

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", f"--net={self.network}"]

    def ask(self, *words: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [*self.prefix, *LAYERFS, *map(str, words)]
        done = subprocess.run(
            command, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
        assert "Traceback" not in done.stderr
        return done

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        done = self.ask(*words)
        assert done.returncode == code, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout if code == 0 else done.stdout + done.stderr

    def rows(self, *words: str | Path) -> list[list[str]]:
        """The cells of a table, without its heading."""
        lines = self(*words).splitlines()[1:]
        return [[cell.strip() for cell in line.split("   ") if cell.strip()] for line in lines]

    def session(self, *words: str) -> Session:
        """The command on a terminal."""
        self._sessions.append(Session(*words, prefix=self.prefix, environment=self.environment))
        return self._sessions[-1]

    def other(self, *words: str | Path) -> str:
        """Another program in the same network."""
        command = [*self.prefix, *map(str, words)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    def inside(self, action: Callable[[], Result]) -> Result:
        return netns.inside(self.network, action)

    def links(self) -> list[str]:
        with Netlink(netns.route_socket(self.network)) as inner:
            return sorted(link.name for link in inner.links() if link.name not in ("tunl0", "sit0", "gre0"))

    def close(self) -> None:
        for session in self._sessions:
            session.close()
        with layerfs.Store(self.store) as store:
            for box in store.containers():
                with contextlib.suppress(layerfs.errors.ContainerNotFound):
                    box.remove(force=True)
        netns.remove(self.network)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    place = tmp_path_factory.mktemp("host")
    host = Host(place)
    yield host
    host.close()
    left = remove(place)
    assert left == []


@pytest.fixture(scope="module")
def small(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of an image with a shell and little else."""
    root = tmp_path_factory.mktemp("small")
    (root / "bin").mkdir()
    shutil.copy("/bin/busybox", root / "bin")
    for name in BUSYBOX:
        (root / "bin" / name).symlink_to("busybox")
    host("import", "-c", 'CMD ["/bin/sh"]', root, "small:1")
    return "small:1"
