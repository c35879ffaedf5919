"""apt-get and dpkg inside a mount give what they give in a plain directory, on each engine."""

from __future__ import annotations

import fnmatch
import io
from pathlib import Path
from typing import Any

import pytest

import layerfs
from tests.crash.world import compare, expected_listing, layer_tars, normal, said
from tests.oracle.host import host_listing
from tests.real.conftest import extract, install

pytestmark = [pytest.mark.root, pytest.mark.slow]

# What two installs into two plain directories differ in, too: logs with times, caches, times of what was made now.
OTHER_BYTES = ["/var/log/*", "/var/cache/ldconfig/aux-cache", "/var/cache/apt/*.bin"]


def different(found: dict[bytes, Any], wanted: dict[bytes, Any], before: dict[bytes, Any]) -> list[Any]:
    """What differs but should not. Times count for all that a package or the image brought."""
    problems: list[Any] = [f"only in one: {path!r}" for path in found.keys() ^ wanted.keys()]
    for path in found.keys() & wanted.keys():
        fields = {key for key in wanted[path] if found[path][key] != wanted[path][key]}
        if any(fnmatch.fnmatch(path.decode(errors="replace"), pattern) for pattern in OTHER_BYTES):
            fields -= {"data", "size", "mtime_ns"}
        made_now = [side[path]["mtime_ns"] > 1_760_000_000 * 10**9 for side in (found, wanted)]
        if all(made_now):
            fields -= {"mtime_ns"}
        if fields:
            problems.append((path, {k: (found[path][k], wanted[path][k]) for k in fields - {"data"}} or "data"))
    return problems


@pytest.fixture(scope="module")
def plain(debian: Path, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """Listings of a plain directory before and after the install."""
    root = extract(debian, tmp_path_factory.mktemp("plain"))
    before = normal(host_listing(root))
    install(root, packages)
    after = normal(host_listing(root))
    assert after[b"/usr/bin/ping"]["xattrs"]
    assert b"/usr/bin/hello" in after
    return before, after


@pytest.mark.parametrize("engine", ["kernel", "native", "python"])
def test_apt_in_a_mount(
    engine: str, plain: tuple[Any, Any], debian: Path, packages: Path, store: layerfs.Store
) -> None:
    base = store.import_archive(debian, tag="debian:1")
    box = store.create(base, name="box")
    with box.mount(engine=engine) as root:
        install(root, packages)
        mounted = normal(host_listing(root))
    assert different(mounted, plain[1], plain[0]) == []
    with box.mount(engine="python" if engine == "kernel" else "kernel") as root:
        compare(normal(host_listing(root)), mounted)
    image = box.commit("debian:2")
    out = io.BytesIO()
    image.save(out)
    layers = layer_tars(out.getvalue())
    assert len(layers) == 2
    compare(expected_listing(layers), mounted)
    with image.mount(engine="kernel") as root:
        compare(normal(host_listing(root)), mounted)
    changed = {change.path: change.kind for change in box.diff()}
    assert changed["/usr/bin/hello"] == "A"
    assert changed["/var/lib/dpkg/status"] == "C"
    assert {path.encode() for path, kind in changed.items() if kind == "A"} == mounted.keys() - plain[0].keys()
    assert {path.encode() for path, kind in changed.items() if kind == "D"} >= set()
    assert store.fsck() == []


def test_run_with_the_hosts_network(debian: Path, packages: Path, store: layerfs.Store) -> None:
    """`layerfs run --network host … apt-get` asks the registry and installs."""
    store.import_archive(debian, tag="debian:1")
    path = store.path
    script = "apt-get -q update && apt-get -qy --no-install-recommends install hello && hello"
    code, out, err = said(path, "run", "--network", "host", "--name", "net", "debian:1", "sh", "-c", script)
    if code and ("Temporary failure" in err + out or "Could not" in err + out):
        pytest.skip(f"Debian's registry cannot be reached: {err[-300:]}")
    assert code == 0, err
    assert said(path, "commit", "net", "debian:net")[0] == 0
    code, out, err = said(path, "run", "--rm", "debian:net", "hello")
    assert code == 0, err
    assert said(path, "fsck") == (0, "the store is clean\n", "")
