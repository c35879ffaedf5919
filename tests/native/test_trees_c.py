"""The tree part of the C core under sanitizers: building, writing, reading, merging, moving (docs/format.md)."""

from __future__ import annotations

import errno
import stat
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerfs._pure.erofs import write_tree
from layerfs._pure.merge import merge_trees
from layerfs._pure.remap import remap_tree
from layerfs._pure.tree import Attr, Content, LayerTree, visible_xattrs
from layerfs.errors import InvalidArchive
from tests.native.script import IDENTITY, Compiler, Failed, Trees, escape

DIR, FILE, LINK = "mode=040755", "mode=0100644", "mode=0120777"


def refuses(trees: Trees, *lines: str, code: int = errno.EBADMSG) -> None:
    with pytest.raises(Failed) as failed:
        trees.run(*lines)
    assert failed.value.code == code


# --- building ---


def test_all_kinds_of_inode_come_back(trees: Trees) -> None:
    trees.layer(
        "t",
        "put d mode=041777 uid=4294967295 gid=7 mtime=-9223372036854775808 nsec=999999999 x:user.k=%00%ff",
        f"put small mode=0104755 pack=ffffffffffffffff:9:131072:{'ab' * 32}",
        f"put big {FILE} object=64424509440:{'cd' * 32} x:trusted.abc=1 x:trusted.zz=2",
        "put empty mode=0100000",
        f"put s {LINK} target=../x",
        "put c mode=020600 dev=4095:1048575",
        "put b mode=060600 dev=1:256",
        "put p mode=010600",
        "put k mode=0140600",
        "link again small",
    )
    got = trees.dump("t")
    assert [got["d"][key] for key in ("mode", "uid", "gid", "nlink")] == ["41777", "4294967295", "7", "2"]
    assert [got["d"][key] for key in ("mtime", "nsec", "x:user.k")] == ["-9223372036854775808", "999999999", "%00%ff"]
    assert (got["small"]["pack"], got["small"]["nlink"]) == ("ffffffffffffffff:9", "2")
    assert got["again"] == got["small"]
    assert [key for key in got["big"] if key.startswith("x:")] == [
        *("x:trusted.abc", "x:trusted.overlay.metacopy", "x:trusted.overlay.redirect", "x:trusted.zz"),
    ]
    assert got["big"]["x:trusted.overlay.redirect"] == "/cd/" + "cd" * 31
    assert (got["s"]["target"], got["c"]["dev"], got["b"]["dev"]) == ("../x", "4095:1048575", "1:256")
    assert [got[name]["mode"] for name in ("empty", "p", "k")] == ["100000", "10600", "140600"]


def test_content_has_the_low_inode_numbers(trees: Trees) -> None:
    trees.layer("t", f"put a {FILE}", f"put b {FILE} pack=1:0:1:{'01' * 32}", f"put c/d {FILE} pack=1:1:1:{'02' * 32}")
    got = trees.dump("t")
    assert [got[path]["ino"] for path in ("b", "c/d", ".", "a", "c")] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    "lines",
    [
        [f"put {'n' * 256} {FILE}"],
        [f"put {'n' * 256}/x {FILE}"],
        ["put a mode=020600 dev=0:0"],
        ["put a mode=020600 dev=4096:0"],
        ["put a mode=060600 dev=0:1048576"],
        [f"put s {LINK}"],
        [f"put s {LINK} target={'t' * 4096}"],
        [f"put  {FILE}"],
        ["link  a"],
        [f"put d {DIR}", "link x d"],
        ["link x "],
        [f"put s {LINK} target=s", f"put s/x {FILE}"],
        [f"put s {LINK} target=t", f"put t {LINK} target=s", "whiteout s x"],
        [f"put {'/'.join(['d' * 200] * 21)} {FILE}"],
        [f"put s {LINK} target={'/'.join(['d' * 200] * 20)}", f"put s/{'e' * 200} {FILE}"],
        [f"put a {FILE} x:user.{'n' * 251}=v"],
        [f"put a {FILE} x:user.n={'v' * 65536}"],
        ["put a " + " ".join(f"x:user.{i}={'v' * 65000}" for i in range(5))],
    ],
)
def test_refused_while_building(trees: Trees, lines: list[str]) -> None:
    refuses(trees, *lines)


def test_forty_symlinks_are_followed_and_no_more(trees: Trees) -> None:
    chain = [f"put s{i} {LINK} target=s{i + 1}" for i in range(40)]
    trees.layer("t", *chain[:39], f"put s39 {LINK} target=end", f"put s0/x {FILE}")
    assert "end/x" in trees.dump("t")
    refuses(trees, *chain, f"put s40 {LINK} target=end", f"put s0/x {FILE}")


