"""Users, capabilities, no_new_privs, limits."""

import resource

import pytest

from layerfs.errors import RunError
from layerfs.runtime.spec import Limit


def status(box, **options):
    text = box("cat /proc/self/status", **options).stdout.decode()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def masks(found):
    return [int(found[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapInh", "CapAmb")]


def test_root_has_dockers_capabilities(box):
    assert masks(status(box)) == [0xA80425FB, 0xA80425FB, 0xA80425FB, 0, 0]


def test_another_user_has_only_the_bounding_set(box):
    assert masks(status(box, user="bob")) == [0, 0, 0xA80425FB, 0, 0]


def test_added_and_dropped_capabilities(box):
    assert masks(status(box, cap_add=["CHOWN"], cap_drop=["ALL"]))[:3] == [1, 1, 1]


def test_privileged_is_everything(box):
    found = masks(status(box, privileged=True))
    assert found[0] == found[1] == found[2] >= (1 << 40)


def test_no_new_privs_is_an_option(box):
    assert status(box)["NoNewPrivs"] == "0"
    assert status(box, no_new_privileges=True)["NoNewPrivs"] == "1"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("bob", b"1000 1001 1001 50 /home/bob"),
        ("1000", b"1000 1001 1001 50 /home/bob"),
        ("bob:staff", b"1000 50 50 /home/bob"),
        ("1234:99", b"1234 99 99 /"),
        ("1234", b"1234 0 0 /"),
        (None, b"0 0 0 /root"),
    ],
)
def test_users(box, user, expected):
    assert box("echo $(id -u) $(id -g) $(id -G) $HOME", user=user).stdout.strip() == expected


def test_the_images_user_is_the_default(box):
    assert box("id -u", config={"User": "bob"}).stdout == b"1000\n"


def test_an_unknown_user_is_125(box):
    with pytest.raises(RunError, match="unable to find user nobodyx: no matching entries in passwd file") as caught:
        box("true", user="nobodyx")
    assert caught.value.exit_code == 125


def test_limits(box):
    result = box("ulimit -n; ulimit -H -n", limits=[Limit(resource.RLIMIT_NOFILE, 77, 99)])
    assert result.stdout == b"77\n99\n"


def test_a_user_may_work_in_a_directory_that_only_root_may_enter(box, root):
    (root / "secret").mkdir(mode=0o700)
    assert box("pwd", user="bob", workdir="/secret").stdout == b"/secret\n"
    assert b"ermission denied" in box("cd /secret", user="bob").stderr


def test_a_seccomp_filter_of_the_callers(box):
    import struct

    allow = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)  # return ALLOW
    found = status(box, seccomp=allow)
    assert (found["Seccomp"], found["NoNewPrivs"]) == ("2", "0")
    assert status(box, seccomp=allow, no_new_privileges=True, user="bob")["Seccomp"] == "2"
