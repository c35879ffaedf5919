from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from layerfs.errors import StoreError, StoreVersionError
from layerfs.store import StoreRoot
from tests.looking import open_files


def test_open_makes_a_store_and_opens_it_again(tmp_path: Path) -> None:
    StoreRoot.open(tmp_path / "a/store").close()
    assert (tmp_path / "a/store/format").read_text() == "layerfs store 1\n"
    StoreRoot.open(tmp_path / "a/store", create=False).close()


def test_without_create_a_missing_store_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no layerfs store"):
        StoreRoot.open(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()


def test_a_newer_store_is_refused_naming_both_versions_and_the_path(root: StoreRoot) -> None:
    (root.path / "format").write_text("layerfs store 9\n")
    with pytest.raises(StoreVersionError, match=rf"{root.path}.* 9.* 2 "):
        StoreRoot.open(root.path)


def test_a_format_file_that_is_not_ours_is_refused(root: StoreRoot) -> None:
    (root.path / "format").write_text("something else\n")
    with pytest.raises(StoreError, match="not understood"):
        StoreRoot.open(root.path)


def test_a_directory_with_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match="refused"):
        StoreRoot.open(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]


def test_a_file_in_place_of_the_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        StoreRoot.open(tmp_path / "file")


def test_an_interrupted_creation_is_finished(tmp_path: Path) -> None:
    (tmp_path / ".format.abc").write_text("layer")
    StoreRoot.open(tmp_path).close()
    (tmp_path / "packs").rmdir()
    StoreRoot.open(tmp_path).close()
    assert (tmp_path / "packs").is_dir()


def test_a_store_that_nobody_closed_goes_with_its_last_object(tmp_path: Path) -> None:
    def files(store: str) -> int:
        return sum(str(tmp_path / store) in name for _, name in open_files())

    forgotten = StoreRoot.open(tmp_path / "a")
    view = forgotten.index.view()
    with view as txn:
        del forgotten
        gc.collect()
        StoreRoot.open(tmp_path / "b").close()
        assert txn.count("images") == 0
        assert files("a")
    del view, txn
    gc.collect()
    StoreRoot.open(tmp_path / "b").close()
    assert files("a") == files("b") == 0


def test_a_store_may_be_behind_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with StoreRoot.open(tmp_path / "link") as root:
        digest = root.blobs.put(b"x", media_type="text/plain")
    with StoreRoot.open(tmp_path / "real") as root:
        assert root.blobs.read(digest) == b"x"


def test_a_fresh_file_system_is_a_place_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    StoreRoot.open(tmp_path).close()


def test_many_openers_at_once_make_one_store(tmp_path: Path) -> None:
    faults: list[BaseException] = []

    def work() -> None:
        try:
            StoreRoot.open(tmp_path / "s").close()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_many_processes_at_once_make_one_store(tmp_path: Path) -> None:
    script = (
        f"from pathlib import Path; from layerfs.store import StoreRoot; StoreRoot.open(Path({str(tmp_path / 's')!r}))"
    )
    children = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4


def test_paths_are_made_only_from_digests(root: StoreRoot) -> None:
    assert root.tree_path("layer", "ab" * 32) == root.path / "trees/ab" / ("layer-" + "ab" * 32)
    assert root.split_path("ab" * 32) == root.path / "trees/ab" / ("split-" + "ab" * 32)
    with pytest.raises(StoreError):
        root.container_path("../../etc")


def test_place_makes_the_directory_and_durable_takes_few_and_many(root: StoreRoot) -> None:
    paths = []
    for number in range(20):
        source, target = root.path / "tmp" / str(number), root.tree_path("layer", f"{number:064x}")
        source.write_text("x")
        root.place(source, target)
        paths.append(target)
    root.durable(paths[:2])
    root.durable(paths)
    assert all(path.read_text() == "x" for path in paths)


def test_importing_the_store_loads_no_lmdb() -> None:
    script = "import sys, layerfs.store; sys.exit('lmdb' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("lose", [Path.unlink, lambda data: os.truncate(data, 0)], ids=["deleted", "emptied"])
def test_a_store_that_lost_its_index_is_refused_and_keeps_its_contents(tmp_path: Path, lose) -> None:
    with StoreRoot.open(tmp_path / "store") as root:
        blob = root.blobs.blob_path(root.blobs.put(b"precious", media_type="text/plain"))
    lose(tmp_path / "store/index/data.mdb")
    with pytest.raises(StoreError, match="index is missing"):
        StoreRoot.open(tmp_path / "store")
    assert blob.exists()


def test_an_index_that_was_cut_short_is_an_error_not_a_signal(tmp_path: Path) -> None:
    with StoreRoot.open(tmp_path / "store") as root, root.index.update() as txn:
        for number in range(500):
            txn.put("meta", b"%d" % number, bytes(100))
    os.truncate(tmp_path / "store/index/data.mdb", 8192)
    code = "import sys; from pathlib import Path; from layerfs.store import StoreRoot\n"
    code += "with StoreRoot.open(Path(sys.argv[1])) as root, root.index.view() as txn: txn.count('meta')"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "store"], capture_output=True, text=True)
    assert done.returncode == 1 and "Corrupt: the index is damaged" in done.stderr
