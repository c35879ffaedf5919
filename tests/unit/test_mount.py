"""mountinfo parsing, attaching and detaching."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerfs import mount
from layerfs.errors import InUse, MountError, Unsupported

LINE = rb"36 35 98:0 /mnt\0402 /at\134x\011y rw,noatime shared:1 master:2 - ext4 /dev/root\040disk rw,errors=continue"


def test_a_line_with_escapes_and_optional_fields() -> None:
    entry = mount.parse_line(LINE)
    assert (entry.id, entry.parent, entry.device) == (36, 35, "98:0")
    assert (entry.root, entry.target) == (b"/mnt 2", b"/at\\x\ty")
    assert (entry.type, entry.source, entry.super_options) == ("ext4", b"/dev/root disk", "rw,errors=continue")


def test_without_the_compiled_part_mounting_is_unsupported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mount, "_native", None)
    with pytest.raises(Unsupported, match="compiled part"):
        mount.attach("tmpfs", [], tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "a place\nwith\\strange: name"
    target.mkdir()
    yield target
    while mount.entry_of(target):
        mount.detach(target, lazy=True)


@pytest.mark.root
def test_attach_find_detach(place: Path) -> None:
    mount.attach("tmpfs", [("size", "1m"), ("source", "layerfs:test")], place, attributes=mount.READ_ONLY)
    entry = mount.entry_of(place)
    assert entry is not None and entry.source == b"layerfs:test" and entry.options.startswith("ro")
    mount.detach(place)
    assert mount.entry_of(place) is None


@pytest.mark.root
def test_a_busy_mount_is_in_use_and_says_by_whom(place: Path) -> None:
    mount.attach("tmpfs", [], place)
    with (place / "file").open("w"), pytest.raises(InUse, match=rf"\({os.getpid()}\); a lazy unmount"):
        mount.detach(place)
    mount.detach(place)


@pytest.mark.root
@pytest.mark.timeout(60)
def test_who_uses_a_mount_is_found_beside_a_file_system_that_does_not_answer(place: Path, tmp_path: Path) -> None:
    stuck = tmp_path / "stuck"
    stuck.mkdir()
    with open("/dev/fuse", "r+b", buffering=0) as device:
        options = [("fd", str(device.fileno())), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")]
        mount.attach("fuse", options, stuck)
        held = os.open(stuck, os.O_PATH)
        try:
            test_a_busy_mount_is_in_use_and_says_by_whom(place)
        finally:
            os.close(held)
            mount.detach(stuck, lazy=True)


@pytest.mark.root
def test_a_lazy_detach_works_while_busy(place: Path) -> None:
    mount.attach("tmpfs", [], place)
    with (place / "file").open("w"):
        mount.detach(place, lazy=True)
        assert mount.entry_of(place) is None


@pytest.mark.root
def test_what_is_not_mounted_is_an_error(place: Path) -> None:
    with pytest.raises(MountError):
        mount.detach(place)


@pytest.mark.root
def test_errors_say_what_the_kernel_says(place: Path) -> None:
    with pytest.raises(Unsupported, match="no file system type nonsense"):
        mount.attach("nonsense", [], place)
    with pytest.raises(MountError, match="Unknown parameter 'sze'"):
        mount.attach("tmpfs", [("sze", "1m")], place)


@pytest.mark.root
def test_a_detached_mount_is_seen_by_nobody_and_goes_with_its_descriptor(place: Path) -> None:
    fd = mount.detached("tmpfs", [("size", "1m"), ("source", "layerfs-detached")])
    assert b"layerfs-detached" not in {entry.source for entry in mount.mount_table()}
    assert os.listdir(f"/proc/self/fd/{fd}") == []
    os.close(fd)


@pytest.mark.root
def test_overlays_at_long_and_strange_paths(tmp_path: Path, place: Path) -> None:
    deep = tmp_path / ("long-" * 40) / ("path:with,\\everything " * 8)
    for name in ("lower", "upper", "work"):
        (deep / name).mkdir(parents=True)
    (deep / "lower/f").write_text("lower")
    mount.overlay(place, lower=[deep / "lower"], upper=mount.Upper(deep / "upper", deep / "work"))
    (place / "g").write_text("upper")
    assert sorted(os.listdir(place)) == ["f", "g"]
    mount.detach(place)
    assert (deep / "upper/g").read_text() == "upper"
