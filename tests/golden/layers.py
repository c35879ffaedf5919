"""Hand-made layers: each rule of docs/format.md has one. NAME.txt holds the trees they give; REFUSED must be errors."""

from __future__ import annotations

import struct

from tests.trees import entry, extension, layer, records

D, L, H, C, B, P = b"5", b"2", b"1", b"3", b"4", b"6"
GNU = b"ustar  \0"
MIB = 1 << 20
ACL = struct.pack("<I" + 3 * "HHI", 2, 1, 6, 0xFFFFFFFF, 4, 4, 0xFFFFFFFF, 32, 4, 0xFFFFFFFF)


def wh(path: str) -> bytes:
    return entry(path)


def sparse_1_0(name: str, size: int, pieces: list[tuple[int, bytes]]) -> bytes:
    text = b"%d\n" % len(pieces) + b"".join(b"%d\n%d\n" % (at, len(data)) for at, data in pieces)
    data = text + bytes(-len(text) % 512) + b"".join(data for _, data in pieces)
    keys = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.name": name.encode()}
    return entry("GNUSparseFile.1/x", b"0", data, pax=keys | {b"GNU.sparse.realsize": b"%d" % size})


def sparse_0_1(name: str, size: int, pieces: list[tuple[int, bytes]]) -> bytes:
    text = b",".join(b"%d,%d" % (at, len(data)) for at, data in pieces)
    keys = {b"GNU.sparse.size": b"%d" % size, b"GNU.sparse.numblocks": b"%d" % len(pieces), b"GNU.sparse.map": text}
    return entry(
        "GNUSparseFile.0/x", b"0", b"".join(d for _, d in pieces), pax=keys | {b"GNU.sparse.name": name.encode()}
    )


