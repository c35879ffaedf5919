from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from layerfs.errors import Corrupt, InvalidInput, StoreError
from layerfs.store import StoreRoot
from layerfs.store.index import Draft


def in_child(body: Callable[[], bool]) -> bool:
    """Runs `body` in a forked child; whether it returned true."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if body() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def put(root: StoreRoot, key: bytes, value: bytes) -> bool:
    with root.index.update() as txn:
        return txn.put("meta", key, value)


def get(root: StoreRoot, key: bytes) -> bytes | None:
    with root.index.view() as txn:
        return txn.get("meta", key)


def test_an_update_is_seen_by_later_views_only(root: StoreRoot) -> None:
    with root.index.view() as before:
        put(root, b"a", b"1")
        assert before.get("meta", b"a") is None
    assert get(root, b"a") == b"1"


def test_an_update_that_need_not_be_durable_is_seen_by_other_processes_and_kept(root: StoreRoot, tmp_path) -> None:
    with root.index.update(durable=False) as txn:
        txn.put("meta", b"a", b"1")
    assert in_child(lambda: get(root, b"a") == b"1")
    with pytest.raises(ZeroDivisionError), root.index.update(durable=False) as txn:
        txn.put("meta", b"a", b"2")
        _ = 1 / 0
    root.close()
    with StoreRoot.open(root.path) as again:
        assert get(again, b"a") == b"1"


def test_an_exception_aborts_the_update(root: StoreRoot) -> None:
    with pytest.raises(ValueError, match="boom"), root.index.update() as txn:
        txn.put("meta", b"a", b"1")
        raise ValueError("boom")
    assert get(root, b"a") is None


def test_put_without_overwrite_keeps_the_row(root: StoreRoot) -> None:
    put(root, b"a", b"1")
    with root.index.update() as txn:
        assert not txn.put("meta", b"a", b"2", overwrite=False)
    assert get(root, b"a") == b"1"


def test_delete_says_whether_there_was_a_row(root: StoreRoot) -> None:
    put(root, b"a", b"1")
    with root.index.update() as txn:
        assert txn.delete("meta", b"a")
        assert not txn.delete("meta", b"a")


def test_scan_gives_the_prefix_in_order(root: StoreRoot) -> None:
    for key in (b"b2", b"a1", b"b1", b"c1"):
        put(root, key, key)
    with root.index.view() as txn:
        assert [key for key, _ in txn.scan("meta", b"b")] == [b"b1", b"b2"]
        assert txn.keys("meta") == [b"a1", b"b1", b"b2", b"c1"]
        assert list(txn.scan("meta", b"x")) == []


def test_json_has_one_encoding(root: StoreRoot) -> None:
    with root.index.update() as txn:
        txn.put_json("meta", b"j", {"b": [1], "a": "é"})
        assert txn.get("meta", b"j") == b'{"a":"\\u00e9","b":[1]}'
        assert txn.get_json("meta", b"j") == {"b": [1], "a": "é"}
        assert txn.get_json("meta", b"none") is None


def test_a_row_that_is_no_json_is_corrupt(root: StoreRoot) -> None:
    put(root, b"j", b"{")
    with root.index.view() as txn, pytest.raises(Corrupt):
        txn.get_json("meta", b"j")


def test_an_update_inside_an_update_is_refused_not_a_deadlock(root: StoreRoot) -> None:
    with root.index.update(), pytest.raises(StoreError, match="inside update"):
        root.index.update().__enter__()
    assert put(root, b"a", b"1")


def test_a_name_that_lmdb_cannot_hold_is_invalid_input(root: StoreRoot) -> None:
    with pytest.raises(InvalidInput):
        put(root, b"x" * 511, b"")
    with pytest.raises(InvalidInput):
        put(root, b"", b"")


def test_the_same_store_opened_twice_in_one_process_shares_one_environment(root: StoreRoot, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root.path)
    with StoreRoot.open(tmp_path / "link") as second:
        put(second, b"a", b"1")
    assert get(root, b"a") == b"1"


def test_a_closed_store_says_so(root: StoreRoot) -> None:
    root.close()
    with pytest.raises(StoreError, match="closed"):
        root.index.view()


def test_a_forked_child_reads_and_writes_and_so_does_the_parent(root: StoreRoot) -> None:
    put(root, b"a", b"1")
    assert in_child(lambda: get(root, b"a") == b"1" and put(root, b"b", b"2"))
    assert get(root, b"b") == b"2"


def test_fork_beside_a_busy_thread_leaves_both_sides_whole(root: StoreRoot) -> None:
    stop = threading.Event()
    faults: list[BaseException] = []

    def work() -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                put(root, b"n", b"%d" % number)
                assert get(root, b"n") == b"%d" % number
        except BaseException as fault:
            faults.append(fault)

    thread = threading.Thread(target=work)
    thread.start()
    results = [in_child(lambda: put(root, b"child", b"x") and get(root, b"child") == b"x") for _ in range(10)]
    stop.set()
    thread.join()
    assert results == [True] * 10
    assert faults == []


def test_fork_inside_a_view_keeps_the_parents_snapshot_and_bars_the_child(root: StoreRoot) -> None:
    put(root, b"a", b"1")

    def child() -> bool:
        try:
            get(root, b"a")
        except StoreError:
            return True
        return False

    with root.index.view() as view:
        assert in_child(child)
        for number in range(50):
            put(root, b"a", b"%d" % number)
        assert view.get("meta", b"a") == b"1"


def test_threads_queue_for_the_writer(root: StoreRoot) -> None:
    def work() -> None:
        for _ in range(20):
            with root.index.update() as txn:
                txn.put("meta", b"n", b"%d" % (int(txn.get("meta", b"n") or b"0") + 1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert get(root, b"n") == b"80"


OTHER = """
import sys
from pathlib import Path
from layerfs.store import StoreRoot
from layerfs.store.index import Draft
with StoreRoot.open(Path(sys.argv[1])) as root:
    for n in range(50):
        with root.index.update() as txn:
            txn.put("meta", b"n", b"%d" % (int(txn.get("meta", b"n") or b"0") + 1))
