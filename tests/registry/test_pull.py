"""Pulling from a registry that behaves: what is fetched, what is not, and what is in the store afterwards."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layerfs import Store
from layerfs.digest import Digest
from layerfs.engine.pulling import pull, tags_to_pull
from layerfs.errors import InvalidArchive, RegistryNotFound
from layerfs.image.record import read_tag
from layerfs.reference import Reference
from layerfs.registry.config import Settings
from tests.registry.hostile import Registry
from tests.registry.servers import QUICK
from tests.unit.image.make import docker_archive, tar

CHANCE = random.Random(0)
BASE = tar({"etc": None, "etc/motd": b"hello\n", "big": CHANCE.randbytes(300_000), "link": "etc/motd"})
TOP = tar({"etc/more": b"more\n", "usr": None, "usr/data": CHANCE.randbytes(50_000)})


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as opened:
        yield opened


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as opened:
        yield opened


def names(image: Any) -> set[str]:
    return {line.split()[0] for line in image.store.tree_text(image.id)}


@pytest.mark.parametrize("form", ["gzip", "zstd", "plain"])
def test_an_image_has_the_files_of_its_layers(registry: Registry, store: Store, form: str) -> None:
    registry.image("team/app:1", [BASE, TOP], form=form)
    image = store.pull(f"{registry.host}/team/app:1")
    assert {"/etc/motd", "/etc/more", "/big", "/usr/data"} <= names(image)
    assert image.tags == (f"{registry.host}/team/app:1",)
    assert store.fsck() == []


def test_docker_schema_2(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE], docker=True)
    assert "/etc/motd" in names(store.pull(f"{registry.host}/app:1"))


def test_the_manifest_is_kept_byte_for_byte(registry: Registry, store: Store) -> None:
    entry = registry.image("app:1", [BASE])
    image = store.pull(f"{registry.host}/app:1")
    assert image.digest == entry["digest"]
    assert store.root.blobs.read(Digest.parse(entry["digest"])) == registry.manifests["app", "1"][1]
    assert all(store.root.blobs.has(layer.blob.digest) for layer in image.layers if layer.blob)


def test_nothing_is_fetched_twice(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE, TOP])
    name = f"{registry.host}/app:1"
    first = pull(store, name)
    registry.forget()
    again = pull(store, name)
    assert (first.changed, again.changed) == (True, False)
    assert [method for method, path in registry.log if "/v2/app" in path] == ["HEAD"]


def test_a_layer_that_another_image_brought_is_not_fetched(registry: Registry, store: Store) -> None:
    registry.image("one:1", [BASE])
    registry.image("two:1", [BASE, TOP])
    store.pull(f"{registry.host}/one:1")
    registry.forget()
    store.pull(f"{registry.host}/two:1")
    assert len(registry.fetched()) == 2  # the config and one layer


def test_a_layer_that_came_from_an_archive_is_not_fetched(registry: Registry, store: Store, tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(docker_archive([([BASE], ["x:1"])]))
    store.load(tmp_path / "image.tar")
    registry.image("app:1", [BASE])
    image = store.pull(f"{registry.host}/app:1")
    assert set(registry.fetched()) <= registry.configs
    assert "/etc/motd" in names(image)


def test_a_tag_that_moved_is_pulled_anew(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE])
    old = store.pull(f"{registry.host}/app:1")
    registry.image("app:1", [BASE, TOP])
    new = pull(store, f"{registry.host}/app:1")
    assert new.changed
    assert new.image.id != old.record.id
    assert old.tags == ()


@pytest.mark.parametrize("status", [400, 403, 405, 500])
def test_a_registry_that_does_not_answer_to_head(registry: Registry, store: Store, status: int) -> None:
    registry.image("app:1", [BASE])
    registry.tricks.append(lambda ask: ask.command == "HEAD" and ask.other(b"", "text/plain", status))
    assert [pull(store, f"{registry.host}/app:1", settings=Settings(limits=QUICK)).changed for _ in range(2)] == [
        True,
        False,
    ]


def test_names_of_docker_hub_are_short(registry: Registry, store: Store) -> None:
    entry = registry.image("library/app:latest", [BASE])
    store.pull("app", settings=Settings(mirrors={"docker.io": (f"http://{registry.host}",)}))
    found = store.inspect("index.docker.io/library/app")
    assert (found["RepoTags"], found["RepoDigests"]) == (["app:latest"], [f"app@{entry['digest']}"])


def test_by_digest(registry: Registry, store: Store) -> None:
    entry = registry.image("app:1", [BASE])
    name = f"{registry.host}/app@{entry['digest']}"
    image = store.pull(name)
    assert store.image(name) == image
    registry.forget()
    assert not pull(store, name).changed
    assert registry.log == []


def test_the_registrys_digest_names_the_image_too(registry: Registry, store: Store) -> None:
    entry = registry.image("app:1", [BASE])
    image = store.pull(f"{registry.host}/app:1")
    assert store.inspect(image.id)["RepoDigests"] == [f"{registry.host}/app@{entry['digest']}"]


def many(registry: Registry) -> dict[str, Any]:
    """An index of two platforms and an attestation."""
    arm = registry.image("app", [TOP], architecture="arm64")
    amd = registry.image("app", [BASE])
    statement = registry.put(b'{"_type":"https://in-toto.io/Statement/v0.1"}', "application/vnd.in-toto+json")
    own = registry.put(b'{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":[]}}', "x")
    own["mediaType"] = "application/vnd.oci.image.config.v1+json"
    proof = registry.manifest("app", {"config": own, "layers": [statement]})
    return registry.index(
        "app:1",
        [
            arm | {"platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
            amd | {"platform": {"os": "linux", "architecture": "amd64"}},
            proof | {"platform": {"os": "unknown", "architecture": "unknown"}},
        ],
    )


def test_the_platform_is_chosen(registry: Registry, store: Store) -> None:
    entry = many(registry)
    here = pull(store, f"{registry.host}/app:1", platform="linux/amd64")
    there = pull(store, f"{registry.host}/app:1", platform="linux/arm64")
    assert (here.image.platform.architecture, there.image.platform.architecture) == ("amd64", "arm64")
    assert here.digest == there.digest == entry["digest"]
    with pytest.raises(RegistryNotFound, match="no matching manifest for linux/s390x"):
        store.pull(f"{registry.host}/app:1", platform="linux/s390x")


def test_all_platforms_keep_the_index_and_its_attestations(registry: Registry, store: Store) -> None:
    entry = many(registry)
    pulled = pull(store, f"{registry.host}/app:1", platform="linux/amd64", all_platforms=True)
    assert len(pulled.images) == 2
    store.gc()
    with store.root.index.view() as txn:
        tag = read_tag(txn, Reference.parse(f"{registry.host}/app:1"))
    assert tag is not None
    assert tag.index == entry["digest"]
    for (_, reference), (_, raw) in registry.manifests.items():
        if ":" in reference:
            assert store.root.blobs.read(Digest.parse(reference)) == raw
    assert all(store.root.blobs.has(Digest.parse(name)) for name in registry.blobs)


def test_what_an_index_names_beside_manifests_goes_with_it(registry: Registry, store: Store) -> None:
    image = registry.image("app", [BASE]) | {"platform": {"os": "linux", "architecture": "amd64"}}
    other, lost = registry.put(b"anything", "application/x-any"), {"mediaType": "application/x-lost", "size": 1}
    entry = registry.index("app:1", [image, other, lost | {"digest": "sha256:" + "0" * 64}])
    pulled = pull(store, f"{registry.host}/app:1", platform="linux/amd64", all_platforms=True)
    assert str(pulled.digest) == entry["digest"]
    store.gc()
    assert store.root.blobs.read(Digest.parse(other["digest"])) == b"anything"


def test_a_platform_that_a_single_image_does_not_have(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE], architecture="arm64")
    with pytest.raises(RegistryNotFound, match="does not match the specified platform"):
        store.pull(f"{registry.host}/app:1", platform="linux/amd64")
    assert store.pull(f"{registry.host}/app:1").config.platform.architecture == "arm64"


def test_a_foreign_layer_comes_from_its_url(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE, TOP])
    document = json.loads(registry.manifests["app", "1"][1])
    layer = document["layers"][1]
    registry.blobs["elsewhere"] = registry.blobs.pop(layer["digest"])
    layer["mediaType"] = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    layer["urls"] = [f"http://{registry.host}/v2/other/blobs/elsewhere"]
    registry.manifest("app:1", document)
    assert "/usr/data" in names(store.pull(f"{registry.host}/app:1"))


def test_an_artifact_is_no_image(registry: Registry, store: Store) -> None:
    own = registry.put(b"{}", "application/vnd.oci.empty.v1+json")
    registry.manifest("chart:1", {"config": own, "layers": [registry.put(b"x", "text/plain")]})
    with pytest.raises(InvalidArchive, match="not an image: its config is"):
        store.pull(f"{registry.host}/chart:1")


def test_all_tags(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE])
    registry.image("app:2", [TOP])
    registry.index(f"app:sha256-{0:064}", [])  # what lists referrers where there is no API for them
    assert [each.tag for each in tags_to_pull(f"{registry.host}/app")] == ["1", "2"]


def test_progress_is_told_of_each_blob(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE, TOP])
    told: dict[str, list[str]] = {}
    store.pull(f"{registry.host}/app:1", progress=lambda r: told.setdefault(r.id, []).append(r.kind))
    layers = [each for each in registry.blobs if each not in registry.configs]
    for layer in layers:
        assert {"download", "downloaded", "read", "done"} <= set(told[layer])
    told.clear()
    registry.image("app:2", [BASE, TOP], created="2024-01-01T00:00:00Z")
    store.pull(f"{registry.host}/app:2", progress=lambda r: told.setdefault(r.id, []).append(r.kind))
    assert all(told[layer] == ["exists"] for layer in layers)


def test_two_processes_fetch_each_blob_once(registry: Registry, store: Store, tmp_path: Path) -> None:
    registry.image("app:1", [BASE, TOP, tar({"third": CHANCE.randbytes(100_000)})])
    held = registry.closing  # an event that nobody sets: waits a moment
    registry.tricks.append(lambda ask: bool(ask.is_blob and held.wait(0.05)))
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with Store(tmp_path / "store") as own:
                    own.pull(f"{registry.host}/app:1")
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    assert sorted(registry.fetched()) == sorted(registry.blobs)
    assert "/third" in names(store.image(f"{registry.host}/app:1"))


def test_an_image_with_the_same_layer_twice(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE, TOP, BASE])
    assert "/usr/data" in names(store.pull(f"{registry.host}/app:1"))
    assert len(registry.fetched()) == 3


def test_a_store_that_lost_a_tree_gets_it_from_its_blob(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE])
    image = store.pull(f"{registry.host}/app:1")
    store.root.tree_path("layer", image.layers[0].diff_id.hex).unlink()
    registry.forget()
    store.pull(f"{registry.host}/app:1")
    assert registry.fetched() == []
    assert store.fsck() == []


def test_an_interrupted_pull_leaves_nothing_but_partial_blobs(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE, TOP])
    registry.tricks.append(lambda ask: ask.is_layer and ask.drip(registry.blobs[ask.reference], 0.01))

    def interrupt(record: Any) -> None:
        if record.kind == "download" and record.current > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.pull(f"{registry.host}/app:1", progress=interrupt)
    assert store.root.leases.records() == []
    assert store.images() == []
    assert {path.parent.name for path in store.path.rglob("*") if path.is_file()} <= {
        "partial",
        "locks",
        "index",
        "store",
    }


def test_fsck_fetches_only_what_is_bad(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE, TOP])
    image = store.pull(f"{registry.host}/app:1")
    blob = image.layers[1].blob
    assert blob is not None
    path = store.root.blobs.blob_path(blob.digest)
    path.chmod(0o600)
    path.write_bytes(b"bad")
    registry.forget()
    assert all(problem.repaired for problem in store.fsck(repair=True))
    assert store.fsck() == []
    assert set(registry.fetched()) == {str(blob.digest)}


def test_fsck_fetches_configs_and_manifests(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE])
    image = store.pull(f"{registry.host}/app:1")
    for digest in (image.record.id, image.digest):
        assert digest is not None
        store.root.blobs.blob_path(digest).unlink()
    assert store.fsck() != []
    store.fsck(repair=True)
    assert store.fsck() == []


def test_fsck_fetches_contents_whose_blob_is_gone_too(registry: Registry, store: Store) -> None:
    registry.image("app:1", [BASE, TOP])
    image = store.pull(f"{registry.host}/app:1")
    blob = image.layers[0].blob
    assert blob is not None
    store.root.blobs.blob_path(blob.digest).unlink()
    (found,) = [path for path in (store.path / "objects").rglob("*") if path.is_file()]
    found.chmod(0o600)
    found.write_bytes(b"x" * found.stat().st_size)
    registry.forget()
    store.fsck(repair=True)
    assert store.fsck() == []
    assert set(registry.fetched()) == {str(blob.digest)}


def test_gc_keeps_partial_blobs_for_a_day(store: Store) -> None:
    place = store.path / "partial"
    place.mkdir()
    new, old = place / ("a" * 64), place / ("b" * 64)
    for path in (new, old):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    store.gc()
    assert [path.name for path in place.iterdir()] == [new.name]