ATTRIBUTES = layer(
    entry("./", D, mode=0o1777, owner=(1, 2), mtime=5),
    entry("setuid", mode=0o104755, data=b"#!", owner=(0, 50)),
    entry("link", L, link=b"setuid", mode=0o644, owner=(7, 8)),
    entry("null", C, mode=0o666, device=(1, 3)),
    entry("big", B, device=(4095, 1048575)),
    entry("fifo", P),
    entry("old", pax={b"mtime": b"-1.5"}),
    entry("fine", pax={b"mtime": b"1.1234567899", b"uid": b"4294967294", b"gid": b"70000"}),
    entry("sized_link", L, link=b"x", size=99),
    entry("v7dir/", b"\0", magic=b""),
    entry("contiguous", b"7", data=b"7"),
    entry("dump/", b"D", data=b"Yfile\0\0", magic=GNU),
    entry("volume", b"V", data=b"label", magic=GNU),
)
NAMES = layer(
    entry("/abs/./x//y"),
    entry("a/../../up"),
    entry(b"\xff\xfe \\ \n"),
    entry("name", prefix=b"pre/fix"),
    entry("n" * 99, pax={b"path": b"l" * 255 + b"/" + b"m" * 255}),
    extension(b"L", b"gnu/" + b"g" * 200 + b"\0junk"),
    entry("short", magic=GNU),
    extension(b"K", b"t" * 300 + b"\0"),
    entry("lnk", L, magic=GNU),
    extension(b"L", b"beaten"),
    entry("z", pax={b"path": b"pax-wins"}),
    entry("old-go", magic=GNU, prefix=b"dir/dir/dir"),
)
GLOBAL = layer(
    extension(b"g", records({b"mtime": b"7.5", b"SCHILY.xattr.user.g": b"1"})),
    entry("one"),
    entry("two", pax={b"mtime": b"", b"SCHILY.xattr.user.g": b"2"}),
    extension(b"g", records({b"mtime": b""})),
    extension(b"x", records({b"path": b"forgotten", b"uid": b"5"})),
    entry("three", pax={b"gid": b"6"}),
    extension(b"g", records({b"uid": b"9"})),
)
LAST_WINS = layer(
    entry("f", data=b"one"),
    entry("f", data=b"two"),
    entry("d", D, mode=0o700, owner=(1, 1)),
    entry("d/kept"),
    entry("d", D, mode=0o711, owner=(2, 2)),
    entry("t/child"),
    entry("t", L, link=b"x"),
    entry("t", D),
    entry("w/.wh.gone"),
    entry("w", data=b"file"),
    entry("w/new"),
)
PARENTS = layer(
    entry("made/deep/f"),
    entry("real", D),
    entry("s", L, link=b"real/./sub/../sub"),
    entry("s/f"),
    entry("abs", L, link=b"/../../real"),
    entry("abs/g"),
    entry("hop1", L, link=b"hop2"),
    entry("hop2", L, link=b"nowhere/here"),
    entry("hop1/h"),
    entry("file"),
    entry("file/i"),
)
LINKS = layer(
    entry("f", data=b"x"),
    entry("g", H, link=b"/f", mode=0o777),
    entry("h/deep", H, link=b"./h/../g"),
    entry("s", L, link=b"f"),
    entry("t", H, link=b"s"),
    entry("dir/under"),
    entry("way", L, link=b"dir"),
    entry("through", H, link=b"way/under"),
    entry("lower", H, link=b"other/path"),
    entry("lower2", H, link=b"lower"),
    entry("lower3", H, link=b"way/../../missing/../x"),
    entry("f", H, link=b"f"),
    entry("c", data=b"c"),
    entry("c/below", H, link=b"c"),
)
WHITEOUTS = layer(
    wh(".wh.gone"),
    wh("a/.wh.gone"),
    entry("stays", data=b"s"),
    wh(".wh.stays"),
    wh(".wh.fresh"),
    entry("fresh", D, mode=0o700),
    wh(".wh.half"),
    entry("half/x"),
    wh("opaque/.wh..wh..opq"),
    entry("opaque/x"),
    entry("both", D),
    wh("both/.wh..wh..opq"),
    entry("blocked"),
    wh("blocked/.wh.x"),
    wh("blocked/.wh..wh..opq"),
    entry(".wh..wh.plnk", D),
    entry(".wh..wh.plnk/1.2", data=b"kept for the tar only"),
    entry(".wh.typed", L, link=b"x"),
    wh("made/on/the/.wh.way"),
    entry("ln", L, link=b"both"),
    wh("ln/.wh.through"),
)
XATTRS = layer(
    entry(
        "f",
        pax={
            b"SCHILY.xattr.user.raw": b"\0\1=\xff\n",
            b"SCHILY.xattr.user.empty": b"",
            b"SCHILY.xattr.security.capability": b"\1\0\0\2\xc0" + bytes(15),
            b"SCHILY.xattr.system.posix_acl_access": ACL,
            b"SCHILY.xattr.trusted.md5": b"t",
            b"SCHILY.xattr.trusted.overlay.opaque": b"y",
            b"SCHILY.xattr.user.overlay.redirect": b"/",
            b"SCHILY.xattr.trusted.overlayed": b"kept",
            b"SCHILY.xattr.other.x": b"1",
            b"SCHILY.xattr.user.": b"1",
            b"LIBARCHIVE.xattr.user.enc%25%2f": b"YWI",
            b"LIBARCHIVE.xattr.user.raw": b"bG9zZXM=",
        },
    ),
    entry("d", D, pax={b"SCHILY.xattr.user.on": b"directory", b"SCHILY.xattr.system.posix_acl_default": ACL}),
    entry("big", data=b"x" * 200000, pax={b"SCHILY.xattr.trusted.a": b"1", b"SCHILY.xattr.user.z": b"2"}),
    entry("l", L, link=b"x", pax={b"SCHILY.xattr.trusted.on": b"link" * 1100}),
)
SPARSE = layer(
    sparse_1_0("small", 10000, [(4096, b"a" * 10), (9990, b"b" * 10)]),
    sparse_0_1("same", 10000, [(4096, b"a" * 10), (9990, b"b" * 10)]),
    sparse_1_0("holes", 3 * MIB + 5, [(0, b"c" * 512), (MIB + 100, b"\0" * 4096), (2 * MIB - 1, b"d" * 5000)]),
    sparse_1_0("again", 3 * MIB + 5, [(0, b"c" * 512), (2 * MIB - 1, b"d" * 1000), (2 * MIB + 999, b"d" * 4000)]),
    sparse_0_1("nothing", 5 * MIB, [(5 * MIB, b"")]),
    sparse_0_1("dense", 200000, [(0, b"e" * 100), (199999, b"f")]),
)
CONTENTS = layer(
    entry("empty"),
    entry("one", data=b"same"),
    entry("two", data=b"same"),
    entry("lost", data=b"overwritten"),
    entry("lost", data=b"in its place"),
    entry("edge", data=b"p" * 131072),
    entry("over", data=b"p" * 131073),
    entry("over2", data=b"p" * 131073),
    entry("pages", data=b"q" * 4097),
)
BIG_DIRECTORY = layer(
    *(entry(f"d/{number:03}-" + "n" * 60, P) for number in range(200)), entry("d/-first"), entry("d/+", D)
)
LOWER = layer(
    entry("dir", D, mode=0o700, owner=(3, 3)),
    entry("dir/a", data=b"a"),
    entry("dir/b", data=b"b"),
    entry("dir/b2", H, link=b"dir/b"),
    entry("sym", L, link=b"dir/sub"),
    entry("abs", L, link=b"/dir"),
    entry("file", data=b"f"),
    entry("gone/x"),
)

