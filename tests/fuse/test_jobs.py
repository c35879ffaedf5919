"""Engine `native`: whole programs at work in a mount leave what they leave in a plain directory.

LAYERFS_STEPS: rounds of the jobs that have rounds.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from test_native import Box
from trees import Entry, Shelf, directory, file, symlink

from tests.conftest import PROJECT

pytestmark = [pytest.mark.root, pytest.mark.timeout(36_000)]

STEPS = int(os.environ.get("LAYERFS_STEPS", "1"))
DATES = {"GIT_AUTHOR_DATE": "2024-01-01T00:00:00Z", "GIT_COMMITTER_DATE": "2024-01-01T00:00:00Z"}
NAMES = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null", "EMAIL": "nobody@example.org"}


def need(program: str, package: str) -> str:
    """The program's path; its Debian package is installed when it is missing."""
    if not shutil.which(program):
        subprocess.run(["sh", "tools/system.sh", package], cwd=PROJECT, check=False)
    found = shutil.which(program)
    if not found:
        pytest.skip(f"{program} is missing: apt-get install {package}")
    return found


def run(place: Path, script: str, **variables: str) -> str:
    done = subprocess.run(
        ["sh", "-euc", script], cwd=place, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def entries_of(top: Path) -> Iterator[Entry]:
    """A directory as a layer."""
    for path in sorted(top.rglob("*")):
        name, status = str(path.relative_to(top)), path.lstat()
        if path.is_symlink():
            yield symlink(name, os.readlink(path))
        elif path.is_dir():
            yield directory(name, mode=stat.S_IMODE(status.st_mode))
        else:
            yield file(name, path.read_bytes(), mode=stat.S_IMODE(status.st_mode))


def listing(top: Path, *hidden: str) -> dict[str, Any]:
    """Names, kinds, modes and bytes; where the tree is does not count."""
    found: dict[str, Any] = {}
    for path in sorted(top.rglob("*")):
        name, mode = str(path.relative_to(top)), path.lstat().st_mode
        if any(path.match(pattern) for pattern in hidden):
            continue
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = mode, path.read_bytes().replace(os.fsencode(top), b"TOP") if path.is_file() else b""
    return found


def compare(mounted: dict[str, Any], plain: dict[str, Any]) -> None:
    assert {name for name in mounted.keys() | plain.keys() if mounted.get(name) != plain.get(name)} == set()
    assert mounted


@pytest.fixture
def both(shelf: Shelf, tmp_path: Path, make: Callable[..., Box]) -> Callable[..., tuple[Box, Path]]:
    """A prepared directory, mounted as the lower tree of a box, and a plain copy of it."""

    def give(prepare: Callable[[Path], object]) -> tuple[Box, Path]:
        plain = tmp_path / "plain"
        plain.mkdir()
        prepare(plain)
        box = make()
        box.tree = shelf.tree(list(entries_of(plain)))
        box.mount()
        return box, plain

    return give


def test_git(both: Callable[..., tuple[Box, Path]]) -> None:
    """Branches, merges, packs and checks in a repository that lower layers hold."""
    prepare = """
        git init -q -b main repo && cd repo
        for n in $(seq 60); do mkdir -p d$((n % 7)); seq $n $((n * 30)) >d$((n % 7))/f$n; git add .; done
        git commit -q -m first; git tag -a -m tag one
    """
    work = """
        git clone -q repo clone && cd clone
        for n in 1 2 3; do
            git checkout -q -b side$n origin/main; git mv d$n e$n; seq 5 >e$n/new; git add .; git commit -q -m side$n
        done
        git checkout -q main; git merge -q -m merged side1 side2 side3
        git rm -q -r d5; git commit -q -m removed
        git gc -q --aggressive --prune=now; git fsck --full --strict
        git checkout -q one && git checkout -q main && git status --porcelain && git push -q origin HEAD:pushed
        cd ../repo && git gc -q --prune=now && git fsck --full --strict && git checkout -q pushed && git rev-parse HEAD
    """
    box, plain = both(lambda place: run(place, prepare, **DATES, **NAMES))
    heads = [run(place, work, **DATES, **NAMES) for place in (box.root, plain)]
    assert heads[0] == heads[1]
    box.remount()
    times = ("index", "logs/*", "*.idx", "*.pack", "*.rev", "packs", "*.bitmap", "*.commitgraph")
    compare(listing(box.root, *times), listing(plain, *times))


def test_gcc_builds_a_program_from_lower_sources(both: Callable[..., tuple[Box, Path]]) -> None:
    def sources(place: Path) -> None:
        for folder in ("core", "fuse", "include"):
            shutil.copytree(PROJECT / "layerfs_native" / folder, place / "src" / folder)

    build = """
        mkdir out
        ls src/core/erofs_*.c src/core/error.c src/fuse/*.c | xargs -P 2 -n 4 sh -c \
            'for f; do gcc -std=gnu11 -O0 -Isrc/include -c $f -o out/$(basename $f).o; done' sh
        gcc -pthread -o out/program $(ls out/*.o | LC_ALL=C sort) && ar rcs out/lib.a out/*.o && strip out/program
        ./out/program </dev/null && exit 1
        touch src/fuse/main.c && rm -r src/core && mv src moved
    """
    box, plain = both(sources)
    for place in (box.root, plain):
        run(place, build, SOURCE_DATE_EPOCH="0")
    box.remount()
    compare(listing(box.root, "lib.a"), listing(plain, "lib.a"))


def test_pip_installs_itself_into_a_new_environment(both: Callable[..., tuple[Box, Path]]) -> None:
    prepare = f"{sys.executable} -m venv --copies --without-pip env"
    work = """
        ./env/bin/python -m ensurepip -q && ./env/bin/python -m pip -q --version
        cp -r env/lib other && ./env/bin/python -m pip uninstall -q -y setuptools 2>/dev/null || true
    """
    box, plain = both(lambda place: run(place, prepare))
    for place in (box.root, plain):
        run(place, work, PYTHONDONTWRITEBYTECODE="1", PIP_NO_COMPILE="1")
    box.remount()
    hidden = ("__pycache__", "*.pyc", "RECORD", "pyvenv.cfg", "activate*")  # times, and where it was made
    compare(listing(box.root, *hidden), listing(plain, *hidden))


def test_npm_installs_packages(both: Callable[..., tuple[Box, Path]]) -> None:
    """From archives beside it: no registry is asked."""
    need("npm", "npm")
    prepare = """
        for n in $(seq 8); do
            mkdir -p p$n/lib; seq 2000 >p$n/lib/data; echo "module.exports = $n" >p$n/index.js
            printf '{"name": "p%s", "version": "1.0.%s", "bin": "index.js"}' $n $n >p$n/package.json
            tar -czf p$n.tgz --transform s,^p$n,package, p$n
        done
        mkdir app; echo '{"name": "app", "version": "1.0.0"}' >app/package.json
    """
    work = """
        cd app; npm install --offline --no-audit --no-fund --silent ../p*.tgz
        node -e 'for (let n = 1; n <= 8; n++) if (require("p" + n) != n) process.exit(1)'
        npm uninstall --offline --no-audit --no-fund --silent p3 p4
    """
    box, plain = both(lambda place: run(place, prepare))
    for place in (box.root, plain):
        run(place, work, npm_config_cache=str(place / ".cache"))
    box.remount()
    compare(listing(box.root / "app"), listing(plain / "app"))


# --- programs that verify by themselves ------------------------------------------------------------------------------

FIO = {
    "threads": "--ioengine=psync --rw=randrw --bs=4k --numjobs=2 --thread",
    "mapped": "--ioengine=mmap --rw=randrw --bs=4k",
    "direct": "--ioengine=libaio --direct=1 --iodepth=8 --rw=randrw --bs=8k",
    "ring": "--ioengine=io_uring --iodepth=8 --rw=randrw --bs=4k",
    "large": "--ioengine=psync --rw=rw --bs=256k --fsync=4",
}


@pytest.mark.parametrize("job", FIO)
def test_fio_verifies_what_it_wrote(make: Callable[..., Box], shelf: Shelf, job: str) -> None:
    """Over lower files: a big one that is passed through and one from a pack."""
    program = need("fio", "fio")
    box = make()
    size = 4 << 20
    box.tree = shelf.tree([file("lower.0.0", bytes(size)), file("lower.0.1", bytes(60_000))])
    box.mount()
    common = "--name=lower --nrfiles=4 --size=16m --verify=crc32c --verify_fatal=1 --verify_backlog=64 --loops"
    command = f"{program} {common}={STEPS} --directory={box.root} --output-format=terse {FIO[job]}"
    run(box.root, command)
    box.remount()
    run(box.root, f"{command} --verify_only" if job == "large" else "true")


@pytest.mark.parametrize(
    "flags", [(), ("strict",), ("no_passthrough", "no_cache")], ids=["default", "strict", "server"]
)
def test_sqlite_in_wal_mode_from_four_processes_some_of_them_killed(
    make: Callable[..., Box], shelf: Shelf, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    """fuse-overlayfs#475: a database of a lower layer came to harm."""
    source = tmp_path / "db"
    with closing(sqlite3.connect(source)) as database, database:
        database.execute("pragma journal_mode=wal")  # four processes that change it at once disturb each other
        database.execute("create table rows (id integer primary key, writer int, count int, text)")
        rows = ((n, -1, n, "x" * 200) for n in range(20_000))
        database.executemany("insert into rows values (?, ?, ?, ?)", rows)
    box = make(*flags)
    box.tree = shelf.tree([file("db", source.read_bytes())])
    root = box.mount()
    chance = random.Random(5)
    code = f"import sys; sys.path[:0] = {sys.path!r}; from test_jobs import *; database_client(*sys.argv[1:])"
    for _ in range(1 + STEPS):
        logs = [tmp_path / f"log{number}" for number in range(4)]
        for log in logs:
            log.unlink(missing_ok=True)
        clients = [
            subprocess.Popen([sys.executable, "-c", code, str(root / "db"), str(number), str(log)])
            for number, log in enumerate(logs)
        ]
        while not all(log.exists() and log.stat().st_size for log in logs):  # each has committed something
            assert [process.poll() for process in clients] == [None] * 4
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        for number, process in enumerate(clients):
            process.send_signal(signal.SIGKILL if number % 2 else signal.SIGTERM)
        Path("/proc/sys/vm/drop_caches").write_text("3")
        assert [process.wait() for process in clients] == [0, -signal.SIGKILL] * 2
        check_database(root / "db", logs)
        root = box.remount()
        check_database(root / "db", logs)
        with closing(sqlite3.connect(root / "db")) as database, database:
            database.execute("delete from rows where writer >= 0")


def database_client(path: str, writer: str, log: str) -> None:
    """Transactions until SIGTERM; notes outside which ones are committed."""
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ending.append(number))
    with closing(sqlite3.connect(path, timeout=60)) as database, open(log, "w") as notes:
        database.execute("pragma synchronous=normal")
        count = 0
        while not ending:
            count += 1
            with database:
                database.execute("begin immediate")
                database.execute("insert into rows (writer, count, text) values (?, ?, ?)", (writer, count, "y" * 300))
                spot = (writer, random.randrange(20_000))
                database.execute("update rows set text = text || ? where id = ?", spot)
            notes.write(f"{count}\n")
            notes.flush()


def check_database(path: Path, logs: list[Path]) -> None:
    with closing(sqlite3.connect(path, timeout=60)) as database:
        assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert database.execute("select count(*) from rows where writer = -1").fetchone() == (20_000,)
        for writer, log in enumerate(logs):
            noted = int((log.read_text().splitlines() or ["0"])[-1])
            [(last,)] = database.execute("select max(count) from rows where writer = ?", (writer,)).fetchall()
            assert (last or 0) >= noted
