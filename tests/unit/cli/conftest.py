"""Whole command lines, run in this process on a store of the test's own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from layerfs.cli.app import run

ODD = b"\xff\xfe-odd"  # a name that is no UTF-8


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Shell = Callable[..., Done]


@pytest.fixture
def shell(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Shell:
    """shell("images", "-q"): exit code and both streams; stderr never has a traceback, and no more than two lines."""

    def call(*arguments: str, store: str = "store") -> Done:
        capfd.readouterr()
        code = run(["--store", str(tmp_path / store), *arguments])
        streams = capfd.readouterr()
        assert "Traceback" not in streams.err
        assert len(streams.err.splitlines()) <= max(2, len(arguments))
        return Done(code, streams.out, streams.err)

    return call


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    place = tmp_path / "rootfs"
    (place / "etc").mkdir(parents=True)
    (place / "etc/motd").write_text("Welcome\n")
    (place / "big").write_bytes(b"x" * 200_000)
    (place / "etc" / os.fsdecode(ODD)).write_text("odd\n")
    return place


@pytest.fixture
def small(shell: Shell, rootfs: Path) -> str:
    """The ID of `small:1`."""
    done = shell("import", "-m", "a test", "-c", 'CMD ["sh", "-c", "a b"]', "-c", "LABEL k=v", str(rootfs), "small:1")
    assert done.code == 0, done.err
    return done.out.strip()
