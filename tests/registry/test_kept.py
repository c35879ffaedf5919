"""Which compressed layers a pull keeps, and that one that it does not keep goes on byte for byte all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from layerfs import Image, Store
from layerfs.digest import Digest
from layerfs.errors import LayerfsError, NotFound
from layerfs.registry.config import Settings
from tests.registry import hostile, servers
from tests.registry.test_pull import CHANCE
from tests.unit.image.make import CONFIG, digest, tar

FILES = {f"f{number}": CHANCE.randbytes(20_000) for number in range(20)}
BASE = tar(FILES)
VARIANT = tar({**FILES, "f7": b"other"})
VARIANT_ID = digest(VARIANT).encode()


@pytest.fixture
def origin() -> Iterator[hostile.Registry]:
    with hostile.Registry() as opened:
        opened.image("base:1", [BASE])
        opened.image("variant:1", [VARIANT])
        yield opened


@pytest.fixture
def store(tmp_path: Path, origin: hostile.Registry, settings: Settings) -> Iterator[Store]:
    """It has the base."""
    with Store(tmp_path / "store") as opened:
        opened.pull(f"{origin.host}/base:1", settings=settings)
        yield opened


def kept(image: Image) -> bool:
    (layer,) = image.layers
    return layer.blob is not None and image.store.root.blobs.has(layer.blob.digest)


def test_the_first_layer_is_kept(store: Store, origin: hostile.Registry) -> None:
    assert kept(store.image(f"{origin.host}/base:1"))


def test_a_layer_of_which_most_is_there_is_not_kept(store: Store, origin: hostile.Registry, settings: Settings) -> None:
    size = sum(path.stat().st_size for path in (store.path / "blobs").rglob("*"))
    image = store.pull(f"{origin.host}/variant:1", settings=settings)
    assert not kept(image)
    assert sum(path.stat().st_size for path in (store.path / "blobs").rglob("*")) - size < 5000
    assert list((store.path / "partial").iterdir()) == []
    assert store.fsck() == []
    store.gc()
    assert store.fsck() == []


@pytest.mark.parametrize(("keep", "expected"), [("always", True), ("never", False)])
def test_what_is_kept_can_be_told(
    store: Store, origin: hostile.Registry, settings: Settings, keep: str, expected: bool
) -> None:
    told = replace(settings, keep_blobs=keep)
    assert kept(store.pull(f"{origin.host}/variant:1", settings=told)) is expected
    origin.image("new:1", [tar({"new": CHANCE.randbytes(200_000)})])
    assert kept(store.pull(f"{origin.host}/new:1", settings=told)) is expected
    assert store.fsck() == []


def test_what_is_not_kept_is_verified(store: Store, origin: hostile.Registry, settings: Settings) -> None:
    """Zeros after the compressed stream, which are allowed, change nothing but its digest and size."""
    (layer,) = json.loads(origin.manifests["variant", "1"][1])["layers"]
    origin.blobs[layer["digest"]] += bytes(9)
    with pytest.raises(LayerfsError, match="size mismatch"):
        store.pull(f"{origin.host}/variant:1", settings=settings)
    told = {**layer, "size": layer["size"] + 9}
    (config,) = (blob for name, blob in origin.blobs.items() if VARIANT_ID in blob)
    origin.manifest("lie:1", {"config": origin.put(config, CONFIG), "layers": [told]})
    with pytest.raises(LayerfsError, match="digest mismatch"):
        store.pull(f"{origin.host}/lie:1", settings=settings)
    assert len(store.images()) == 1


def test_it_goes_on_byte_for_byte_from_where_it_came(
    store: Store, origin: hostile.Registry, settings: Settings, plain: servers.Registry, repository: str
) -> None:
    image = store.pull(f"{origin.host}/variant:1", settings=settings)
    there = f"{plain.host}/{repository}:1"
    store.tag(image.id, there)
    (pushed,) = store.push(there, settings=settings)
    assert pushed.digest == image.digest
    assert [layer.sent.how for layer in pushed.layers] == ["sent"]
    assert Digest.of(servers.get(plain.host, f"/v2/{repository}/manifests/1")) == image.digest


def test_a_mirror_of_where_it_came_from_will_do(
    store: Store, origin: hostile.Registry, settings: Settings, plain: servers.Registry, repository: str
) -> None:
    image = store.pull(f"{origin.host}/variant:1", settings=settings)
    there = f"{plain.host}/{repository}:1"
    store.tag(image.id, there)
    with hostile.Registry() as mirror:
        mirror.image("variant:1", [VARIANT])
        origin.tricks.append(lambda ask: ask.refuse(404, "BLOB_UNKNOWN") is None)
        mirrored = replace(settings, mirrors={origin.host: (f"http://{mirror.host}",)})
        (pushed,) = store.push(there, settings=mirrored)
    assert pushed.digest == image.digest


def test_without_its_origin_it_is_compressed_anew(
    store: Store, origin: hostile.Registry, settings: Settings, plain: servers.Registry, repository: str
) -> None:
    image = store.pull(f"{origin.host}/variant:1", settings=settings)
    origin.tricks.append(lambda ask: ask.drop())
    there = f"{plain.host}/{repository}:1"
    store.tag(image.id, there)
    with pytest.raises(NotFound, match="neither kept as pulled nor in a registry pulled from any more"):
        store.push(there, exact=True, settings=settings)
    (pushed,) = store.push(there, settings=settings)
    assert pushed.digest != image.digest
    assert (pushed.instead_of, pushed.reason[:6]) == (image.digest, "layer ")
    with Store(store.path.parent / "other") as other:
        assert other.pull(there, settings=settings).id == image.id


def test_always_fetches_the_blob_of_a_layer_that_is_there_without_one(
    store: Store, origin: hostile.Registry, settings: Settings, plain: servers.Registry, repository: str
) -> None:
    image = store.pull(f"{origin.host}/variant:1", settings=settings)
    store.pull(f"{origin.host}/variant:1", settings=replace(settings, keep_blobs="always"))
    store.gc()
    assert store.fsck() == []
    origin.tricks.append(lambda ask: ask.drop())
    there = f"{plain.host}/{repository}:1"
    store.tag(image.id, there)
    (pushed,) = store.push(there, exact=True, settings=settings)
    assert (pushed.digest, pushed.instead_of) == (image.digest, None)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_what_layerfs_compressed_is_rebuilt_byte_for_byte(
    tmp_path: Path, settings: Settings, plain: servers.Registry, repository: str, compression: str
) -> None:
    name, there = f"{plain.host}/{repository}:1", f"{plain.host}/{repository}-other:1"
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "f").write_bytes(CHANCE.randbytes(3 << 20) + bytes(1 << 20))
    with Store(tmp_path / "maker") as maker:
        maker.import_archive(tree, tag=name)
        maker.push(name, compression=compression, settings=settings)
    with Store(tmp_path / "other") as other:
        image = other.pull(name, settings=replace(settings, keep_blobs="never"))
        other.tag(image.id, there)
        delete_blobs(plain, image)
        (pushed,) = other.push(there, exact=True, settings=settings)
    assert (pushed.digest, [layer.sent.how for layer in pushed.layers]) == (image.digest, ["sent"])


def delete_blobs(registry: servers.Registry, image: Image) -> None:
    """From the registry's disk: it has the layers nowhere any more."""
    for blob in image.record.layer_blobs:
        shutil.rmtree(registry.root / "docker/registry/v2/blobs/sha256" / blob.hex[:2] / blob.hex)
