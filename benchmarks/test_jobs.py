"""Whole jobs, done in the mount by programs of the image (chroot) or of the host."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.inputs import small_files, work_layer, write_layer
from benchmarks.systems import Place

GROUP = "Whole jobs in a container of a Debian image"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C"}
TREES = 5


@pytest.fixture(scope="module")
def places(
    stacks: Any, real: Any, scale: Any, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Place]]:
    archive = real("image")

    def layers() -> list[Path]:
        work = work_layer(tmp_path_factory.mktemp("jobs") / "work", scale(5000))
        trees = [small_files(f"tree{turn}", scale(10000), largest=64) for turn in range(TREES)]
        moved = write_layer(work.with_name("trees.tar"), itertools.chain(*trees))
        return [archive.parent / "debian.tar", archive.parent / "upper-0.tar", work, moved]

    with stacks("jobs", layers).open() as places:
        yield places


def inside(place: Place, script: str) -> None:
    """A shell script of the image, in its mount."""
    done = subprocess.run(
        ["chroot", place.root, "sh", "-ec", script], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]


def numbered(script: str) -> Callable[[Place], None]:
    """The script with {n}, another number at each call of a place."""
    turns: dict[str, int] = {}

    def run(place: Place) -> None:
        turns[place.name] = turns.get(place.name, -1) + 1
        inside(place, script.replace("{n}", str(turns[place.name])))

    return run


def settle(place: Place) -> None:
    os.sync()


def test_gcc(versus: Any, places: Any) -> None:
    job = numbered("make -s -j2 -C /work OUT=out{n}")
    versus("gcc build, make -j2", job, places, overlay=1.25, rounds=3, prepare=settle, warm=True)


def test_pip(versus: Any, places: Any) -> None:
    job = numbered("python3 -m pip -q install --no-index --no-deps --target /opt/pip{n} /packages/wheels/*.whl")
    versus("pip install of four wheels", job, places, overlay=1.25, rounds=3, prepare=settle, warm=True)


def test_npm(versus: Any, places: Any) -> None:
    turns: dict[str, int] = {}

    def job(place: Place) -> None:
        turns[place.name] = turns.get(place.name, -1) + 1
        target = place.root / f"opt/npm{turns[place.name]}"
        package = next((place.root / "packages/npm").iterdir())
        command = ["npm", "install", "--silent", "--offline", "--no-audit", "--no-fund", "--prefix", target, package]
        subprocess.run([*command, f"--cache={target}/cache"], check=True, stdout=subprocess.DEVNULL)

    versus("npm install of date-fns", job, places, overlay=1.25, rounds=3, prepare=settle)


def test_dpkg(versus: Any, places: Any) -> None:
    def job(place: Place) -> None:
        inside(place, "dpkg --force-unsafe-io --root=/ --unpack /packages/deb/*.deb")

    versus("dpkg --unpack over an installed package", job, places, overlay=1.25, rounds=3, prepare=settle)


def test_git(versus: Any, places: Any) -> None:
    def job(place: Place) -> None:
        inside(place, "git -c safe.directory=/repository -C /repository status --porcelain")

    versus("git status, 5k files", job, places, overlay=1.25, rounds=9, warm=True)


def test_python(versus: Any, places: Any) -> None:
    modules = "argparse,asyncio,ctypes,decimal,email.mime.text,http.client,json,logging.config,sqlite3,unittest,xml.dom"
    job = numbered(f"python3 -B -c 'import {modules}'")
    versus("python start-up with imports", job, places, overlay=1.25, rounds=9, warm=True)


def test_move(versus: Any, places: Any) -> None:
    turns: dict[str, int] = {}

    def job(place: Place) -> None:
        turns[place.name] = turns.get(place.name, -1) + 1
        number = turns[place.name]
        subprocess.run(["mv", place.root / f"tree{number}", place.root / f"moved{number}"], check=True)

    versus("mv of a lower directory of 10k files", job, places, overlay=0.01, rounds=2, prepare=settle)


def test_remove(versus: Any, places: Any) -> None:
    turns: dict[str, int] = {}

    def job(place: Place) -> None:
        turns[place.name] = turns.get(place.name, 1) + 1
        inside(place, f"rm -rf /tree{turns[place.name]}")

    versus("rm -rf of a lower tree of 10k files", job, places, overlay=1.25, rounds=3, prepare=settle)
