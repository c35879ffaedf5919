"""`--mount`, `--device` and EXPOSE: values, rules and suggestions."""

from __future__ import annotations

import pytest

from layerfs.build.instructions import Device, Mount
from layerfs.build.mounts import csv_fields, parse_device, parse_mount
from layerfs.build.ports import expose
from layerfs.errors import InvalidDockerfile


@pytest.mark.parametrize(
    ("flag", "mount"),
    [
        ("dst=/a", Mount(target="/a")),
        ("TYPE=Cache,destination=/a", Mount("cache", target="/a", read_only=False)),
        ("type=cache,target=/a,readonly", Mount("cache", target="/a")),
        ("target=/a,readwrite", Mount(target="/a", read_only=False)),
        ("target=/a,ro=false", Mount(target="/a", read_only=False)),
        ("target=/a,rw=0", Mount(target="/a")),
        ("type=tmpfs,target=/a,size=1.5k", Mount("tmpfs", target="/a", read_only=False, size=1536)),
        ('"target=/a,b"', Mount(target="/a,b")),
        ("type=secret,src=x,env=", Mount("secret", source="x", env="")),
        ("type=ssh,required", Mount("ssh", required=True)),
    ],
)
def test_a_mount_is_read(flag: str, mount: Mount) -> None:
    assert parse_mount(flag, str) == mount


@pytest.mark.parametrize(
    ("flag", "reason"),
    [
        ("", "nothing given"),
        ("target", "invalid field 'target' must be a key=value pair"),
        ("required,target=/a", "unexpected key 'required' for mount type 'bind'"),
        ("type=secret", "one of source, target required"),
        ("type=secret,id=a,source=b", "both source and id can't be set"),
        ("type=secret,id=a,from=b", "should not have a from"),
        ("type=bind,sharing=locked", "invalid cache sharing set for bind mount"),
        ("type=cache,sharing=loked", r"unsupported sharing value \"loked\" \(did you mean locked\?\)"),
        ("uid=1,target=/a", "uid not allowed for"),
        ("type=cache,mode=9", "invalid value 9 for mode"),
        ("type=cache,uid=4294967296", "invalid value 4294967296 for uid"),
        ("type=tmpfs,size=big", "invalid value for size: big"),
        ("type=tmpfs,size=99999999999999999999g", "invalid value for size"),
        ("ro=yes", "invalid value for ro: yes"),
        ('"a', "extraneous or missing"),
        ('a"b', 'bare " in'),
    ],
)
def test_a_bad_mount_is_refused(flag: str, reason: str) -> None:
    with pytest.raises(InvalidDockerfile, match=reason):
        parse_mount(flag, str)


def test_fields_may_be_quoted() -> None:
    assert csv_fields('a,"b,""c""",', "x") == ["a", 'b,"c"', ""]


@pytest.mark.parametrize(
    ("flag", "device"),
    [("v/c=n", Device("v/c=n")), ("name=a,required", Device("a", required=True)), ("a,required=false", Device("a"))],
)
def test_a_device_is_read(flag: str, device: Device) -> None:
    assert parse_device(flag) == device


@pytest.mark.parametrize("flag", ["a,name=b", "a,b", "a,requird=1"])
def test_a_bad_device_is_refused(flag: str) -> None:
    with pytest.raises(InvalidDockerfile):
        parse_device(flag)


@pytest.mark.parametrize("word", ["", "/tcp", "80/icmp", "65536", "1-", "a:80", "1-3:1-2", "300.0.0.1:1:1", "1:2:3:80"])
def test_a_bad_port_is_refused(word: str) -> None:
    with pytest.raises(InvalidDockerfile):
        expose(word)


def test_a_range_is_written_out() -> None:
    assert expose("1-3/UDP").ports == ("1/udp", "2/udp", "3/udp")