def test_a_symlinked_parent_stays_inside_the_root(trees: Trees) -> None:
    trees.layer(
        "t",
        f"put a/s {LINK} target=../../../up/./b//",
        f"put a/s/x {FILE}",
        f"put abs {LINK} target=/",
        f"put abs/y {FILE}",
    )
    assert {"up/b/x", "y", "abs", "a/s"} <= trees.dump("t").keys()


def test_a_link_keeps_an_inode_whose_first_name_goes(trees: Trees) -> None:
    trees.layer("t", f"put f {FILE} uid=7", "link g f", f"put f {FILE} uid=8", f"put h {FILE} uid=9", "link h/inside h")
    got = trees.dump("t")
    assert [(got[path]["uid"], got[path]["nlink"]) for path in ("f", "g", "h/inside")] == [
        ("8", "1"),
        ("7", "1"),
        ("9", "1"),
    ]


@pytest.mark.parametrize(
    ("lines", "path"),
    [
        (["link h usr/bin/x"], "usr/bin/x"),
        ([f"put s {LINK} target=/etc", "link h s/passwd"], "etc/passwd"),
        ([f"put d/s {LINK} target=../e/x/../y", "link h d/s/f"], "e/y/f"),
        ([f"put f {FILE}", "link h f/g"], "f/g"),
        (["whiteout  f", "link h f"], "f"),
    ],
)
def test_a_link_into_lower_layers_is_recorded(trees: Trees, lines: list[str], path: str) -> None:
    trees.layer("t", *lines)
    got = trees.dump("t")
    assert (got["h"]["mode"], got["h"]["size"], got["h"]["x:trusted.overlay.layerfs.link"]) == ("100000", "0", path)


@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_and_a_directory_of_one_name_make_it_opaque(trees: Trees, order: int) -> None:
    trees.layer("t", *[f"put d/f {FILE}", "whiteout  d"][::order])
    got = trees.dump("t")
    assert got["d"].get("x:trusted.overlay.opaque") == "y"
    assert "x:trusted.overlay.layerfs.implicit" not in got["d"]


def test_markers_below_a_file_do_nothing(trees: Trees) -> None:
    assert trees.layer("a", f"put f {FILE}", "whiteout f x", "opaque f/y") == trees.layer("b", f"put f {FILE}")


def test_overlay_xattrs_of_an_image_are_dropped(trees: Trees) -> None:
    plain = trees.layer("a", f"put d {DIR}")
    forged = [
        "x:trusted.overlay.opaque=y",
        "x:user.overlay.x=1",
        "x:trusted.overlay.layerfs.link=p",
        "x:system.nfs4_acl=1",
        "x:user.=1",
    ]
    assert trees.layer("b", f"put d {DIR} " + " ".join(forged)) == plain


def test_extra_contents_follow_those_of_inodes(trees: Trees) -> None:
    extras = [f"extra pack=9:7:5000:{digit * 32}" for digit in ("33", "11", "22", "11")] + [
        f"extra object=200000:{'44' * 32}"
    ]
    data = trees.layer("t", f"put f {FILE} pack=1:0:1:{'33' * 32}", *extras)
    at, count = struct.unpack_from("<QQ", data, 16)
    table = [data[at + 32 * i : at + 32 * i + 32].hex()[:2] for i in range(count)]
    assert table == ["33", "11", "22", "44"]
    devices = [data[1152 + 128 * i : 1152 + 128 * i + 68] for i in range(2)]
    assert [(d[:16], struct.unpack_from("<I", d, 64)[0]) for d in devices] == [(b"%016x" % 1, 1), (b"%016x" % 9, 9)]


def test_an_existing_file_is_not_replaced(trees: Trees) -> None:
    trees.layer("t", f"put f {FILE}")
    refuses(trees, f"write t layer {IDENTITY}", code=errno.EEXIST)


# --- merging ---


def test_attributes_of_directories(trees: Trees) -> None:
    trees.layer("a", f"put d {DIR} uid=1 x:user.k=v", f"put e {DIR} uid=1", f"put g {DIR} uid=1")
    trees.layer("b", f"put d/f {FILE}", f"put e {DIR} uid=2", "opaque g", f"put g/f {FILE}", f"put new/f {FILE}")
    got = trees.merge("a", "b")
    assert [got[path]["uid"] for path in ("d", "e", "g", "new")] == ["1", "2", "1", "0"]
    assert got["d"]["x:user.k"] == "v"
    assert not any("overlay" in key for fields in got.values() for key in fields)


