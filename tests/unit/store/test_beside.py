"""What goes on beside ends before a store is closed, and before the interpreter does."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from layerfs.store import beside
from layerfs.store.beside import Beside
from layerfs.store.root import StoreRoot


def test_closing_waits_for_it(tmp_path: Path) -> None:
    done = list[int]()
    with StoreRoot.open(tmp_path / "s") as root:
        for number in range(3):
            root.beside(lambda number=number: (time.sleep(0.05), done.append(number)))
    assert sorted(done) == [0, 1, 2]


def test_the_end_of_the_interpreter_waits_for_it() -> None:
    text = "import time\nfrom layerfs.store.beside import Beside\nBeside(lambda: (time.sleep(0.1), print('done')))"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, check=True).stdout == b"done\n"


def test_a_forked_child_has_nothing_to_wait_for() -> None:
    go_on = threading.Event()
    going = Beside(go_on.wait)
    if not (pid := os.fork()):
        going.wait()
        os._exit(0 if not going.going else 1)
    assert os.waitpid(pid, 0)[1] == 0 and going.going
    go_on.set()
    going.wait()
    assert not going.going


def test_it_is_done_at_once_where_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(beside._thread, "start_new_thread", refuse)
    done = list[int]()
    assert not Beside(lambda: done.append(1)).going and done == [1]
