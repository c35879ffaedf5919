"""Filters of `ps` that need containers which run, or have networks and volumes."""

from __future__ import annotations

import pytest

from layerfs.engine.networks import Networks
from layerfs.errors import InvalidInput
from layerfs.runtime import firewall
from tests.looking import eventually, free_port

pytestmark = pytest.mark.root
FOREVER = "echo ready; while :; do sleep 0.05; done"


def names(store, **filters):
    return sorted(box.name for box in store.containers({key: [value] for key, value in filters.items()}))


@pytest.mark.skipif(not firewall.available(), reason="needs nftables")
def test_ports_and_networks(opened):
    host = free_port()
    command = ["sh", "-c", FOREVER]
    web = opened.create("box:1", name="web", command=command, network="bridge", publish=[f"127.0.0.1:{host}:80"])
    opened.create("box:1", name="plain", command=command, expose=["90/udp"]).start()
    opened.create("box:1", name="stopped", network="bridge", publish=["81:80"], expose=["90/udp"])
    web.start()
    assert eventually(lambda: b"ready" in b"".join(entry.data for entry in web.logs()))
    assert names(opened, publish=str(host)) == names(opened, publish=f"{host - 3}-{host + 3}/tcp") == ["web"]
    assert names(opened, publish=f"{host}/udp") == names(opened, publish="80") == names(opened, publish="81") == []
    assert names(opened, expose="80") == ["web"]
    assert names(opened, expose="85-95/udp") == ["plain"]
    assert names(opened, expose="90") == []
    assert names(opened, network="bridge") == ["stopped", "web"]
    assert names(opened, network="none") == ["plain"]
    identity = Networks(opened).get("bridge").id
    assert names(opened, network=identity[:12]) == ["stopped", "web"]


def test_volumes(opened, tmp_path):
    opened.create("box:1", name="named", volumes=["data:/data"])
    opened.create("box:1", name="bound", volumes=[f"{tmp_path}:/host"])
    assert names(opened, volume="data") == names(opened, volume="/data") == ["named"]
    assert names(opened, volume="/host") == names(opened, volume=str(tmp_path)) == ["bound"]
    assert names(opened, isolation="default") == ["bound", "named"]


@pytest.mark.parametrize(
    ("name", "value"), [("publish", "1:2"), ("expose", "x"), ("expose", "70000"), ("shape", "round")]
)
def test_what_is_no_filter_is_told(opened, name, value):
    with pytest.raises(InvalidInput, match=r"filter|invalid|port|Port"):
        names(opened, **{name: value})