def test_what_hides_and_what_stays(trees: Trees) -> None:
    trees.layer("a", *[f"put {path} {FILE}" for path in ("d/old", "o/old", "w/old", "w/sub/x", "f")])
    trees.layer(
        "b",
        "whiteout d old",
        f"put d/new {FILE}",
        "opaque o",
        f"put o/new {FILE}",
        "whiteout  w",
        f"put w/sub/y {FILE}",
        "whiteout  none",
    )
    assert trees.merge("a", "b").keys() == {".", "d", "d/new", "o", "o/new", "w", "w/sub", "w/sub/y", "f"}


def test_partners_of_hard_links(trees: Trees) -> None:
    trees.layer("a", f"put f {FILE} uid=7", "link g f", "link h f")
    trees.layer("b", f"put f {FILE} uid=8", "whiteout  g")
    trees.layer("c", "link again h")
    got = trees.merge("a", "b", "c")
    assert [(got[path]["uid"], got[path]["nlink"]) for path in ("f", "h", "again")] == [
        ("8", "1"),
        ("7", "2"),
        ("7", "2"),
    ]


def test_links_name_the_tree_below_even_when_the_layer_removes_it(trees: Trees) -> None:
    trees.layer("a", f"put d/f {FILE} uid=7", f"put s {LINK} target=d")
    trees.layer("b", "link g s/f", "whiteout  d", "link s2 s", "link zz g")
    got = trees.merge("a", "b")
    assert (got["g"]["uid"], got["zz"]["ino"], got["s2"]["target"]) == ("7", got["g"]["ino"], "d")
    assert "d" not in got


@pytest.mark.parametrize("line", ["link g none", "link g d", "link g f/x", "link g loop/x"])
def test_a_link_to_nothing_is_refused(trees: Trees, line: str) -> None:
    trees.layer("a", f"put d {DIR}", f"put f {FILE}", f"put loop {LINK} target=loop")
    trees.layer("b", line)
    refuses(trees, f"merge m {IDENTITY} a b")


@pytest.mark.parametrize(
    ("lower", "upper", "paths"),
    [
        (["put t mode=040700", f"put s {LINK} target=t"], [f"put s/x {FILE}"], {"t", "t/x", "s"}),
        ([f"put s {LINK} target=/a/../b/c"], [f"put s/x {FILE}"], {"s", "a", "b", "b/c", "b/c/x"}),
        ([f"put f {FILE}", f"put s {LINK} target=f"], [f"put s/x {FILE}"], {"s", "f", "f/x"}),
        ([f"put t/y {FILE}", f"put s {LINK} target=t"], ["whiteout s y"], {"s", "t"}),
        ([f"put t/y {FILE}", f"put s {LINK} target=t"], ["opaque s", f"put s/x {FILE}"], {"s", "t", "t/x"}),
        ([f"put s {LINK} target=none"], ["whiteout s y", "opaque s/z"], {"s"}),
        ([f"put t/y {FILE}", f"put s {LINK} target=t"], ["whiteout  t", f"put s/x {FILE}"], {"s", "t", "t/x"}),
        ([f"put t {DIR}", f"put s {LINK} target=t"], [f"put s {DIR}", f"put s/x {FILE}"], {"s", "s/x", "t"}),
        ([f"put t {DIR}", f"put s {LINK} target=t"], ["whiteout  s", f"put s/x {FILE}"], {"s", "s/x", "t"}),
        ([f"put s {LINK} target=s"], ["whiteout  s"], set()),
        # symlinks met one after another, the second made known by the first
        (
            [f"put a {LINK} target=b", f"put b/c {LINK} target=../d"],
            [f"put a/c/x {FILE}"],
            {"a", "b", "b/c", "d", "d/x"},
        ),
        # the symlink that was put aside is replaced before its turn comes
        (
            [f"put a {LINK} target=.", f"put b {LINK} target=t"],
            [f"put a/b {FILE}", f"put b/x {FILE}"],
            {"a", "b", "b/x"},
        ),
        # what a symlink led out of is gone when its turn comes: the rest of the layer is put where nobody sees it
        ([f"put a {LINK} target=.", f"put d/s {LINK} target=t"], [f"put a/d {FILE}", f"put d/s/x {FILE}"], {"a", "d"}),
    ],
)
def test_symlinks_of_lower_layers_are_followed(
    trees: Trees, lower: list[str], upper: list[str], paths: set[str]
) -> None:
    trees.layer("a", *lower)
    trees.layer("b", *upper)
    assert trees.merge("a", "b").keys() == {".", *paths}


