"""Image configs: read with docker's extras, written in one order, never re-encoded."""

import json
from typing import Any

import pytest

from layerfs.digest import DiffID, Digest
from layerfs.errors import InvalidArchive
from layerfs.oci import ContainerConfig, Healthcheck, History, ImageConfig, Platform, build_config
from layerfs.oci.layout import check_header

DIFF = DiffID(Digest("cd" * 32))


def raw(**values: Any) -> bytes:
    return json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}, **values}
    ).encode()


def test_a_built_config_reads_back_equal_and_is_reproducible() -> None:
    arguments: dict[str, Any] = {
        "platform": Platform("linux", "arm", "v7"),
        "config": ContainerConfig(
            user="u",
            exposed_ports=("80/tcp",),
            env=("A=1",),
            cmd=(),
            healthcheck=Healthcheck(("CMD", "x"), interval=5),
            volumes=("/v",),
            entrypoint=("/e",),
            labels=(("a", "1"), ("b", "2")),
            shell=("/bin/sh", "-ec"),
        ),
        "diff_ids": (DIFF,),
        "history": (History(5, "by", "me", "note"), History(None, empty_layer=True)),
        "created_ns": 1_700_000_000_123_000_000,
        "author": "me",
    }
    built = build_config(**arguments)
    assert ImageConfig.parse(built.raw) == built == build_config(**arguments)
    assert built.id == Digest.of(built.raw)


def test_keys_are_in_alphabetical_order_and_empty_fields_are_left_out() -> None:
    built = build_config(
        platform=Platform("linux", "amd64"), config=ContainerConfig(), diff_ids=(), history=(), created_ns=0
    )
    assert built.raw == (
        b'{"architecture":"amd64","config":{},"created":"1970-01-01T00:00:00Z","history":[],"os":"linux",'
        b'"rootfs":{"type":"layers","diff_ids":[]}}'
    )


def test_unknown_fields_and_old_docker_fields_stay_in_the_bytes() -> None:
    data = raw(container_config={"Hostname": "x"}, docker_version="1", config={"Hostname": "h", "Cmd": None})
    parsed = ImageConfig.parse(data)
    assert parsed.raw == data and parsed.config.cmd is None and parsed.id == Digest.of(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{}", r"config\.rootfs is missing"),
        (raw(rootfs={"type": "disks"}), r"rootfs\.type"),
        (raw(rootfs={"diff_ids": ["x"]}), r"config\.rootfs\.diff_ids\[0\]"),
        (raw(history=[{}]), "too many non-empty layers in History section"),
        (raw(history={}), r"config\.history is an object"),
        (raw(created=5), r"config\.created is a number"),
        (raw(created="soon"), r"config\.created"),
        (raw(config={"Env": "A=1"}), r"config\.config\.Env"),
        (raw(config={"Labels": {"a": []}}), r"config\.config\.Labels\['a'\]"),
        (raw(config={"Healthcheck": {"Interval": "5s"}}), r"Healthcheck\.Interval"),
        (b"[]", "not a JSON object"),
    ],
)
def test_a_bad_config_is_refused_with_the_field_named(data: bytes, words: str) -> None:
    with pytest.raises(InvalidArchive, match=words):
        ImageConfig.parse(data)


def test_a_history_with_fewer_layers_than_diff_ids_is_accepted() -> None:
    parsed = ImageConfig.parse(raw(rootfs={"diff_ids": [str(DIFF)]}, history=[{"empty_layer": True}]))
    assert parsed.diff_ids == (DIFF,)


@pytest.mark.parametrize("header", [b'{"imageLayoutVersion":"2.0.0"}', b"{}", b"no"])
def test_a_layout_of_another_version_is_refused(header: bytes) -> None:
    with pytest.raises(InvalidArchive, match="oci-layout"):
        check_header(header)
    check_header(b'{"imageLayoutVersion": "1.0.1"}')
