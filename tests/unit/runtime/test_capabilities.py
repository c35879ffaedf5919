"""Capability sets by docker's rules."""

import pytest

from layerfs.errors import InvalidInput
from layerfs.runtime.capabilities import DEFAULT, NAMES, all_known, choose

_TEXT = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL "
    "AUDIT_WRITE"
)
FOURTEEN = _TEXT.split()


def test_the_default_set_is_dockers():
    assert choose() == DEFAULT == sum(1 << NAMES.index(name) for name in FOURTEEN)


def test_drop_all_then_add_one():
    assert choose(["CHOWN"], ["ALL"]) == 1


def test_names_in_any_case_with_or_without_prefix():
    assert choose(["cap_sys_admin"]) == choose(["SYS_ADMIN"]) == DEFAULT | 1 << 21


def test_drop_one():
    assert choose((), ["MKNOD"]) == DEFAULT & ~(1 << 27)


def test_add_all_but_one():
    assert choose(["ALL"], ["CHOWN"]) == all_known() & ~1


def test_privileged_is_everything_the_kernel_knows():
    assert choose(privileged=True) == all_known() >= (1 << 41) - 1


def test_an_unknown_name_is_an_error():
    with pytest.raises(InvalidInput, match='invalid CapAdd: unknown capability: "FLY"'):
        choose(["FLY"])
