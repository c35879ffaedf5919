from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from layerfs.errors import StoreError
from layerfs.store import StoreRoot, leases
from layerfs.store.leases import LeaseRecord, pid_namespace, process_start


def names(root: StoreRoot) -> list[str]:
    return sorted(path.name for path in (root.path / "tmp").iterdir())


def test_a_lease_has_a_directory_and_a_row_while_it_is_held(root: StoreRoot) -> None:
    with root.leases.acquire("import") as lease:
        assert lease.tmp.is_dir()
        assert [record.purpose for record in root.leases.living()] == ["import"]
        assert root.leases.clean_dead() == 0
    assert names(root) == []
    assert root.leases.records() == []


def test_pins_are_whole_keys_of_a_held_lease(root: StoreRoot) -> None:
    lease = root.leases.acquire("x")
    with pytest.raises(StoreError):
        lease.pin(b"short")
    lease.pin(b"a" * 64)
    assert root.leases.pins() == {b"a" * 32}
    lease.release()
    lease.release()
    with pytest.raises(StoreError):
        lease.pin(b"a" * 32)


def test_the_lease_of_a_killed_process_is_cleaned_at_the_next_open(root: StoreRoot) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from layerfs.store import StoreRoot\n"
        "lease = StoreRoot.open(Path(sys.argv[1])).leases.acquire('x'); lease.pin(b'a' * 32)\n"
        "(lease.tmp / 'half').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(root.path)]).returncode == -9
    assert len(names(root)) == 1
    assert root.leases.pins() == set()
    StoreRoot.open(root.path).close()
    assert names(root) == []
    assert root.leases.records() == []


@pytest.mark.parametrize("field", [{"boot": "other"}, {"pid_start": 1}, {"pid": 2**22 + 1}])
def test_a_lease_of_another_boot_or_process_is_dead(root: StoreRoot, field: dict[str, object]) -> None:
    with root.leases.acquire("x") as lease:
        row = lease.record.row() | field
        assert not root.leases.alive(LeaseRecord.from_row(lease.id, row))


def test_in_another_pid_namespace_the_lock_decides(root: StoreRoot) -> None:
    with root.leases.acquire("x") as lease:
        record = LeaseRecord.from_row(lease.id, lease.record.row() | {"pid_ns": 1, "pid": 2**22 + 1})
        assert root.leases.alive(record)
        (lease.tmp / "pins").rename(lease.tmp / "gone")
        assert not root.leases.alive(record)


def test_a_forked_child_does_not_end_or_keep_its_parents_lease(root: StoreRoot) -> None:
    with root.leases.acquire("x") as lease:
        pid = os.fork()
        if pid == 0:
            lease.release()
            os._exit(0)
        os.waitpid(pid, 0)
        assert lease.tmp.is_dir()
        lease.pin(b"a" * 32)


def test_a_forked_child_finds_out_anew_who_it_is() -> None:
    """In a new PID namespace it may have its parent's number."""
    LeaseRecord.of_this_process("x")
    child = os.fork()
    if not child:
        known = leases._own_start.cache_info().currsize + leases._pid_namespace.cache_info().currsize
        os._exit(known or LeaseRecord.of_this_process("x").pid_start != process_start(os.getpid()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_strangers_in_tmp_go_and_newborn_ones_when_they_are_old(root: StoreRoot) -> None:
    (root.path / "tmp/file").write_text("")
    (root.path / "tmp/.new-file").write_text("")
    (root.path / f"tmp/.new-{2**22 + 1}.1.{pid_namespace()}.x").write_text("")
    (root.path / "tmp/.new-dir").mkdir()
    assert root.leases.clean_dead() == 2
    for path in (root.path / "tmp").iterdir():
        os.utime(path, (time.time() - 1000,) * 2)
    assert root.leases.clean_dead() == 2
    assert names(root) == []


def test_process_start_tells_the_dead_from_the_living() -> None:
    child = subprocess.Popen(["sleep", "60"])
    start = process_start(child.pid)
    assert start is not None
    assert start >= (process_start(os.getpid()) or 0)
    child.kill()
    child.wait()
    assert process_start(child.pid) is None
