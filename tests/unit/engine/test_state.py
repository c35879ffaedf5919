"""What a container does is told by processes, not by what was written last."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest

from layerfs._record import replace
from layerfs.engine.state import State, change_state
from layerfs.errors import ContainerNotFound


def test_a_container_that_never_ran_is_created():
    assert (State().status, State().code, State().pid) == ("created", 0, 0)


def test_a_living_process_makes_it_running():
    state = State().started(os.getpid(), 5)
    assert (state.status, state.pid, state.code) == ("running", os.getpid(), 0)
    assert State.of(state.row()) == state


def test_a_pid_that_is_another_process_now_does_not_count():
    (pid, start), *_ = State().started(os.getpid(), 5).processes
    assert State.of(State().started(pid, 5).row() | {"processes": [[pid, start + 1]]}).status == "exited"


def test_another_boot_ended_everything():
    state = State.of(State().started(os.getpid(), 5).row() | {"boot": "another"})
    assert (state.status, state.code) == ("exited", 137)


def test_it_runs_until_the_last_of_its_runs_has_ended():
    other = subprocess.Popen(["sleep", "60"])
    try:
        state = State().started(os.getpid(), 1).started(other.pid, 2)
        assert state.ended(os.getpid(), 3, 4).pid == other.pid
        assert state.ended(os.getpid(), 3, 4).ended(other.pid, 5, 6).code == 5
        state.ended(os.getpid(), 0, 4).kill()
    finally:
        other.kill()
        assert other.wait() == -9


def test_a_failed_start_leaves_it_created():
    state = State().failed(127, "not found")
    assert (state.status, state.code, state.error) == ("created", 127, "not found")


def test_a_file_that_a_power_cut_tore_counts_as_none(tmp_path):
    change_state(tmp_path, dict, lambda state: replace(state, started_ns=1, exit_code=3))
    assert State.read({}, tmp_path).code == 3
    (tmp_path / "state").write_bytes(bytes(90))
    assert State.read({}, tmp_path).status == "created"


def test_what_an_older_layerfs_left_in_the_row_counts_until_the_next_change(tmp_path):
    row = {"started_ns": 1, "exit_code": 3}
    assert State.read(row, tmp_path).code == 3
    change_state(tmp_path, lambda: row, lambda state: replace(state, exit_code=state.exit_code + 1))
    assert State.read(row, tmp_path).code == 4


def test_changes_at_once_are_all_kept(tmp_path):
    def count() -> None:
        for _ in range(20):
            change_state(tmp_path, dict, lambda state: replace(state, finished_ns=state.finished_ns + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert State.read({}, tmp_path).finished_ns == 80


def test_a_container_that_was_removed_has_no_state_to_change(tmp_path):
    with pytest.raises(ContainerNotFound):
        change_state(tmp_path / "gone", dict, lambda state: state)
