from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from layerfs._pure.host import no_space, write_at
from layerfs.errors import NoSpace
from tests.golden.layers import CONTENTS
from tests.trees import Shelf


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int) -> None:
    def full(*_: object) -> int:
        raise OSError(number, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpace):
        Shelf(tmp_path).read(CONTENTS)
    assert list((tmp_path / "objects").iterdir()) == []


def test_other_errors_pass() -> None:
    with pytest.raises(PermissionError), no_space():
        raise PermissionError(errno.EPERM, "no")


def test_short_writes_are_gone_on_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data)[:3], at))
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    write_at(fd, b"0123456789", 5)
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == bytes(5) + b"0123456789"