TREES: dict[str, list[bytes]] = {
    "attributes": [ATTRIBUTES],
    "names": [NAMES],
    "global-records": [GLOBAL],
    "last-wins": [LAST_WINS],
    "parents": [PARENTS],
    "whiteouts": [WHITEOUTS],
    "xattrs": [XATTRS],
    "sparse": [SPARSE],
    "contents": [CONTENTS],
    "big-directory": [BIG_DIRECTORY],
    "links": [layer(entry("other/path", data=b"o"), entry("x", L, link=b"y")), LINKS],
    "merge-plain": [LOWER, layer(entry("dir/c"), wh("dir/.wh.a"), wh(".wh.gone"), entry("file", D))],
    "merge-attributes": [
        LOWER,
        layer(entry("dir", D, mode=0o555, pax={b"SCHILY.xattr.user.new": b"1"}), entry("./", D)),
    ],
    "merge-opaque": [LOWER, layer(wh("dir/.wh..wh..opq"), entry("dir/z")), layer(wh(".wh.dir"), entry("dir/y"))],
    "merge-links": [LOWER, layer(entry("l", H, link=b"abs/b"), wh("dir/.wh.b"), entry("dir/a", data=b"new"))],
    "merge-through-symlinks": [
        LOWER,
        layer(entry("sym/x", data=b"1"), entry("abs/y", data=b"2"), wh("abs/.wh.a"), entry("file/z", data=b"3")),
    ],
    "merge-hollow": [LOWER, layer(wh("no/such/.wh.x"), wh("file/.wh.x"), wh("sym/.wh.x"), wh("abs/.wh.a"))],
    "whiteouts-within": [
        LOWER,
        layer(
            wh("dir/.wh.a"),
            wh(".wh.dir"),
            wh("gone/deep/.wh.x"),
            wh(".wh.gone"),
            wh("gone/.wh..wh..opq"),
            wh(".wh.file"),
            entry("file/f"),
        ),
    ],
    "merge-root-opaque": [LOWER, layer(wh(".wh..wh..opq"), entry("n"))],
    "merge-explicit-over-symlink": [LOWER, layer(entry("sym", D), entry("sym/x"))],
    "merge-nothing": [layer(), layer()],
    "no-last-padding": [
        entry("x", data=b"y" * 600)[:1200],
        entry("z", data=b"y")[:513],
        extension(b"g", b"13 comment=x\n")[:600],
    ],
}

