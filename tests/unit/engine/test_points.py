"""Mount points of a run come and go, never through a link, and never what somebody else made."""

from __future__ import annotations

import os

import pytest

from layerfs.engine.points import clear_points, make_points

ALL = [b"proc", b"dev", b"sys", b"etc", b"etc/resolv.conf", b"etc/hostname", b"etc/hosts"]


def names(place):
    return sorted(path.name for path in place.iterdir())


@pytest.fixture
def root(tmp_path):
    place = tmp_path / "root"
    place.mkdir()
    os.utime(place, ns=(1, 1))
    return place


def test_they_go_without_a_trace(root):
    assert sorted(make_points(root)) == sorted(ALL)
    assert root.stat().st_mtime_ns == 1
    clear_points(root, ALL)
    assert (list(root.iterdir()), root.stat().st_mtime_ns) == ([], 1)


def test_what_was_there_is_not_ours(root):
    (root / "dev").mkdir()
    assert b"dev" not in make_points(root)


def test_what_was_filled_stays(root):
    made = make_points(root)
    (root / "etc/hosts").write_text("mine")
    (root / "dev/node").touch()
    clear_points(root, made)
    assert names(root) == ["dev", "etc"]
    assert names(root / "etc") == ["hosts"]


def test_links_out_of_the_root_are_not_followed(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "hosts").touch()
    (root / "etc").symlink_to(outside)
    assert b"etc/hostname" not in make_points(root)
    clear_points(root, ALL)
    assert names(outside) == ["hosts"]
