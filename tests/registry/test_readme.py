"""README.md: its Python works as it stands, and it names every verb."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from layerfs.cli.app import cli
from tests.registry.servers import Registry
from tests.runtime.conftest import BUSYBOX

README = (Path(__file__).parents[2] / "README.md").read_text()


def _rootfs(path: Path) -> None:
    with tarfile.open(path, "w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
        for name, target in (("bin/cat", "busybox"), ("bin/sh", "busybox")):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            tar.addfile(link)
        directory = tarfile.TarInfo("etc")
        directory.type, directory.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(directory)


@pytest.mark.root
def test_the_python_of_the_readme_runs(plain: Registry, tmp_path: Path) -> None:
    found = re.search(r"```python\n(.*?)```", README, re.S)
    assert found is not None
    code = found[1].replace("/var/lib/layerfs", str(tmp_path / "store")).replace("127.0.0.1:5000", plain.host)
    _rootfs(tmp_path / "rootfs.tar")
    (tmp_path / "context").mkdir()
    (tmp_path / "context/Dockerfile").write_text("FROM base:2\nRUN cat /etc/motd > /greeting\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["C /etc", "A /etc/motd", r"b'hello\n'"]


def test_the_readme_names_every_verb() -> None:
    words = set(re.findall(r"[a-z]+", README))
    assert set(cli.list_commands(None)) - {"help", "image", "container"} <= words  # type: ignore[arg-type]