REFUSED: dict[str, list[bytes]] = {
    "whiteout-of-nothing": [layer(wh("a/.wh."))],
    "whiteout-of-dot": [layer(wh("a/.wh.."))],
    "whiteout-of-dotdot": [layer(wh("a/.wh..."))],
    "below-a-whiteout": [layer(entry(".wh.a/b"))],
    "device-0-0": [layer(entry("x", C))],
    "device-number": [layer(entry("x", C, device=(4096, 0)))],
    "root-is-file": [layer(entry("./"))],
    "root-is-link": [layer(entry("f"), entry("/", H, link=b"f"))],
    "link-to-directory": [layer(entry("d", D), entry("l", H, link=b"d"))],
    "link-to-root": [layer(entry("l", H, link=b"/"))],
    "link-to-nothing": [layer(entry("l", H, link=b"f"))],
    "link-to-lower-directory": [LOWER, layer(entry("l", H, link=b"dir"))],
    "link-to-hidden-later": [layer(entry("f")), layer(wh(".wh.f")), layer(entry("l", H, link=b"f"))],
    "symlink-empty": [layer(entry("l", L))],
    "symlink-too-long": [layer(entry("l", L, pax={b"linkpath": b"x" * 4096}))],
    "symlink-loop": [layer(entry("l", L, link=b"l"), entry("l/x"))],
    "symlink-loop-lower": [layer(entry("l", L, link=b"l")), layer(entry("l/x"))],
    "component-too-long": [layer(entry("x", pax={b"path": b"n" * 256}))],
    "path-too-long": [layer(entry("x", pax={b"path": b"/".join([b"n"] * 2049)}))],
    "unknown-type": [layer(entry("x", b"Z"))],
    "multi-volume": [layer(entry("x", b"M", magic=GNU))],
    "bad-checksum": [b"y" + layer(entry("xx"))[1:]],
    "truncated-header": [entry("x")[:300]],
    "truncated-data": [entry("x", data=b"y" * 600)[:1024]],
    "truncated-extension": [extension(b"L", b"x")[:600]],
    "extension-only": [layer(extension(b"x", records({b"path": b"x"})))],
    "long-name-only": [extension(b"L", b"x")],
    "extension-too-big": [layer(extension(b"x", records({b"comment": b"x" * MIB})), entry("x"))],
    "record-without-newline": [layer(extension(b"x", b"9 path=ab"), entry("x"))],
    "record-without-key": [layer(extension(b"x", b"5 =a\n"), entry("x"))],
    "record-too-long": [layer(extension(b"x", b"99 path=a\n"), entry("x"))],
    "nul-in-path": [layer(entry("x", pax={b"path": b"a\0b"}))],
    "nul-in-xattr-name": [layer(entry("x", pax={b"SCHILY.xattr.user.a\0": b"b"}))],
    "xattr-name-too-long": [layer(entry("x", pax={b"SCHILY.xattr.user." + b"a" * 251: b"b"}))],
    "xattr-value-too-long": [layer(entry("x", pax={b"SCHILY.xattr.user.a": b"b" * 65536}))],
    "xattr-base64": [layer(entry("x", pax={b"LIBARCHIVE.xattr.user.a": b"*"}))],
    "xattr-percent": [layer(entry("x", pax={b"LIBARCHIVE.xattr.user.%4": b"YQ"}))],
    "size-negative": [layer(entry("x", pax={b"size": b"-1"}))],
    "mtime-word": [layer(entry("x", pax={b"mtime": b"now"}))],
    "owner-too-big": [layer(entry("x", pax={b"uid": b"4294967296"}))],
    "file-too-big": [layer(entry("x", pax={b"size": b"%d" % (1 << 45)}))],
    "sparse-version": [layer(entry("x", pax={b"GNU.sparse.major": b"2", b"GNU.sparse.minor": b"0"}))],
    "sparse-out-of-order": [layer(sparse_0_1("x", 100, [(10, b"a"), (5, b"b")]))],
    "sparse-beyond": [layer(sparse_0_1("x", 10, [(10, b"a")]))],
    "sparse-unfit": [layer(entry("x", data=b"abc", pax={b"GNU.sparse.map": b"0,2", b"GNU.sparse.size": b"9"}))],
}