"""


def test_processes_queue_for_the_writer(root: StoreRoot) -> None:
    children = [subprocess.Popen([sys.executable, "-c", OTHER, str(root.path)]) for _ in range(3)]
    assert [child.wait() for child in children] == [0, 0, 0]
    assert get(root, b"n") == b"150"


SMALL = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
""" + OTHER.partition("import sys")[2].replace("from pathlib import Path", "")


def test_a_limited_address_space_gets_a_smaller_map(root: StoreRoot) -> None:
    assert resource.RLIMIT_AS
    subprocess.run([sys.executable, "-c", SMALL, str(root.path)], check=True)
    assert get(root, b"n") == b"50"


def test_the_slot_of_a_killed_reader_is_freed_at_open(root: StoreRoot) -> None:
    script = OTHER.partition("with Store")[0] + (
        "root = StoreRoot.open(Path(sys.argv[1])); view = root.index.view(); view.__enter__()\n"
        "print('ready', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(root.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.kill()
    assert root.index.check_readers() == 1


def drafted(root: StoreRoot) -> Draft:
    """A change that reads `a` and `b`, and writes `b`, `c` and, where it is not there, `d`."""
    with root.index.view() as view:
        draft = Draft(view)
        draft.put("meta", b"b", (draft.get("meta", b"a") or b"") + (draft.get("meta", b"b") or b"") + b"x")
        draft.put("meta", b"c", b"new")
        draft.put("meta", b"c", (draft.get("meta", b"c") or b"") + b"er")
        draft.put("meta", b"d", b"mine", overwrite=False)
    return draft


def test_a_draft_is_seen_when_it_is_applied(root: StoreRoot) -> None:
    put(root, b"a", b"1")
    put(root, b"d", b"theirs")
    draft = drafted(root)
    assert get(root, b"c") is None
    put(root, b"e", b"of no interest")
    with root.index.update() as txn:
        assert draft.apply(txn)
    assert [get(root, key) for key in (b"a", b"b", b"c", b"d")] == [b"1", b"1x", b"newer", b"theirs"]


@pytest.mark.parametrize("changed", [b"a", b"b", b"c", b"d"])
def test_a_draft_of_what_has_changed_changes_nothing(root: StoreRoot, changed: bytes) -> None:
    """What was read, and what was only written."""
    draft = drafted(root)
    put(root, changed, b"other")
    with root.index.update() as txn:
        assert not draft.apply(txn)
    assert [get(root, key) for key in (b"b", b"c", b"d") if key != changed].count(None) >= 2
