"""Small but real inputs for tests of whole commands, and the judge that says whether a store is whole.

A command is the command line itself, `layerfs --store PATH VERB …`, run in this process (the harness forks it).
The judge shares no code with what it judges: it applies the layers that `save` writes with tests/oracle and compares
the result with what a mount shows and with what `export` writes.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import layerfs
from layerfs.cli.app import run
from layerfs.snapshot import MountTable
from layerfs.store.leases import process_start
from tests import looking
from tests.oracle import applier, host


def command(store: Path, *arguments: object, expect: int | None = 0) -> int:
    """One command line, its output thrown away; asserts its exit code unless `expect` is None."""
    with Path(os.devnull).open("w") as nothing, contextlib.redirect_stdout(nothing):
        code = run(["--store", str(store), *map(str, arguments)])
    assert expect is None or code == expect, (arguments, code)
    return code


def said(store: Path, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command line."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(["--store", str(store), *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def _tasks() -> Iterator[Path]:
    for pid in looking.processes():
        with contextlib.suppress(OSError):
            yield from Path(f"/proc/{pid}/task").iterdir()


def processes() -> str:
    """Every process of this machine that is not the kernel's, with what each thread waits for: to explain a hang."""
    lines = []
    for task in sorted(_tasks(), key=lambda path: int(path.name)):
        with contextlib.suppress(OSError):
            words = (task / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if not words:
                continue
            stat, stack = (task / "stat").read_text().rsplit(")", 1)[1].split()[:2], (task / "stack").read_text()
            calls = [line.split()[1].split("+")[0] for line in stack.splitlines() if len(line.split()) > 1]
            who = f"{task.parent.parent.name}/{task.name} {' '.join(stat)} {words[:150]}"
            lines.append(f"{who} {' < '.join(calls[:6])}")
    return "\n".join(lines)


# inputs


def member(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", **fields: Any) -> Any:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mtime = kind, len(data), link, 1_700_000_000
    info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def tar(members: list[Any]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def base_tar(files: int = 120) -> bytes:
    """What all images share: directories, links, a capability, a device, big and small files."""
    chance = random.Random(1)
    members = [member(f"d{n}", kind=tarfile.DIRTYPE, mode=0o750 + n % 3, uid=n, gid=7) for n in range(8)]
    members += [member(f"d{n % 8}/f{n}", chance.randbytes(chance.randrange(1, 9000)), uid=n) for n in range(files)]
    members += [member("big", chance.randbytes(400_000)), member("big2", b"z" * 200_000)]
    members += [
        member("d0/hard", kind=tarfile.LNKTYPE, link="d0/f0"),
        member("d1/soft", kind=tarfile.SYMTYPE, link="../big", mode=0o777),
        member("d2/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member(
            "d3/cap", b"#!", mode=0o4755,
            pax_headers={"SCHILY.xattr.user.colour": "blue", "mtime": "1700000001.123456789"},
        ),
    ]  # fmt: skip
    return tar(members)


def own_tar(number: int, files: int = 60, *, whiteouts: bool = True) -> bytes:
    """A layer of its own for each number; a third of its files are those of other numbers."""
    chance = random.Random(number + 1000)
    common = random.Random(number % 5)
    members = [member(f"d1/own{n}", chance.randbytes(chance.randrange(1, 6000))) for n in range(files)]
    members += [member(f"d2/common{n}", common.randbytes(3000)) for n in range(files // 2)]
    members += [member("number", b"%d" % number), member("large", chance.randbytes(300_000))]
    if whiteouts:
        members += [member("d0/.wh.f8"), member("d5/.wh..wh..opq"), member("d5/fresh", b"fresh%d" % number)]
    return tar(members)


def docker_archive(path: Path, images: dict[str, list[bytes]], *, compress: bool = True) -> Path:
    """A docker archive of images given by their layers' tars."""
    entries: dict[str, bytes] = {}
    manifest = []
    for tag, layers in images.items():
        diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
        config = {
            "architecture": "amd64", "os": "linux", "created": "2024-01-01T00:00:00Z", "config": {"Cmd": ["/d3/cap"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": f"{tag} {n}"} for n in range(len(layers))],
        }  # fmt: skip
        raw = json.dumps(config).encode()
        name = hashlib.sha256(raw).hexdigest() + ".json"
        names = []
        for layer, diff_id in zip(layers, diff_ids, strict=True):
            names.append(f"{diff_id[7:]}/layer.tar")
            entries[names[-1]] = gzip.compress(layer, 1, mtime=0) if compress else layer
        entries[name] = raw
        manifest.append({"Config": name, "RepoTags": [tag], "Layers": names})
    entries["manifest.json"] = json.dumps(manifest).encode()
    path.write_bytes(tar([member(name, data) for name, data in entries.items()]))
    return path


# the judge


def whole(store: Path) -> None:
    """fsck has nothing to say, every image and container can be read, and nothing of the dead lies about."""
    with layerfs.Store(store) as opened:
        assert opened.fsck() == []
        for image in opened.images(all=True):
            assert tuple(image.config.diff_ids) == image.record.diff_ids
            assert [layer.diff_id for layer in image.layers] == list(image.record.diff_ids)
            sum(1 for _ in opened.tree_text(image.id))
        for box in opened.containers():
            assert box.upper.is_dir()
            box.diff()
        assert_rows_live(opened)


def assert_rows_live(store: layerfs.Store) -> None:
    """Leases of dead processes go with the next lease, mounts and rows of mounts with the next mount or collection."""
    deadline = time.monotonic() + 60  # a server that was starting when its command was killed ends by itself
    while True:
        MountTable(store.root).clean_dead()
        left = set(mounted_sources(store.path)) - {f"layerfs:{record.id}" for record in store.mounts()}
        if not left or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert left == set()
    with store.root.leases.acquire("test"):
        pass
    with store.root.index.view() as txn:
        leases = list(txn.scan_json("leases"))
    assert [row for _, row in leases if process_start(row["pid"]) != row["pid_start"]] == []


def mounted_sources(below: Path) -> Iterator[str]:
    for line in looking.mountinfo().splitlines():
        fields = line.split()
        source = fields[fields.index("-") + 2]
        if source.startswith("layerfs:") and fields[4].startswith(str(below)):
            yield source


def layer_tars(archive: bytes) -> list[bytes]:
    """The layers of the one image in a docker archive, base first; their names are not believed."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as outer:
        manifest = json.load(outer.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        config = json.load(outer.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        layers = [outer.extractfile(name).read() for name in manifest["Layers"]]  # type: ignore[union-attr]
    found = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    assert found == config["rootfs"]["diff_ids"]
    return layers


def expected_listing(layers: list[bytes]) -> dict[bytes, Any]:
    return normal(applier.listing(applier.apply(layers)))


def digest(blocks: dict[int, bytes]) -> str:
    """Of the places and bytes of all blocks that are not zero, padded to 4 KiB."""
    found = hashlib.sha256()
    for at, data in sorted(blocks.items()):
        found.update(at.to_bytes(8, "little") + bytes(data).ljust(4096, b"\0"))
    return found.hexdigest()


def normal(listing: dict[bytes, Any]) -> dict[bytes, Any]:
    """Contents as digests; the root's own time left out, which no layer need name."""
    for path, entry in listing.items():
        entry["data"] = digest(entry["data"])
        if not path:
            entry["mtime_ns"] = 0
    return listing


def judge(store: layerfs.Store, image: layerfs.Image, *, engine: str | None = None) -> dict[bytes, Any]:
    """The image's layers by the oracle = what a mount shows = what an export holds. Returns that listing."""
    saved, exported = io.BytesIO(), io.BytesIO()
    store.save([image], saved)
    expected = expected_listing(layer_tars(saved.getvalue()))
    with image.mount(engine=engine) as place:
        compare(normal(host.host_listing(place)), expected)
    image.export(exported)
    compare(expected_listing([exported.getvalue()]), expected)
    return expected


def compare(found: dict[bytes, Any], expected: dict[bytes, Any]) -> None:
    """Prints paths and fields that differ, not their bytes."""
    problems: list[Any] = list(found.keys() ^ expected.keys())
    for path in found.keys() & expected.keys():
        fields = [key for key in expected[path] if found[path][key] != expected[path][key]]
        if fields:
            problems.append((path, {k: (found[path][k], expected[path][k]) for k in fields if k != "data"} or "data"))
    assert not problems, f"{len(problems)} differ: {problems[:12]}"


def disk_files(store: Path) -> dict[str, int]:
    """All files of a store with their sizes, without the index, lock files, caches and the log of events."""
    found = {}
    for place in looking.below(store):
        name = str(place.relative_to(store))
        if not name.startswith(("index/", "locks/", "events", "cache/")) and not place.is_dir():
            found[name] = place.lstat().st_size
    return found
