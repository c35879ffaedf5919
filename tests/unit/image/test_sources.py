"""Layers are had again from where they came from."""

import gzip
from functools import partial
from pathlib import Path

import pytest

from layerfs.digest import DiffID, Digest
from layerfs.errors import Unsupported
from layerfs.image.load import load_archive
from layerfs.image.rootfs import import_any
from layerfs.image.sources import layer_streams, open_source
from layerfs.layer.layers import Source, get_layer
from tests.unit.image.make import Layout, digest, docker_archive, tar

A = tar({"a": b"1" * 3_000_000})
DIFF = DiffID(Digest.parse(digest(A)))


def again(root, diff_id=DIFF) -> list[bytes]:
    """What every source gives, the kept blob first."""
    with root.leases.acquire("test") as lease:
        return [b"".join(iter(partial(stream.read, 1 << 20), b"")) for stream in streams(root, diff_id, lease)]


def streams(root, diff_id, lease):
    return layer_streams(root, get_layer(root, diff_id), lease)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_from_a_docker_archive(root, tmp_path: Path, pack) -> None:
    (tmp_path / "x.tar").write_bytes(pack(docker_archive([([A], ["x"])])))
    load_archive(root, tmp_path / "x.tar")
    assert again(root) == [A]


def test_from_a_layout_and_its_kept_blob(root, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "l")
    load_archive(root, layout.add(layout.manifest([A])).path)
    assert again(root) == [A, A]


def test_from_a_tar(root, tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_bytes(gzip.compress(A))
    import_any(root, tmp_path / "x.tgz")
    assert again(root) == [A]


def test_from_a_directory(root, tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top/f").write_bytes(b"1" * 3_000_000)
    (diff_id,) = import_any(root, tmp_path / "top").diff_ids
    (data,) = again(root, diff_id)
    assert digest(data) == str(diff_id)


def test_what_went_away_is_skipped(root, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(A)
    import_any(root, tmp_path / "x.tar")
    (tmp_path / "x.tar").unlink()
    assert again(root) == []


def test_a_kind_that_cannot_be_read_is_an_error(root) -> None:
    with root.leases.acquire("test") as lease, pytest.raises(Unsupported):
        open_source(Source("registry", "h.io/x"), lease).__enter__()
