"""`layerfs pull`, and `create` and `run` of images that are not here, in docker's words."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerfs.cli.app import run
from tests.registry.hostile import Registry
from tests.unit.image.make import tar

BASE = tar({"etc": None, "etc/motd": b"hello\n"})
TOP = tar({"more": b"more\n"})
Shell = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as opened:
        opened.image("app:latest", [BASE, TOP])
        yield opened


@pytest.fixture
def shell(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("HOME", str(tmp_path))

    def call(*arguments: str) -> tuple[int, list[str], list[str]]:
        capfd.readouterr()
        code = run(["--store", str(tmp_path / "store"), *arguments])
        streams = capfd.readouterr()
        assert "Traceback" not in streams.err
        return code, streams.out.splitlines(), streams.err.splitlines()

    return call


def digest_of(registry: Registry, tag: str = "latest") -> str:
    return next(
        d for (_, d), value in registry.manifests.items() if ":" in d and value == registry.manifests["app", tag]
    )


def test_dockers_words(registry: Registry, shell: Shell) -> None:
    name = f"{registry.host}/app"
    code, out, _ = shell("pull", name)
    layers = [d.removeprefix("sha256:")[:12] for d in registry.blobs if d not in registry.configs]
    assert code == 0
    assert out[:2] == ["Using default tag: latest", "latest: Pulling from app"]
    for words in ("Pulling fs layer", "Download complete", "Pull complete"):
        assert {line for line in out if words in line} == {f"{layer}: {words}" for layer in layers}
    assert out[-3:] == [
        f"Digest: {digest_of(registry)}",
        f"Status: Downloaded newer image for {name}:latest",
        f"{name}:latest",
    ]
    code, out, _ = shell("pull", f"{name}:latest")
    assert out == [
        "latest: Pulling from app",
        f"Digest: {digest_of(registry)}",
        f"Status: Image is up to date for {name}:latest",
        f"{name}:latest",
    ]


def test_layers_that_are_here(registry: Registry, shell: Shell) -> None:
    registry.image("app:2", [BASE, TOP], author="somebody")
    shell("pull", "-q", f"{registry.host}/app")
    _, out, _ = shell("pull", f"{registry.host}/app:2")
    assert sum(line.endswith(": Already exists") for line in out) == 2


def test_quiet(registry: Registry, shell: Shell) -> None:
    assert shell("pull", "-q", f"{registry.host}/app") == (0, [f"{registry.host}/app:latest"], [])


def test_all_tags(registry: Registry, shell: Shell) -> None:
    registry.image("app:2", [TOP])
    code, out, _ = shell("pull", "-a", f"{registry.host}/app")
    assert code == 0
    assert [line for line in out if "Pulling from" in line] == ["2: Pulling from app", "latest: Pulling from app"]
    assert out[-2:] == [f"Status: Downloaded newer image for {registry.host}/app", f"{registry.host}/app"]
    code, _, err = shell("pull", "-a", f"{registry.host}/app:2")
    assert (code, err) == (1, ["layerfs: tag can't be used with --all-tags/-a"])


@pytest.mark.parametrize(("width", "told"), [("120", b" MB"), ("45", b"%")])
def test_bars_on_a_terminal(registry: Registry, tmp_path: Path, width: str, told: bytes) -> None:
    registry.image("app:large", [tar({"f": random.Random(3).randbytes(2_000_000)})])
    registry.tricks.append(lambda ask: bool(ask.is_layer and ask.registry.closing.wait(0.3)))
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(HOME=str(tmp_path), TERM="xterm", COLUMNS=width)
        program = str(Path(sys.executable).parent / "layerfs")
        os.execv(program, [program, "--store", str(tmp_path / "store"), "pull", f"{registry.host}/app:large"])
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as stream, contextlib.suppress(OSError):  # EIO is its end
        while data := stream.read(65536):
            shown += data
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    layer = next(d for d in registry.fetched() if d not in registry.configs).removeprefix("sha256:")[:12].encode()
    assert layer + b": Downloading" in shown
    assert told in shown
    assert "…".encode() not in shown
    assert layer + b": Pull complete" in shown
    assert shown.endswith(f"{registry.host}/app:large\r\n".encode())


def test_what_is_not_there(registry: Registry, shell: Shell) -> None:
    code, out, err = shell("pull", f"{registry.host}/app:none")
    assert code == 1
    assert out == []
    assert len(err) == 1
    assert "not found" in err[0]
    assert "manifest unknown" in err[0]


def test_nobody_listens(shell: Shell) -> None:
    code, _, err = shell("pull", "127.0.0.1:1/app")
    assert code == 1
    assert len(err) == 1
    assert "connection refused" in err[0]


def test_create_pulls_what_is_missing(registry: Registry, shell: Shell) -> None:
    name = f"{registry.host}/app:latest"
    code, out, err = shell("create", "--name", "one", name, "true")
    assert code == 0
    assert len(out) == 1
    assert err[:2] == [f"layerfs: Unable to find image '{name}' locally", "latest: Pulling from app"]
    assert err[-1] == f"Status: Downloaded newer image for {name}"
    registry.forget()
    assert shell("create", name)[2] == []
    assert registry.log == []


def test_policies(registry: Registry, shell: Shell) -> None:
    name = f"{registry.host}/app:latest"
    code, _, err = shell("create", "--pull", "never", name)
    assert (code, err) == (125, [f"layerfs: No such image: {name}"])
    assert registry.log == []
    assert shell("create", "-q", name)[0] == 0
    old = shell("images", "-q", "--no-trunc")[1]
    registry.image("app:latest", [TOP])
    assert shell("create", "--quiet", name)[0] == 0
    assert shell("images", "-q", "--no-trunc")[1] == old
    assert shell("create", "--quiet", "--pull=always", name)[0] == 0
    assert shell("inspect", "--format", "{{.Id}}", name)[1] != old
    code, _, err = shell("create", "--pull", "sometimes", name)
    assert code == 125
    assert "invalid pull option" in err[0]


def test_a_pull_that_fails_ends_the_run(registry: Registry, shell: Shell) -> None:
    code, _, err = shell("run", f"{registry.host}/nothing", "true")
    assert code == 125
    assert len(err) == 1
    assert "Unable to find image" in err[0]
    assert "not found" in err[0]