def test_implicit_directories_with_only_whiteouts_make_nothing(trees: Trees) -> None:
    trees.layer("a", f"put f {FILE}")
    trees.layer("b", "whiteout f x", "whiteout g/h x", "opaque g/i")
    assert trees.merge("a", "b").keys() == {".", "f"}


def test_merging_in_steps_is_merging_at_once(trees: Trees) -> None:
    layers = [
        [f"put a/f {FILE} pack=2:0:10:{'22' * 32}", f"put b {FILE} object=200000:{'33' * 32}", "link c b"],
        ["whiteout a f", f"put a/g {FILE} pack=1:0:10:{'11' * 32}"],
        ["whiteout  b", f"put z/y/x {FILE}"],
    ]
    for number, lines in enumerate(layers):
        trees.layer(str(number), *lines)
    trees.merge("0", "1", "2", out="once")
    trees.merge("0", "1", out="step")
    trees.merge("step", "2", out="steps")
    assert (trees.folder / "steps").read_bytes() == (trees.folder / "once").read_bytes()
    refuses(trees, f"merge m {IDENTITY} 2 step", code=errno.EINVAL)


def test_no_layers_make_an_empty_tree(trees: Trees) -> None:
    got = trees.merge()
    assert list(got) == ["."]
    assert got["."]["mode"] == "40755"


# --- moving ---


def test_moved_files_are_where_the_mapping_says(trees: Trees) -> None:
    lines = [
        f"put d/f {FILE} pack={{}}:{{}}:5000:{'11' * 32}",
        "link g d/f",
        f"put o {FILE} pack=3:0:1:{'22' * 32}",
        "whiteout  w",
        "opaque d",
        "link low er",
    ]
    trees.layer("t", *[line.format(5, 4) for line in lines], f"extra pack=8:0:9:{'33' * 32}")
    trees.run("remap t moved 5:4:70:9 5:5:71:9")
    assert trees.dump("moved")["g"]["pack"] == "9:70"
    wanted = trees.layer("wanted", *[line.format(9, 70) for line in lines], f"extra object=9:{'33' * 32}")
    assert (trees.folder / "moved").read_bytes() == wanted


# --- damage ---


def test_every_flipped_byte_is_noticed(trees: Trees) -> None:
    good = trees.layer("t", f"put d/f {FILE} pack=5:4:5000:{'11' * 32}", f"put s {LINK} target=d")
    covered = [*range(0, 48, 3), *range(64, 88, 2), *range(1024, 1300, 7), *range(4096, 4700, 9), 8192, 12000]
    for at in covered:
        (trees.folder / "bad").write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        with pytest.raises(Failed):
            trees.run("verify bad")


@pytest.mark.parametrize("cut", [0, 1, 1023, 4096, 8191, 8192, -4096, -1])
def test_cut_files_are_refused(trees: Trees, cut: int) -> None:
    good = trees.layer("t", f"put d/f {FILE} object=200000:{'11' * 32}")
    (trees.folder / "bad").write_bytes(good[:cut])
    for line in ("verify bad", "dump bad", f"merge m {IDENTITY} bad", "remap bad r"):
        with pytest.raises(Failed):
            trees.run(line)
    assert not (trees.folder / "m").exists()


@pytest.mark.parametrize("fuzzer", ["fuzz_layers.c", "fuzz_image.c"])
def test_random_trees_and_random_damage(fuzzer: str, compiler: Compiler) -> None:
    subprocess.run([compiler.link(fuzzer, "fuzz_random.c"), "100", "7"], check=True, capture_output=True)


# --- against the plain-Python twin ---

NAMES = st.sampled_from([b"a", b"b", b"c", b"s", b"!x", b"\xff", b"d" * 250])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
TARGETS = st.lists(st.sampled_from([b"a", b"b", b"s", b"..", b".", b""]), min_size=1, max_size=4).map(
    lambda p: b"/".join(p) or b"/"
)
XATTRS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"user.k",
                b"security.c",
                b"trusted.a",
                b"trusted.overlay.a",
                b"trusted.zz",
                b"system.posix_acl_access",
                b"user.",
            ]
        ),
        st.binary(max_size=5),
    ),
    max_size=3,
)
KINDS = {
    "d": stat.S_IFDIR,
    "f": stat.S_IFREG,
    "l": stat.S_IFLNK,
    "c": stat.S_IFCHR,
    "b": stat.S_IFBLK,
    "p": stat.S_IFIFO,
}
Step = Callable[[LayerTree], str]


