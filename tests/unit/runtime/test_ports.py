"""`-p` and EXPOSE: docker's forms, and which ports of the host they become."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from layerfs.errors import InvalidInput, RunError
from layerfs.runtime.firewall import Published, port_text, table_text
from layerfs.runtime.ports import Publish, allocate, parse_expose, parse_publish


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("80", [Publish(80)]),
        ("8080:80", [Publish(80, "tcp", "", 8080, 8080)]),
        ("127.0.0.1:8080:80/udp", [Publish(80, "udp", "127.0.0.1", 8080, 8080)]),
        ("127.0.0.1::80", [Publish(80, "tcp", "127.0.0.1")]),
        ("0.0.0.0:8080:80", [Publish(80, "tcp", "", 8080, 8080)]),
        ("[::]:8080:80", [Publish(80, "tcp", "", 8080, 8080)]),
        ("8000-8001:80-81", [Publish(80, "tcp", "", 8000, 8000), Publish(81, "tcp", "", 8001, 8001)]),
        ("8000-8010:80", [Publish(80, "tcp", "", 8000, 8010)]),
        ("80-81", [Publish(80), Publish(81)]),
        ("target=80,published=8080,protocol=udp", [Publish(80, "udp", "", 8080, 8080)]),
    ],
)
def test_forms_of_publish(text, wanted):
    assert parse_publish(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid containerPort"),
        ("0:80", "invalid hostPort: 0"),
        ("99999:80", "invalid hostPort: 99999"),
        ("80:x", "invalid containerPort: x"),
        ("80/icmp", "invalid proto: icmp"),
        ("1.2.3.400:80:80", "invalid IP address: 1.2.3.400"),
        ("a:b:c:80", "invalid publish format"),
        ("[::1]:80:80", "IPv6 address ::1 is not supported"),
        ("8000-8001:80-82", "invalid ranges"),
        ("9-8:80", "invalid hostPort"),
        ("target=80,colour=red", "invalid field key: colour"),
    ],
)
def test_what_is_no_publish(text, message):
    with pytest.raises(InvalidInput, match=message):
        parse_publish(text)


def test_expose():
    assert parse_expose("80-81/udp") == [(80, "udp"), (81, "udp")] and parse_expose("9") == [(9, "tcp")]
    with pytest.raises(InvalidInput):
        parse_expose("80/sctp")


def test_ports_are_handed_out_once():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        mine = sock.getsockname()[1]
        with pytest.raises(RunError, match=f"Bind for 127.0.0.1:{mine} failed: port is already allocated"):
            allocate([Publish(80, "tcp", "127.0.0.1", mine, mine)], [], (1, 2))
        free = allocate([Publish(80, "tcp", "127.0.0.1", mine, min(mine + 50, 65535))], [], (1, 2))
    assert free[0].host_port > mine
    taken = [Published("tcp", "", free[0].host_port, 1)]
    with pytest.raises(RunError, match="already allocated"):
        allocate([Publish(80, "tcp", "127.0.0.1", free[0].host_port, free[0].host_port)], taken, (1, 2))


def test_the_rules_name_bridge_and_subnet():
    text = table_text("t", "lfs0", ipaddress.IPv4Network("10.5.0.0/24"), internal=False)
    assert 'ip saddr 10.5.0.0/24 oifname != "lfs0" masquerade' in text
    assert "10.5.0.0/24 oifname != " not in table_text("t", "lfs0", ipaddress.IPv4Network("10.5.0.0/24"), internal=True)
    assert 'iifname "lfs0" ip daddr 127.0.0.0/8 drop' in text
    ports = [Published("tcp", "", 8080, 80), Published("udp", "1.2.3.4", 9, 10)]
    assert port_text("t", "10.5.0.2", ports, add=True).splitlines() == [
        "add element inet t tcp_any { 8080 : 10.5.0.2 . 80 }",
        "add element inet t udp_ip { 1.2.3.4 . 9 : 10.5.0.2 . 10 }",
    ]
    assert port_text("t", "10.5.0.2", ports[:1], add=False) == "delete element inet t tcp_any { 8080 }\n"
