from __future__ import annotations

import errno
from pathlib import Path

import pytest

from layerfs.engine.uring import switch_uring, uring_is_on
from layerfs.errors import LayerfsError, Unsupported


def test_the_switch_is_told_and_set(tmp_path: Path) -> None:
    parameter = tmp_path / "enable_uring"
    parameter.write_text("N\n")
    assert not uring_is_on(parameter)
    switch_uring(True, parameter)
    assert parameter.read_text() == "Y"
    assert uring_is_on(parameter)
    switch_uring(False, parameter)
    assert not uring_is_on(parameter)


def test_a_kernel_without_it_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match=r"6\.14"):
        switch_uring(True, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_who_may_not_hears_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parameter = tmp_path / "enable_uring"
    parameter.write_text("N\n")

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(Path, "write_text", refuse)
    with pytest.raises(LayerfsError, match="root of the host") as caught:
        switch_uring(True, parameter)
    assert caught.value.errno == errno.EACCES