def content(number: int) -> Content:
    identity = bytes([number]) * 32
    if number % 4 == 0:
        return Content(identity, 2, [200_000, 60 << 30, 1 << 43, (1 << 43) + 1][number // 4 % 4])
    return Content(identity, 1, [1, 4096, 5000, 131072][number % 3], [5, 7, (1 << 64) - 1][number % 3], number * 40)


def placed(found: Content) -> str:
    if found.kind == 1:
        return f"pack={found.pack:x}:{found.block}:{found.size}:{found.identity.hex()}"
    return f"object={found.size}:{found.identity.hex()}"


@st.composite
def puts(draw: st.DrawFn) -> Step:
    kind, path = draw(st.sampled_from("ddfffflcbp")), draw(PATHS)
    data = content(draw(st.integers(1, 30))) if kind == "f" and draw(st.booleans()) else None
    target = draw(TARGETS) if kind == "l" else b""
    device = (draw(st.sampled_from([0, 4095])), draw(st.sampled_from([1, 256]))) if kind in "cb" else (0, 0)
    xattrs, owner, mtime = draw(XATTRS), draw(st.integers(0, 2**32 - 1)), draw(st.integers(-(2**40), 2**60))
    attr = Attr(KINDS[kind] | 0o640, owner, 3, mtime, device, visible_xattrs(xattrs))
    words = [f"put {escape(path)} mode={attr.mode:o} uid={owner} gid=3 mtime={mtime // 10**9} nsec={mtime % 10**9}"]
    words += [f"dev={device[0]}:{device[1]}", *([f"target={escape(target)}"] if target else [])]
    words += [*([placed(data)] if data else []), *(f"x:{escape(name)}={escape(value)}" for name, value in xattrs)]

    def step(tree: LayerTree) -> str:
        tree.put(path, attr, content=data, target=target)
        return " ".join(words)

    return step


@st.composite
def others(draw: st.DrawFn) -> Step:
    path, other = draw(PATHS), draw(PATHS)
    kind = draw(st.sampled_from(["link", "whiteout", "whiteout", "opaque"]))

    def step(tree: LayerTree) -> str:
        if kind == "link":
            tree.link(path, other)
        elif kind == "whiteout":
            tree.whiteout(path, other.split(b"/")[0])
            return f"whiteout {escape(path)} {escape(other.split(b'/')[0])}"
        else:
            tree.opaque(path)
        return f"{kind} {escape(path)}" + (f" {escape(other)}" if kind == "link" else "")

    return step


MOVES = [(5, 400, 9, 8), (7, 40, 77, 7)]


def by_twin(folder: Path, layers: list[list[Step]], script: list[str]) -> bool:
    """Do it with the twin, collecting the script for the core; False when it is refused."""
    names = [f"twin-{number}" for number in range(len(layers))]
    for number, steps in enumerate(layers):
        tree = LayerTree()
        for step in steps:
            try:
                script.append(step(tree))
            except InvalidArchive:
                return False
        write_tree(
            tree.root, str(folder / names[number]), merged=False, subject=bytes(32), extra=[content(31), content(40)]
        )
        script += [
            f"extra {placed(content(31))}",
            f"extra {placed(content(40))}",
            f"write core-{number} layer {'00' * 32}",
        ]
    remap_tree(
        str(folder / "twin-0"), str(folder / "twin-moved"), b"".join(struct.pack("<QIIQQ", *move, 0) for move in MOVES)
    )
    script.append("remap core-0 core-moved " + " ".join("{:x}:{}:{}:{:x}".format(*move) for move in MOVES))
    script.append(f"merge core-all {'00' * 32} " + " ".join(f"core-{number}" for number in range(len(layers))))
    try:
        merge_trees([str(folder / name) for name in names], str(folder / "twin-all"), bytes(32))
    except InvalidArchive:
        return False
    script.append("verify core-all")
    return True


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(puts() | puts() | others(), min_size=1, max_size=12), min_size=1, max_size=3))
def test_core_and_twin_write_the_same_bytes(trees: Trees, layers: list[list[Step]]) -> None:
    for old in trees.folder.iterdir():
        old.unlink()
    script: list[str] = []
    if by_twin(trees.folder, layers, script):
        trees.run(*script)
    elif not script[-1].startswith("merge"):
        trees.run(*script)  # the step that the twin refused is not in it
    else:
        refuses(trees, *script)
    for made in trees.folder.glob("twin-*"):
        assert made.read_bytes() == (trees.folder / made.name.replace("twin", "core")).read_bytes(), made.name
