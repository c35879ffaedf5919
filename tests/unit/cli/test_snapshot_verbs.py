"""snapshot, rollback, fork, log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import layerfs

pytestmark = pytest.mark.root


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def call(box: str, text: str) -> None:
        with layerfs.Store(tmp_path / "store") as store, store.container(box).mount() as root:
            (root / "file").write_text(text)

    return call


@pytest.fixture
def box(shell: Any, small: Any, write: Any) -> str:
    shell("create", "--name", "box", "small:1")
    write("box", "one")
    assert shell("snapshot", "box", "first").out == "first\n"
    write("box", "two!")
    assert shell("snapshot", "create", "box").out == "snapshot-1\n"
    return "box"


def test_they_are_listed_with_what_each_holds_alone(shell: Any, box: str) -> None:
    assert shell("snapshot", "ls", box, "-q").lines == ["first", "snapshot-1"]
    heading, *found = shell("snapshot", "ls").lines
    assert heading.split("  ")[0] == "SNAPSHOT ID" and [line.split()[1:3] for line in found] == [
        ["box", "first"],
        ["box", "snapshot-1"],
    ]
    [first, _] = [json.loads(line) for line in shell("snapshot", "ls", "--format", "json").lines]
    assert first["PrivateSize"] != "N/A"


def test_rollback_brings_back_and_rm_takes_away(shell: Any, box: str, tmp_path: Path) -> None:
    assert shell("rollback", box, "first").code == 0
    with layerfs.Store(tmp_path / "store") as store, store.container(box).mount() as root:
        assert (root / "file").read_text() == "one"
    assert shell("snapshot", "rm", box, "first", "nothing", "snapshot-1").err == "layerfs: No such snapshot: nothing\n"
    assert shell("snapshot", "ls", "-q").lines == []
    assert shell("rollback", box, "first").code == 1


def test_absorbing_on_demand_and_behind(shell: Any, box: str, tmp_path: Path) -> None:
    assert shell("snapshot", "create", "--absorb", box, "third").out == "third\n"
    assert shell("snapshot", "absorb", "--background").code == 0
    assert shell("snapshot", "absorb", box, "--background").code == 1
    assert shell("snapshot", "absorb", box).out in ("0\n", "1\n", "2\n")
    assert shell("snapshot", "absorb").out == "0\n"
    with layerfs.Store(tmp_path / "store") as store, store.container(box).mount() as root:
        assert (root / "file").read_text() == "two!"


def test_diff_mount_and_commit(shell: Any, box: str) -> None:
    assert shell("snapshot", "diff", box, "first").lines == ["A /file"]
    assert shell("snapshot", "diff", box, "first", "snapshot-1", "-s").lines == ["C /file\t3\t4"]
    place = shell("snapshot", "mount", box, "first").out.strip()
    assert Path(place, "file").read_text() == "one"
    assert shell("umount", place).code == 0
    assert shell("snapshot", "commit", box, "first", "then:1").out.startswith("sha256:")
    assert shell("diff", "small:1", "then:1").lines == ["A /file"]


def test_log_draws_where_everything_comes_from(shell: Any, box: str, write: Any) -> None:
    assert shell("fork", box, "child", "--snapshot", "first").out == "child\n"
    write("child", "three")
    shell("snapshot", "child", "own")
    lines = [line.partition("  (")[0] for line in shell("log").lines]
    assert lines == [
        "small:1",
        "└─ box@first",
        "   ├─ box@snapshot-1",
        "   │  └─ [box]",
        "   └─ child@own",
        "      └─ [child]",
    ]
    [image] = json.loads(shell("log", "child", "--format", "json").out)
    [first] = image["children"]
    assert [each["snapshots"][0]["name"] for each in first["children"]] == ["own"]
    assert '-> "container child";' in shell("log", "--format", "dot").out


def test_what_is_wrong_is_said_in_a_line(shell: Any, small: Any) -> None:
    shell("create", "--name", "box", "small:1")
    assert shell("snapshot", "nobody").err == "layerfs: No such container: nobody\n"
    assert shell("fork", "box", "box").code == 1
    assert shell("snapshot", "box", "a/b").err.startswith("layerfs: Invalid snapshot name")
    assert shell("log", "nobody").code == 1


def test_disk_use_shows_them(shell: Any, box: str) -> None:
    out = shell("system", "df", "-v").out
    assert "Snapshots space usage:" in out and "PRIVATE (RECLAIMABLE)" in out and "snapshot-1" in out
    assert "RECLAIMABLE" in out.partition("Containers space")[2].splitlines()[2]


def test_a_snapshot_may_be_named_as_the_log_shows_it(shell: Any, box: str, tmp_path: Path) -> None:
    assert shell("snapshot", "list", "-q").lines == ["box@first", "box@snapshot-1"]
    assert shell("rollback", "box@first").code == 0
    with layerfs.Store(tmp_path / "store") as store, store.container(box).mount() as root:
        assert (root / "file").read_text() == "one"
    assert shell("fork", "box@snapshot-1", "child").out == "child\n"
    assert shell("snapshot", "box@mine").out == "mine\n"
    assert shell("snapshot", "diff", "box@first", "snapshot-1").out == "C /file\n"
    assert shell("snapshot", "diff", "-s", "box@first", "box@snapshot-1").out.startswith("C /file")
    made = shell("snapshot", "commit", "-a", "Ann <ann@example>", "box@first", "kept:1").out.strip()
    assert made == shell("inspect", "-f", "{{.Id}}", "kept:1").out.strip()
    where = shell("snapshot", "mount", "box@first", str(tmp_path / "seen")).out.strip()
    assert Path(where, "file").read_text() == "one" and shell("umount", where).code == 0
    assert shell("snapshot", "rm", *shell("snapshot", "ls", "-q").lines).code == 0
    assert shell("snapshot", "ls", "-q").lines == []


def test_a_snapshot_that_is_named_twice_is_an_error(shell: Any, box: str) -> None:
    assert shell("fork", "-s", "first", "box@first").err == "layerfs: the snapshot is named twice: first and first\n"
    assert "requires 2 arguments" in shell("rollback", "box").err
    assert shell("rollback", "box@nothing").err == "layerfs: No such snapshot: nothing\n"


def test_what_snapshots_and_forks_share_counts_once(shell: Any, box: str) -> None:
    def used() -> tuple[str, str]:
        rows = [json.loads(line) for line in shell("system", "df", "--format", "json").lines]
        return next((row["Size"], row["Reclaimable"]) for row in rows if row["Type"] == "Containers")

    taken = used()
    assert taken[0] != "0B" and taken[1] == f"{taken[0]} (100%)"
    shell("fork", box, "child")
    shell("fork", "box@first", "other")
    assert used() == taken
    shell("commit", box, "image:1")
    assert used() == ("3B", "3B (100%)")  # the image has the newer bytes, a snapshot alone the older ones
