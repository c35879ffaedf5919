"""Layers are had again from where they came from."""

import gzip
from pathlib import Path

import pytest

from layerfs.digest import DiffID, Digest
from layerfs.errors import LayerfsError, Unsupported
from layerfs.image.load import load_archive
from layerfs.image.rootfs import import_any
from layerfs.image.sources import open_source
from layerfs.layer.layers import Source, get_sources
from tests.unit.image.make import Layout, digest, docker_archive, tar

A = tar({"a": b"1" * 3_000_000})
DIFF = DiffID(Digest.parse(digest(A)))


def again(root, diff_id=DIFF) -> bytes:
    (source,) = get_sources(root, diff_id)
    with open_source(source, diff_id) as stream:
        return stream.read()


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_from_a_docker_archive(root, tmp_path: Path, pack) -> None:
    (tmp_path / "x.tar").write_bytes(pack(docker_archive([([A], ["x"])])))
    load_archive(root, tmp_path / "x.tar")
    assert again(root) == A


def test_from_a_layout(root, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "l")
    load_archive(root, layout.add(layout.manifest([A])).path)
    assert again(root) == A


def test_from_a_tar(root, tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_bytes(gzip.compress(A))
    import_any(root, tmp_path / "x.tgz")
    assert again(root) == A


def test_from_a_directory(root, tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top/f").write_bytes(b"1" * 3_000_000)
    (diff_id,) = import_any(root, tmp_path / "top").diff_ids
    assert digest(again(root, diff_id)) == str(diff_id)


def test_a_directory_that_is_not_read_to_its_end_ends_its_thread(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"1" * 3_000_000)
    open_source(Source("directory", str(tmp_path)), DIFF).close()


def test_what_went_away_or_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_bytes(gzip.compress(tar({"x": b""})))
    for kind in ("tar", "directory", "archive"):
        with pytest.raises(LayerfsError):
            open_source(Source(kind, str(tmp_path / "nope"), member="m"), DIFF)
    with pytest.raises(LayerfsError):
        open_source(Source("archive", str(tmp_path / "x.tgz"), member="m"), DIFF)
    with pytest.raises(Unsupported):
        open_source(Source("registry", "h.io/x"), DIFF)
