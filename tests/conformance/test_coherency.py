"""Reference 3.6: descriptors, mappings and locks over copy-up."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from trees import directory, file, hardlink
from worlds import World

pytestmark = pytest.mark.root

SIZE = 300_000
BASE = [
    file("small", b"lower bytes"),
    file("big", b"L" * SIZE),
    file("linked", b"l" * 9000),
    hardlink("linked2", "linked"),
    directory("d"),
]
base = pytest.mark.layers(BASE)
both = pytest.mark.parametrize("name", ["small", "big"])


@base
@both
def test_report_2_a_reader_from_before_copy_up_sees_later_writes(world: World, name: str) -> None:
    """moby#31587."""
    path = world.root / name
    with path.open("rb", buffering=0) as reader:
        assert reader.read(5) == path.read_bytes()[:5]
        with path.open("r+b", buffering=0) as writer:
            writer.write(b"NEW")
            assert os.pread(reader.fileno(), 3, 0) == b"NEW"
            writer.seek(0, os.SEEK_END)
            end = writer.tell()
            writer.write(b"appended")
            assert os.pread(reader.fileno(), 20, end) == b"appended"
            assert os.fstat(reader.fileno()).st_ino == os.fstat(writer.fileno()).st_ino
            assert os.fstat(reader.fileno()).st_size == end + 8


@base
@both
@pytest.mark.diverges("overlayfs", "kernel", reason="overlayfs: a mapping from before copy-up stays on the lower file")
def test_report_2_a_mapping_from_before_copy_up_sees_later_writes(world: World, name: str) -> None:
    path = world.root / name
    with path.open("rb") as reader, mmap.mmap(reader.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
        assert mapping[:1] != b"N"
        with path.open("r+b", buffering=0) as writer:
            writer.write(b"NEW")
        assert mapping[:3] == b"NEW"


@base
def test_a_reader_from_before_truncation_sees_it(world: World) -> None:
    with (world.root / "big").open("rb", buffering=0) as reader:
        reader.read(10)
        os.truncate(world.root / "big", 4)
        assert os.fstat(reader.fileno()).st_size == 4
        assert os.pread(reader.fileno(), 10, 0) == b"LLLL"


@base
def test_a_reader_from_before_a_metadata_copy_reads_on(world: World) -> None:
    with (world.root / "big").open("rb", buffering=0) as reader:
        (world.root / "big").chmod(0o600)
        assert os.pread(reader.fileno(), 3, SIZE - 3) == b"LLL"
        with (world.root / "big").open("ab") as writer:
            writer.write(b"+")
        assert os.pread(reader.fileno(), 9, SIZE) == b"+"


@base
def test_a_shared_mapping_writes_through(world: World) -> None:
    with (world.root / "big").open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapping:
        mapping[4094:4098] = b"MMAP"
        mapping.flush()
        assert (world.root / "big").read_bytes()[4094:4098] == b"MMAP"


@base
@pytest.mark.diverges("overlayfs", reason="index off: links break")
def test_a_reader_through_another_name_sees_writes(world: World) -> None:
    with (world.root / "linked2").open("rb", buffering=0) as reader:
        assert reader.read(3) == b"lll"
        with (world.root / "linked").open("r+b", buffering=0) as writer:
            writer.write(b"NEW")
            assert os.pread(reader.fileno(), 3, 0) == b"NEW"


@base
def test_locks_hold_over_copy_up(world: World) -> None:
    with (world.root / "small").open("rb") as reader, (world.root / "small").open("r+b") as writer:
        fcntl.flock(reader, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)


@base
@pytest.mark.parametrize("lower", [True, False])
def test_writing_to_a_running_program_is_etxtbsy(world: World, lower: bool, shelf: object) -> None:
    path = world.root / "program"
    shutil.copy("/bin/sleep", path)
    if lower:
        world.remount()
    with subprocess.Popen([path, "30"]) as process:
        try:
            with pytest.raises(OSError) as caught:
                path.open("r+b")
            assert caught.value.errno == errno.ETXTBSY
        finally:
            process.kill()


@base
def test_programs_run_from_the_mount(world: World) -> None:
    shutil.copy("/bin/true", world.root / "d/true")
    assert subprocess.run([world.root / "d/true"], check=False).returncode == 0


@base
def test_direct_io_and_fsync_work(world: World) -> None:
    fd = os.open(world.root / "big", os.O_RDWR)
    try:
        os.pwrite(fd, b"x" * 4096, 4096)
        os.fsync(fd)
        os.fdatasync(fd)
    finally:
        os.close(fd)
    folder = os.open(world.root / "d", os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


@base
def test_copy_file_range_and_sendfile_work(world: World) -> None:
    with (world.root / "big").open("rb") as source, (world.root / "copy").open("w+b") as target:
        left = SIZE
        while left:
            left -= os.copy_file_range(source.fileno(), target.fileno(), left)
    assert (world.root / "copy").read_bytes() == b"L" * SIZE


@base
def test_appends_of_two_writers_do_not_overwrite(world: World) -> None:
    fds = [os.open(world.root / "small", os.O_WRONLY | os.O_APPEND) for _ in range(2)]
    for turn in range(10):
        os.write(fds[turn % 2], b"%d" % turn)
    for fd in fds:
        os.close(fd)
    assert (world.root / "small").read_bytes() == b"lower bytes0123456789"


def _database() -> bytes:
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"layerfs-test-{os.getpid()}.db"
    try:
        with sqlite3.connect(path) as database:
            database.execute("create table t (id integer primary key, text)")
            database.executemany("insert into t (text) values (?)", [("x" * 100,) for _ in range(3000)])
        database.close()
        return path.read_bytes()
    finally:
        path.unlink()


SQLITE = [file("db", _database())]
WORKER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
for turn in range(25):
    database.execute("begin immediate")
    database.execute("update t set text = ? where id % 97 = ?", (sys.argv[2] * 50, turn))
    database.execute("insert into t (text) values (?)", (sys.argv[2],))
    database.execute("commit")
"""


@pytest.mark.layers(SQLITE)
@pytest.mark.no_remount
def test_report_9_a_lower_database_in_wal_mode_stays_whole(world: World) -> None:
    """fuse-overlayfs#475."""
    database = sqlite3.connect(world.root / "db")
    assert database.execute("pragma journal_mode=wal").fetchone() == ("wal",)
    database.close()
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, world.root / "db", str(n)]) for n in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    world.remount()
    database = sqlite3.connect(world.root / "db")
    assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    assert database.execute("select count(*) from t").fetchone() == (3075,)
    database.close()
