"""Mount options: what each of them does, on the engines that have it."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))
sys.path.insert(0, str(Path(__file__).parent))

from limited import OptionBox

from layerfs import mount
from layerfs.errors import InvalidInput, Unsupported
from layerfs.layer.tree import Tree
from layerfs.snapshot import mount_tree
from layerfs.store.root import StoreRoot

pytestmark = pytest.mark.root

LONG_AGO = 1_000_000_000


@pytest.fixture
def box(store: StoreRoot, tree: Tree, tmp_path: Path) -> Iterator[OptionBox]:
    made = OptionBox(store, tree, tmp_path / "box")
    yield made
    made.unmount()


def read_after_a_change(box: OptionBox, options: str) -> float:
    """The access time of a file that is read for the first time since it was changed."""
    (box.mount(options) / "f").write_bytes(b"f")
    os.utime(box.root / "f", (LONG_AGO, LONG_AGO + 5))
    (box.mount() / "f").read_bytes()
    return (box.root / "f").stat().st_atime


@pytest.mark.parametrize("engine", ["native", "kernel"])
def test_noatime(box: OptionBox, engine: str) -> None:
    box.engine = engine
    assert read_after_a_change(box, "noatime") == LONG_AGO
    assert read_after_a_change(box, "") > LONG_AGO + 5


@pytest.mark.parametrize("engine", ["native", "kernel"])
def test_strictatime(box: OptionBox, engine: str) -> None:
    box.engine = engine
    first = read_after_a_change(box, "strictatime")
    time.sleep(0.05)
    (box.root / "f").read_bytes()
    assert (box.root / "f").stat().st_atime > first > LONG_AGO + 5
    with pytest.raises(InvalidInput, match="exclude"):
        box.mount("noatime,strictatime")


def test_access_times_of_what_the_server_reads(box: OptionBox) -> None:
    assert read_after_a_change(box, "size=1g,noatime") == LONG_AGO
    assert read_after_a_change(box, "size=1g") > LONG_AGO + 5


@pytest.mark.parametrize("engine", ["native", "kernel", "python"])
def test_mount_flags(box: OptionBox, engine: str) -> None:
    box.engine = engine
    box.mount("nosuid,nodev,noexec")
    entry = mount.entry_of(box.root)
    assert entry is not None
    assert {"nosuid", "nodev", "noexec", "rw"} <= set(entry.options.split(","))


def somebody_reads(path: Path) -> int:
    """The errno of another user's look at a file whose ancestors he may not enter; 0 when it went."""
    os.chdir(path.parent)
    pid = os.fork()
    if not pid:
        code = 255
        try:
            os.setresuid(4321, 4321, 4321)
            os.close(os.open(path.name, os.O_RDONLY))
            code = 0
        except OSError as error:
            code = error.errno or 254
        finally:
            os._exit(code)
    os.chdir("/")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_private_access(box: OptionBox) -> None:
    assert somebody_reads(box.mount("") / "a") == 0
    assert somebody_reads(box.mount("access=private") / "a") == errno.EACCES
    assert (box.root / "a").read_bytes() == b"linked"


@pytest.mark.parametrize(("cache", "seen"), [("always", False), ("none", True)])
def test_cache_says_whether_a_foreign_change_shows(box: OptionBox, cache: str, seen: bool) -> None:
    (box.mount(f"cache={cache}") / "f").write_bytes(b"f")
    assert (box.root / "f").stat().st_size == 1
    os.chmod(box.upper / "f", 0o600)  # nobody should do that; the option is for those who must
    (box.upper / "f").write_bytes(b"longer")
    assert ((box.root / "f").stat().st_size == 6) is seen
    assert ((box.root / "f").stat().st_mode & 0o777 == 0o600) is seen


def test_an_unknown_option_is_told_with_the_known_ones(box: OptionBox) -> None:
    with pytest.raises(InvalidInput, match=r"'sise' \(there are .*noatime.*size, inodes"):
        box.mount("sise=1g")


NO_VALUES = """size size= size=-1 size=1x size=0 inodes=0 inodes=x noatime=1 cache=often coherence=no access=none
    uidmap=0:1 uidmap=0:1:0 uidmap=0:1:5,3:100:5 gidmap=0:4294967290:10 uidmap=a:b:c"""


@pytest.mark.parametrize("options", NO_VALUES.split())
def test_a_value_that_is_none_is_refused(box: OptionBox, options: str) -> None:
    with pytest.raises(InvalidInput):
        box.mount(options)
    assert mount.entry_of(box.root) is None


@pytest.mark.parametrize(
    "option", ["size=1g", "inodes=5", "uidmap=0:1:1", "cache=none", "coherence=strict", "access=private"]
)
def test_the_other_engines_say_what_they_cannot_do(box: OptionBox, option: str) -> None:
    for box.engine in ("kernel", "python"):
        with pytest.raises(Unsupported, match=option.partition("=")[0]):
            box.mount(option)
        assert mount.entry_of(box.root) is None


def test_options_may_be_a_mapping_or_a_list(box: OptionBox, store: StoreRoot, tree: Tree, tmp_path: Path) -> None:
    for options in ({"uidmap": "0:10:5", "noatime": True, "volatile": False}, ["uidmap=0:10:5", "noatime"]):
        with mount_tree(store, tree, engine="native", target=tmp_path / "x", options=options) as root:
            assert (root / "a").stat().st_uid == 10
            entry = mount.entry_of(root)
            assert entry is not None
            assert "noatime" in entry.options
