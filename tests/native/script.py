"""Driving the core's tree functions: layerfs_native/fuzz/tree_script.c, built with sanitizers, one script a call."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.native.sanitized import NATIVE, SANITIZE

SOURCES = [NATIVE / "core" / f"{name}.c" for name in ("merge", "remap", "xxh64", "crc32c", "error")]
IDENTITY = "5a" * 32


class Compiler:
    """The tree part of the core, compiled once, linked to several programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        name = shutil.which("gcc") or shutil.which("cc")
        if name is None:
            pytest.skip("no C compiler")
        self._command = [name, "-std=gnu11", "-g", "-O1", f"-I{NATIVE / 'include'}"]
        (folder / "probe.c").write_text("int main(void) { return 0; }")
        if not subprocess.run([*self._command, *SANITIZE, "probe.c"], cwd=folder, capture_output=True).returncode:
            self._command += SANITIZE  # not every compiler has the sanitizers' libraries
        sources = [*SOURCES, *NATIVE.glob("core/tree*.c"), *NATIVE.glob("core/erofs_*.c")]
        subprocess.run([*self._command, "-c", *map(str, sources)], check=True, cwd=folder)
        self._objects = sorted(map(str, folder.glob("*.o")))

    def link(self, *programs: str) -> Path:
        out = self.folder / Path(programs[0]).stem
        sources = [str(NATIVE / "fuzz" / program) for program in programs]
        subprocess.run([*self._command, *sources, *self._objects, "-o", str(out)], check=True)
        return out


def escape(data: bytes) -> str:
    return "".join(chr(c) if 32 < c < 127 and c != 37 else f"%{c:02x}" for c in data)


class Failed(Exception):
    """A command was refused; `code` is its errno."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Trees:
    """A folder of tree files and the program that makes them."""

    program: Path
    folder: Path

    def run(self, *lines: str) -> list[str]:
        """Run a script; its output lines. Failed at the first command that is refused."""
        text = "\n".join(lines) + "\n"
        done = subprocess.run([self.program], input=text.encode(), capture_output=True, cwd=self.folder)
        assert not done.stderr, done.stderr.decode(errors="replace")
        out = done.stdout.decode(errors="replace").splitlines()
        if done.returncode:
            _, code, message = out[-1].split(" ", 2)
            raise Failed(int(code), message)
        return out

    def layer(self, name: str, *lines: str) -> bytes:
        """Write a layer tree; its bytes."""
        self.run(*lines, f"write {name} layer {IDENTITY}")
        return (self.folder / name).read_bytes()

    def merge(self, *names: str, out: str = "merged") -> dict[str, dict[str, str]]:
        """Merge trees of this folder; what comes out, checked."""
        self.run(" ".join(["merge", out, IDENTITY, *names]), f"verify {out}")
        return self.dump(out)

    def dump(self, name: str) -> dict[str, dict[str, str]]:
        """Path -> fields, the root being "."."""
        rows = (line.split(" ") for line in self.run(f"dump {name}"))
        return {path: dict(field.split("=", 1) for field in fields if "=" in field) for path, *fields in rows}
