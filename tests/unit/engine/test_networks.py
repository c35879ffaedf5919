"""Bridges, addresses, names and ports, each test in a network namespace of its own."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import layerfs
from layerfs import errors
from layerfs.engine.connections import bindings
from layerfs.engine.networks import Networks
from layerfs.runtime import firewall, netns
from layerfs.runtime.rtnetlink import Netlink
from tests.looking import eventually

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not firewall.available(), reason="needs nftables"),
]


def apart(test):
    """The test's body in a thread that is in a new network namespace, with its loopback up."""

    @functools.wraps(test)
    def wrapped(*args, **kwargs):
        def body():
            netns.unshare()
            with Netlink() as host:
                host.set_up(1)
            test(*args, **kwargs)
            assert interfaces() == ["lo"]
            assert subprocess.run(["nft", "list", "tables"], capture_output=True, check=True).stdout == b""

        netns._apart(body)

    return wrapped


def interfaces():
    with Netlink() as host:
        return sorted(link.name for link in host.links() if link.name not in ("tunl0", "sit0", "gre0"))


@pytest.fixture
def image(store, tmp_path):
    place = tmp_path / "net"
    (place / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", place / "bin")
    for name in ["sh", "cat", "sleep", "ip", "nc", "ping", "wget", "httpd", "echo"]:
        (place / "bin" / name).symlink_to("busybox")
    return store.import_archive(place, tag="net:1", changes=["EXPOSE 80 81/udp"])


def server(store, text="hello", **settings):
    """A container that answers every connection on port 80 with `text`."""
    box = store.create("net:1", command=["nc", "-ll", "-p", "80", "-e", "echo", text], **settings)
    box.start()
    return box


def fetch(address, port, seconds=60):
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((address, port), timeout=60) as sock:
                return sock.makefile("rb").read()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@apart
def test_containers_of_a_network_find_each_other_by_name(store, image):
    Networks(store).create("one")
    web = server(store, name="web", network="one", network_aliases=["www"])
    code = "ping -c1 -W2 web >/dev/null && ping -c1 -W2 www >/dev/null && nc www 80"
    client = store.create(image, network="one")
    assert client.run(["sh", "-c", code]).stdout == b"hello\n"
    with pytest.raises(errors.InUse, match="active endpoints"):
        Networks(store).remove("one")
    web.remove(force=True)
    Networks(store).remove("one")


@apart
def test_a_store_has_one_default_network_by_whatever_name_it_is_opened(store, image, tmp_path):
    link, moved = tmp_path / "link", tmp_path / "\udcff moved"
    link.symlink_to(store.path)
    made = []
    for place in (store.path, link, moved):
        if place == moved:
            store.path.rename(moved)
        with layerfs.Store(place) as opened:
            opened.create("net:1", network="bridge").run(["echo"])
            made.append(opened.networks.get("bridge").id)
    assert made[0] == made[1] != made[2]
    moved.rename(store.path)


@apart
def test_who_comes_later_is_told_to_those_before(store, image):
    Networks(store).create("one")
    first = server(store, name="first", network="one")
    second = server(store, name="second", network="one")
    assert b"\tsecond " in first.exec(["cat", "/etc/hosts"]).stdout
    second.rename("third")
    assert b"\tthird " in first.exec(["cat", "/etc/hosts"]).stdout
    second.remove(force=True)
    assert b"second" not in first.exec(["cat", "/etc/hosts"]).stdout
    first.remove(force=True)


@apart
def test_ports_are_published_on_the_loopback_and_elsewhere(store, image):
    box = server(store, publish=["127.0.0.1:7001:80", "7002:80", "80"], network="bridge")
    host = subprocess.run(["ip", "-br", "-4", "addr"], capture_output=True, text=True, check=True).stdout
    gateway = next(line.split()[2].partition("/")[0] for line in host.splitlines() if line.startswith("lfs"))
    assert fetch("127.0.0.1", 7001) == fetch("127.0.0.1", 7002) == fetch(gateway, 7002) == b"hello\n"
    with pytest.raises(ConnectionRefusedError):
        fetch(gateway, 7001, seconds=0)
    found = bindings(box)
    assert [row[:2] for row in found] == [("80/tcp", "0.0.0.0"), ("80/tcp", "0.0.0.0"), ("80/tcp", "127.0.0.1")]
    other = store.create(image, publish=["7001:80"], network="bridge")
    with pytest.raises(errors.RunError, match=r"Bind for 0\.0\.0\.0:7001 failed: port is already allocated"):
        other.run(["echo"])
    box.remove(force=True)
    assert other.run(["echo", "now"]).stdout == b"now\n"  # the port is free again


@apart
def test_ports_without_nftables_go_through_a_proxy(store, image, monkeypatch):
    monkeypatch.setattr(firewall, "available", lambda: False)
    box = server(store, publish=["127.0.0.1:7003:80", "7004:90/udp"], network="bridge")
    assert fetch("127.0.0.1", 7003) == b"hello\n"
    with pytest.raises(errors.RunError, match="7003 failed: port is already allocated"):
        store.create(image, publish=["7003:80"], network="bridge").run(["echo"])
    udp = functools.partial(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    with udp() as sock, netns.inside(f"/proc/{box.state.pid}/ns/net", udp) as inner:
        inner.bind(("0.0.0.0", 90))
        inner.settimeout(60)
        sock.settimeout(60)
        sock.connect(("127.0.0.1", 7004))
        sock.send(b"there")
        data, sender = inner.recvfrom(100)
        inner.sendto(data + b" and back", sender)
        assert sock.recv(100) == b"there and back"
    box.remove(force=True)
    with pytest.raises(ConnectionRefusedError):
        fetch("127.0.0.1", 7003, seconds=0)


@apart
def test_publish_all_takes_what_is_exposed(store, image):
    box = server(store, publish_all=True, expose=["90"], network="bridge")
    assert [row[0] for row in bindings(box)] == ["80/tcp", "81/udp", "90/tcp"]
    box.remove(force=True)


@apart
def test_networks_do_not_see_each_other_and_internal_ones_have_no_way_out(store, image):
    networks = Networks(store)
    networks.create("one")
    networks.create("two", internal=True)
    web = server(store, name="web", network="one")
    address = networks.of(web.id)[0][1].address
    inside = store.create(image, network="two").run(["sh", "-c", f"ip route; nc -w 1 {address} 80 || echo no"])
    assert b"default" not in inside.stdout and inside.stdout.endswith(b"no\n")
    assert store.create(image, network="bridge").run(["nc", "-w", "1", address, "80"]).returncode != 0
    web.remove(force=True)


@apart
def test_a_network_of_another_container(store, image):
    web = server(store, name="web", network="bridge")
    joined = store.create(image, network="container:web")
    assert joined.run(["nc", "127.0.0.1", "80"]).stdout == b"hello\n"
    web.remove(force=True)
    with pytest.raises(errors.NotFound):
        joined.run(["echo"])


@apart
def test_connect_and_disconnect(store, image):
    networks = Networks(store)
    for name in ("one", "two"):
        networks.create(name)
    box = server(store, name="box", network="one")
    box.connect("two", aliases=["other"])
    assert b"eth1" in box.exec(["ip", "addr"]).stdout
    assert store.create(image, network="two").run(["nc", "other", "80"]).stdout == b"hello\n"
    with pytest.raises(errors.InUse, match="already exists in network two"):
        box.connect("two")
    box.disconnect("two")
    assert b"eth1" not in box.exec(["ip", "addr"]).stdout
    box.remove(force=True)


@apart
def test_several_networks_at_once_and_an_address_of_choice(store, image):
    networks = Networks(store)
    networks.create("one", subnet="10.77.0.0/24")
    networks.create("two", subnet="10.78.0.0/24", gateway="10.78.0.9")
    box = store.create(image, network="one", networks=["two"], ip="10.77.0.50")
    shown = box.run(["sh", "-c", "ip -4 addr; ip route"]).stdout
    assert b"10.77.0.50/24" in shown and b"10.78.0.1/24" in shown and b"default via 10.77.0.1 dev eth0" in shown
    with pytest.raises(errors.InvalidInput, match="Pool overlaps"):
        networks.create("three", subnet="10.77.0.128/25")


@apart
def test_what_killed_processes_left_goes_with_the_next_command(store, image):
    Networks(store).create("one")
    box = server(store, name="box", network="one", publish=["7200:80"])
    subprocess.run(["kill", "-9", str(_parent(box.state.pid))], check=True)
    assert eventually(lambda: not box.state.running)
    box.start()
    assert fetch("127.0.0.1", 7200) == b"hello\n"
    box.remove(force=True)


@apart
def test_a_bridge_goes_with_its_ports_and_with_nothing_else_that_has_its_group():
    with Netlink() as host:
        host.add_bridge("one", "", 7)
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        host.add_veth("port", "far", "", here, 0, host.find("one"))
        os.close(here)
        host.delete_bridge(host.find("one"), 7)
        assert interfaces() == ["lo"]
        host.add_bridge("one", "", 7)
        host.add_bridge("other", "", 7)
        host.delete_bridge(host.find("one"), 7)
        assert interfaces() == ["lo", "other"]
        host.delete_bridge(host.find("other"), 8)


def _parent(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("PPid:"))


@apart
def test_runs_at_once_share_the_containers_network(store, image):
    box = store.create(image, network="bridge")
    results = []
    threads = [
        threading.Thread(target=lambda: netns.inside(here, lambda: results.append(box.run(["ip", "addr"]).stdout)))
        for _ in range(3)
    ]
    here = f"/proc/self/task/{threading.get_native_id()}/ns/net"
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3 and all(b"172.17.0.2" in text for text in results)


def test_networks_as_records(store):
    networks = Networks(store)
    made = networks.create("one", labels={"a": "b"})
    assert [n.name for n in networks.all()] == ["bridge", "host", "none", "one"]
    assert networks.get(made.id[:12]) == networks.get("one") == made
    for name, kind, words in (
        ("one", errors.AlreadyExists, "network with name one already exists"),
        ("bridge", errors.AlreadyExists, "already exists"),
        ("a/b", errors.InvalidInput, "invalid network name"),
    ):
        with pytest.raises(kind, match=words):
            networks.create(name)
    with pytest.raises(errors.NotFound, match="network nosuch not found"):
        networks.get("nosuch")
    with pytest.raises(errors.InvalidInput, match="pre-defined"):
        networks.remove("host")
    user = SimpleNamespace(settings=SimpleNamespace(network="none", networks=("one",)))
    assert networks.prune([user]) == [] and networks.prune([]) == ["one"]


@apart
def test_a_link_is_a_name_and_the_ethernet_address_can_be_chosen(store, image):
    web = server(store, name="web", network="bridge", mac_address="02:42:aa:bb:cc:dd")
    assert b"02:42:aa:bb:cc:dd" in web.exec(["ip", "link", "show", "eth0"]).stdout
    code = "ping -c1 -W2 www >/dev/null && nc www 80; cat /etc/hosts"
    found = store.create(image, network="bridge", links=["web:www"]).run(["sh", "-c", code]).stdout
    assert found.startswith(b"hello\n")
    assert f"\twww {web.id[:12]} web\n".encode() in found
    web.stop(0)
    left = store.create(image, name="left", network="bridge", links=["web:www"])
    with pytest.raises(errors.RunError, match="Cannot link to a non running container: /web AS /left/www"):
        left.start()
    web.remove()


def test_no_ethernet_address_is_told(store, image):
    with pytest.raises(errors.InvalidInput, match="zz is not a valid mac address"):
        store.create(image, network="bridge", mac_address="zz")


@apart
def test_a_store_and_a_container_have_it_all(store, image):
    network = store.networks.create("inner", internal=True)
    box = server(store, network="bridge", publish=["127.0.0.1:7009:80"])
    box.connect("inner")
    assert [end.container for end in store.networks.endpoints(network)] == [box.id]
    assert box.ports() == [("80/tcp", "127.0.0.1", 7009)]
    box.disconnect("inner")
    with pytest.raises(errors.NotFound):
        box.disconnect("inner")
    box.remove(force=True)
    store.networks.remove("inner")


@apart
def test_addresses_come_from_the_range_and_reserved_ones_are_left_out(store, image):
    reserved = {"router": "10.77.0.129"}
    store.networks.create("one", subnet="10.77.0.0/24", ip_range="10.77.0.128/30", reserved=reserved)
    seen = [server(store, network="one") for _ in range(2)]
    for box, address in zip(seen, ("10.77.0.128", "10.77.0.130"), strict=True):
        assert box.inspect()["NetworkSettings"]["Networks"]["one"]["IPAddress"] == address
    assert b"10.77.0.9/24" in store.create(image, network="name=one,ip=10.77.0.9").run(["ip", "addr"]).stdout
    for box in seen:
        box.remove(force=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ip_range": "10.0.0.0/24"}, "need a subnet"),
        ({"subnet": "10.0.0.0/24", "ip_range": "10.1.0.0/24"}, "no matching subnet for range"),
        ({"subnet": "10.0.0.0/24", "ip_range": "many"}, "invalid ip-range many"),
        ({"subnet": "10.0.0.0/24", "reserved": {"a": "10.1.0.1"}}, "no configured subnet contains"),
        ({"options": {"com.docker.network.driver.mtu": "20"}}, "invalid MTU: 20"),
        ({"options": {"com.docker.network.bridge.enable_icc": "false"}}, "enable_icc is not supported: containers"),
        ({"options": {"com.docker.network.bridge.host_binding_ipv4": "here"}}, "invalid IPv4 address: here"),
    ],
)
def test_networks_that_cannot_be_are_not_made(store, settings, words):
    with pytest.raises(errors.InvalidInput, match=words):
        store.networks.create("one", **settings)
    assert len(store.networks.all()) == 3


@apart
def test_each_network_has_its_own_address_names_and_way_out(store, image):
    networks = Networks(store)
    networks.create("one", subnet="10.77.0.0/24")
    networks.create("two", subnet="10.78.0.0/24")
    networks.create("in", subnet="10.79.0.0/24", internal=True)
    both = "name=two,ip=10.78.0.50,alias=second,mac-address=02:00:00:00:00:09,gw-priority=3"
    box = server(store, name="box", network="name=one,ip=10.77.0.40", networks=[both])
    shown = box.exec(["sh", "-c", "ip addr; ip route"]).stdout
    for text in (b"10.77.0.40/24", b"10.78.0.50/24", b"02:00:00:00:00:09", b"default via 10.78.0.1 dev eth1"):
        assert text in shown
    assert store.create(image, network="two").run(["nc", "second", "80"]).stdout == b"hello\n"
    assert store.create(image, network="one").run(["nc", "-w1", "second", "80"]).returncode == 1
    box.disconnect("two")
    assert b"default via 10.77.0.1 dev eth0" in box.exec(["ip", "route"]).stdout
    box.remove(force=True)
    outwards = store.create(image, network="in", networks=["one"]).run(["ip", "route"]).stdout
    assert b"default via 10.77.0.1 dev eth1" in outwards


@apart
def test_what_was_connected_is_so_again_after_a_restart(store, image):
    networks = Networks(store)
    networks.create("one")
    networks.create("two", subnet="10.78.0.0/24")
    box = server(store, name="box", network="one")
    web = server(store, text="web", name="web", network="two")
    box.connect("two", aliases=["other"], ip="10.78.0.60", links=["web:www"], priority=1)
    for _ in range(2):
        assert b"10.78.0.60/24" in box.exec(["ip", "addr"]).stdout
        assert box.exec(["nc", "www", "80"]).stdout == b"web\n"
        assert b"default via 10.78.0.1 dev eth1" in box.exec(["ip", "route"]).stdout
        assert store.create(image, network="two").run(["nc", "other", "80"]).stdout == b"hello\n"
        box.restart(0)
    shown = box.inspect()["NetworkSettings"]["Networks"]["two"]
    assert (shown["IPAMConfig"], shown["Links"]) == ({"IPv4Address": "10.78.0.60"}, ["web:www"])
    box.disconnect("two")
    box.stop(0)
    box.connect("two")
    assert box.inspect()["NetworkSettings"]["Networks"]["two"]["IPAMConfig"] is None
    with pytest.raises(errors.InvalidInput, match="only supported for user-defined networks"):
        box.connect("bridge", links=["web"])
    for each in (box, web):
        each.remove(force=True)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("name=one,speed=9", "invalid field speed in --network name=one,speed=9"),
        ("alias=a", "names no network"),
        ("name=one,ip=9", "invalid IPv4 address: 9"),
        ("name=one,gw-priority=high", "invalid gw-priority: high"),
        ("name=one,mac-address=zz", "zz is not a valid mac address"),
        ("name=one,driver-opt=a=b", "there are no options of endpoints"),
        ("name=none,alias=a", "supported on user defined networks only"),
    ],
)
def test_attachments_that_cannot_be_are_told_at_once(store, image, network, words):
    with pytest.raises(errors.InvalidInput, match=words):
        store.create(image, network=network)


@apart
def test_a_network_may_keep_its_addresses_and_bind_to_one_of_the_host(store, image):
    options = {"enable_ip_masquerade": "false", "host_binding_ipv4": "127.0.0.1"}
    made = store.networks.create("one", options={f"com.docker.network.bridge.{k}": v for k, v in options.items()})
    box = server(store, network="one", publish=["7031:80"])
    rules = subprocess.run(["nft", "list", "table", "inet", made.table], capture_output=True, text=True, check=True)
    assert f'oifname != "{made.bridge}" masquerade' not in rules.stdout
    assert box.ports() == [("80/tcp", "127.0.0.1", 7031)] and fetch("127.0.0.1", 7031) == b"hello\n"
    box.remove(force=True)
