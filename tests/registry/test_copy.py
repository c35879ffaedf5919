"""Copies without a store, with skopeo as the judge."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from layerfs.errors import AlreadyExists, ImageNotFound, InvalidArchive, InvalidInput, LayerfsError, RegistryNotFound
from layerfs.oci import Platform, media
from layerfs.registry.connect import Registries
from layerfs.registry.copy import Copied, copy
from layerfs.registry.places import Place
from tests.registry import hostile
from tests.registry.servers import Registry, get
from tests.registry.test_push import skopeo
from tests.unit.image import make

Copy = Callable[..., Copied]


@pytest.fixture
def copied(registries: Registries) -> Copy:
    def copy_one(source: str, target: str, **how: object) -> Copied:
        return copy(Place.parse(source), Place.parse(target), registries, **how)  # type: ignore[arg-type]

    return copy_one


def digest_of(path: Path) -> str:
    found: str = json.loads((path / "index.json").read_bytes())["manifests"][0]["digest"]
    return found


def test_around_the_places_nothing_changes(
    image_layout: Path, plain: Registry, repository: str, copied: Copy, tmp_path: Path
) -> None:
    here, there = f"docker://{plain.host}/{repository}:1", f"docker://{plain.host}/{repository}/other:2"
    steps = [f"oci:{image_layout}", here, there, f"oci-archive:{tmp_path}/a.tar:x", f"oci:{tmp_path}/back"]
    for source, target in itertools.pairwise(steps):
        assert str(copied(source, target).digest) == digest_of(image_layout)
    assert digest_of(tmp_path / "back") == digest_of(image_layout)


def test_skopeo_and_we_write_the_same_blobs(
    image_layout: Path, plain: Registry, repository: str, copied: Copy, tmp_path: Path
) -> None:
    copied(f"oci:{image_layout}", f"docker://{plain.host}/{repository}:1")
    skopeo("copy", "--src-tls-verify=false", f"docker://{plain.host}/{repository}:1", f"oci:{tmp_path}/theirs:1")
    copied(f"docker://{plain.host}/{repository}:1", f"oci:{tmp_path}/ours:1")
    names = {side: {p.name for p in (tmp_path / side / "blobs/sha256").iterdir()} for side in ("ours", "theirs")}
    assert names["ours"] == names["theirs"]


def test_skopeo_takes_our_archives(image_layout: Path, copied: Copy, tmp_path: Path) -> None:
    copied(f"oci:{image_layout}", f"docker-archive:{tmp_path}/a.tar:app:2")
    copied(f"docker-archive:{tmp_path}/a.tar:app:2", f"oci:{tmp_path}/again")
    config = json.loads(skopeo("inspect", "--config", "--raw", f"docker-archive:{tmp_path}/a.tar"))
    assert config == json.loads(skopeo("inspect", "--config", "--raw", f"oci:{tmp_path}/again"))


def test_a_whole_index_is_copied_with_all_that_belongs_to_it(
    index_layout: Path, plain: Registry, repository: str, copied: Copy, tmp_path: Path
) -> None:
    name = f"docker://{plain.host}/{repository}:all"
    result = copied(f"oci:{index_layout}:all", name, everything=True, referrers=True)
    assert result.manifests == 4
    copied(name, f"oci:{tmp_path}/back", everything=True, referrers=True)
    blobs = [{p.name for p in (place / "blobs/sha256").iterdir()} for place in (index_layout, tmp_path / "back")]
    assert blobs[0] == blobs[1]


def test_one_platform_is_taken_from_an_index(index_layout: Path, copied: Copy, tmp_path: Path) -> None:
    one = copied(f"oci:{index_layout}:all", f"oci:{tmp_path}/one", platform=Platform("linux", "s390x"))
    assert (one.manifests, str(one.digest)) == (1, digest_of(index_layout))
    with pytest.raises(RegistryNotFound, match="no matching manifest for linux/riscv64"):
        copied(f"oci:{index_layout}:all", f"oci:{tmp_path}/none", platform=Platform("linux", "riscv64"))


def test_damaged_blobs_are_not_copied(
    image_layout: Path, plain: Registry, repository: str, copied: Copy, tmp_path: Path
) -> None:
    manifest = json.loads((image_layout / "blobs/sha256" / digest_of(image_layout)[7:]).read_bytes())
    layer = image_layout / "blobs/sha256" / manifest["layers"][0]["digest"][7:]
    whole = layer.read_bytes()
    data = bytearray(whole)
    data[len(data) // 2] ^= 1
    layer.chmod(0o600)
    layer.write_bytes(data)
    for target in (f"docker://{plain.host}/{repository}:1", f"oci:{tmp_path}/x", f"oci-archive:{tmp_path}/x.tar"):
        with pytest.raises(LayerfsError, match="digest"):
            copied(f"oci:{image_layout}", target)
    with pytest.raises(Exception, match="404"):
        get(plain.host, f"/v2/{repository}/manifests/1")
    assert not (tmp_path / "x.tar").exists() and not (tmp_path / "x/oci-layout").exists()
    layer.write_bytes(whole)
    copied(f"oci:{image_layout}", f"oci:{tmp_path}/x:1")  # what the failed one has left is gone on with
    copied(f"oci:{tmp_path}/x:1", f"oci:{tmp_path}/y")


def test_what_is_wrong_in_an_image_is_said_of_it(copied: Copy, tmp_path: Path) -> None:
    with hostile.Registry() as registry:
        source, target = f"docker://{registry.host}/app:1", f"docker-archive:{tmp_path}/x.tar"
        registry.manifest("app:1", {"config": registry.put(b"{}", media.OCI_CONFIG), "layers": []})
        with pytest.raises(InvalidArchive, match=rf"^{source}: config sha256:\w+\.rootfs is missing$"):
            copied(source, target)
        config = registry.put(make.config([b"a"]), media.OCI_CONFIG)
        layer = registry.put(gzip.compress(b"a")[:-4], media.OCI_LAYER_GZIP)
        registry.manifest("app:1", {"config": config, "layers": [layer]})
        with pytest.raises(InvalidArchive, match=rf"^{source}: layer {layer['digest']}: truncated gzip stream$"):
            copied(source, target)


def test_a_target_that_cannot_be_is_named(image_layout: Path, copied: Copy) -> None:
    with pytest.raises(FileNotFoundError, match=r"'/no/such/a\.tar'"):
        copied(f"oci:{image_layout}", "oci-archive:/no/such/a.tar:1")


@pytest.mark.parametrize("text", ["", "app:1", "oci:", "docker:app", "dir:/x", "oci::x", "docker-archive:"])
def test_places_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput, match="want docker://NAME"):
        Place.parse(text)


def test_what_is_not_there_is_said(index_layout: Path, copied: Copy, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFound, match="no image 'none' in the layout"):
        copied(f"oci:{index_layout}:none", f"oci:{tmp_path}/x")
    with pytest.raises(InvalidInput, match="holds 3 images, name one"):
        copied(f"oci:{index_layout}", f"oci:{tmp_path}/x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(AlreadyExists):
        copied(f"oci:{index_layout}:1", f"oci:{tmp_path}/full")


def test_a_layout_grows(index_layout: Path, copied: Copy, tmp_path: Path) -> None:
    """As skopeo has it: a tag that is there moves, the others stay."""
    tags = []
    for side in ("ours", "theirs"):
        for source, tag in (("1", "a"), ("1", "b"), ("all", "a")):
            places = f"oci:{index_layout}:{source}", f"oci:{tmp_path}/{side}:{tag}"
            copied(*places, everything=True) if side == "ours" else skopeo("copy", "-q", "--all", *places)
        entries = json.loads((tmp_path / side / "index.json").read_bytes())["manifests"]
        named = [
            (e["annotations"]["org.opencontainers.image.ref.name"], e["digest"]) for e in entries if "annotations" in e
        ]
        tags.append(sorted(named))
    assert len(json.loads((tmp_path / "ours/index.json").read_bytes())["manifests"]) == 2
    assert tags[0] == tags[1] and len(tags[0]) == 2
    copied(f"oci:{tmp_path}/ours:b", f"oci-archive:{tmp_path}/again.tar")


def test_what_a_layout_has_wrong_is_written_anew(image_layout: Path, copied: Copy, tmp_path: Path) -> None:
    copied(f"oci:{image_layout}", f"oci:{tmp_path}/x:1")
    index = (tmp_path / "x/index.json").read_bytes()
    blobs = {path: path.read_bytes() for path in (tmp_path / "x/blobs/sha256").iterdir()}
    for path, data in blobs.items():
        path.write_bytes(bytes(len(data)))
    copied(f"oci:{image_layout}", f"oci:{tmp_path}/x:1")
    assert {path: path.read_bytes() for path in (tmp_path / "x/blobs/sha256").iterdir()} == blobs
    assert (tmp_path / "x/index.json").read_bytes() == index
    (tmp_path / "x/index.json").write_bytes(b"[]")
    with pytest.raises(InvalidArchive):
        copied(f"oci:{image_layout}", f"oci:{tmp_path}/x:2")
    (tmp_path / "tree").mkdir()
    with pytest.raises(InvalidArchive, match="not an OCI layout"):
        copied(f"oci:{tmp_path}/tree", f"oci:{tmp_path}/x")
