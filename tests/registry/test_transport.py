"""HTTP to registries: retries, redirects, and what errors say."""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO, cast

import pytest

from layerfs.errors import InvalidInput, RegistryError, RegistryUnreachable
from layerfs.registry.config import Settings
from layerfs.registry.transport import Body, Transport, redirected
from tests.looking import eventually, free_port
from tests.registry.servers import QUICK, Answer, Request, scripted

PATIENT = replace(QUICK, read=100)


@pytest.fixture
def transport() -> Iterator[Transport]:
    transport = Transport(Settings().context, limits=QUICK)
    yield transport
    transport.close()


def _in_turn(*answers: Answer):  # type: ignore[no-untyped-def]
    left = list(answers)
    return lambda request: left.pop(0) if len(left) > 1 else left[0]


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_busy_servers_are_asked_again(transport: Transport, status: int) -> None:
    with scripted(_in_turn(Answer(status), Answer(status), Answer(200, b"well"))) as (host, seen):
        assert transport.request("GET", f"http://{host}/").body(100) == b"well"
    assert len(seen) == 3


def test_the_last_refusal_is_the_answer(transport: Transport) -> None:
    with scripted(lambda request: Answer(503)) as (host, seen):
        assert transport.request("GET", f"http://{host}/").status == 503
    assert len(seen) == QUICK.attempts


def test_retry_after_is_obeyed(transport: Transport) -> None:
    with scripted(_in_turn(Answer(429, headers={"Retry-After": "1"}), Answer(200))) as (host, _):
        begun = time.monotonic()
        assert transport.request("GET", f"http://{host}/").status == 200
    assert time.monotonic() - begun >= 1


def test_a_retry_after_beyond_patience_is_the_answer(transport: Transport) -> None:
    with scripted(lambda request: Answer(429, headers={"Retry-After": "3600"})) as (host, seen):
        assert transport.request("GET", f"http://{host}/").status == 429
    assert len(seen) == 1


def test_other_refusals_are_not_repeated(transport: Transport) -> None:
    with scripted(lambda request: Answer(404)) as (host, seen):
        assert transport.request("GET", f"http://{host}/").status == 404
    assert len(seen) == 1


def test_a_body_is_sent_again_from_its_start(transport: Transport) -> None:
    import io

    with scripted(_in_turn(Answer(500), Answer(201))) as (host, seen):
        transport.request("PUT", f"http://{host}/", body=Body(5, lambda: io.BytesIO(b"bytes"))).close()
    assert [request.body for request in seen] == [b"bytes", b"bytes"]


def test_stopping_ends_waits_and_further_requests() -> None:
    stop = threading.Event()
    transport = Transport(Settings().context, limits=QUICK, stop=stop)

    def busy(request: Request) -> Answer:
        stop.set()
        return Answer(429, headers={"Retry-After": "2"})

    with scripted(busy) as (host, seen), pytest.raises(RegistryError, match="cancelled"):
        transport.request("GET", f"http://{host}/")
    assert len(seen) == 1


def test_a_redirect_keeps_who_we_are_only_on_the_same_host(transport: Transport) -> None:
    with scripted(lambda request: Answer(200)) as (other, told):

        def send_on(request: Request) -> Answer:
            step = {"/a": "/b", "/b": f"http://{other}/c"}[request.path]
            return Answer(307, headers={"Location": step})

        with scripted(send_on) as (host, seen):
            transport.request("GET", f"http://{host}/a", headers={"Authorization": "Bearer x"}).close()
    assert [request.headers["Authorization"] for request in seen] == ["Bearer x", "Bearer x"]
    assert [request.headers["Authorization"] for request in told] == [None]


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "ftp://host/x", "gopher://x/", "http://user:secret@host/", "http://[", "https://"],
)
def test_redirects_lead_to_http_alone(location: str) -> None:
    with pytest.raises(RegistryError, match=r"redirect"):
        redirected("GET", "http://host/v2/", location)


def test_redirects_never_lead_from_https_to_http() -> None:
    with pytest.raises(RegistryError, match=r"from https to http://other/x"):
        redirected("GET", "https://host/v2/", "http://other/x?signature=secret")


def test_endless_redirects_end(transport: Transport) -> None:
    with (
        scripted(lambda request: Answer(302, headers={"Location": request.path + "x"})) as (host, _),
        pytest.raises(RegistryError, match="stopped after 10 redirects"),
    ):
        transport.request("GET", f"http://{host}/")


def test_a_body_that_breaks_off_is_an_error(transport: Transport) -> None:
    with scripted(lambda request: Answer(200, b"0123456789", cut=4)) as (host, _):
        answer = transport.request("GET", f"http://{host}/")
        with pytest.raises(RegistryUnreachable):
            answer.body(100)


def test_a_body_longer_than_allowed_is_an_error(transport: Transport) -> None:
    with (
        scripted(lambda request: Answer(200, b"0123456789")) as (host, _),
        pytest.raises(RegistryError, match="longer than 9 bytes"),
    ):
        transport.request("GET", f"http://{host}/").body(9)


def test_connections_are_used_again(transport: Transport) -> None:
    with scripted(lambda request: Answer(404, b"no")) as (host, seen):
        for _ in range(3):
            transport.request("GET", f"http://{host}/").discard()
    assert len({request.peer for request in seen}) == 1


def test_a_connection_that_the_server_has_ended_is_not_used_again(transport: Transport) -> None:
    with scripted(lambda request: Answer(200, b"x", {"Content-Length": "1"}, cut=1)) as (host, seen):
        for _ in range(2):
            assert transport.request("GET", f"http://{host}/", attempts=1).body(9) == b"x"
            ((*_, connection),) = transport._idle._waiting
            assert eventually(connection.is_dropped)
    assert len(seen) == 2


def test_a_refusal_in_the_middle_of_a_body_is_heard(transport: Transport) -> None:
    def refuse() -> None:
        one, _ = listener.accept()
        one.recv(1000)
        one.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        one.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=refuse, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        body = Body(1 << 25, lambda: cast(BinaryIO, io.BytesIO(bytes(1 << 25))))
        assert transport.request("PUT", url, body=body, attempts=1).status == 413


@contextlib.contextmanager
def saying(raw: bytes) -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that says this to each request; its URL, and the connections that were made."""
    made: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = listener.accept()
                made.append(one)
                threading.Thread(target=say, args=(one,), daemon=True).start()

    def say(one: socket.socket) -> None:
        with contextlib.suppress(OSError), one:
            while one.recv(1000):
                one.sendall(raw)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v2/", made


def test_a_second_answer_is_not_taken_for_that_of_the_next_request(transport: Transport) -> None:
    one = b"HTTP/1.1 %d OK\r\nContent-Length: 1\r\n\r\n%s"
    for raw, connections in ((one % (200, b"a"), 1), (one % (200, b"a") + one % (201, b"b"), 3)):
        with saying(raw) as (url, made):
            for _ in range(3):
                answer = transport.request("GET", url, attempts=1)
                assert (answer.status, answer.body(9)) == (200, b"a")
            assert len(made) == connections


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n", r"malformed HTTP response 'SSH-2\.0-OpenSSH_9\.2p1'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "several lengths of one answer"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nab", "a coding that is not known: 'gzip'"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n", r"no size of a chunk: b'-1\\r\\n'"),
    ],
)
def test_an_answer_that_is_not_clear_names_the_registry(transport: Transport, raw: bytes, why: str) -> None:
    with saying(raw) as (url, _), pytest.raises(RegistryUnreachable, match=f'^Get "{url}": {why}$'):
        transport.request("GET", url, attempts=1).body(9)


def test_what_may_not_stand_in_a_request_line_is_escaped(transport: Transport) -> None:
    with scripted(lambda request: Answer(200)) as (host, seen):
        transport.request("GET", f"http://{host}/ä b?sig=a%2Fb+c==&x=\u2028").discard()
    assert seen[0].path == "/%C3%A4%20b?sig=a%2Fb+c==&x=%E2%80%A8"


def test_nobody_there_is_said_in_dockers_words(transport: Transport) -> None:
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(RegistryUnreachable) as caught:
        transport.request("GET", f"http://{host}/v2/")
    assert str(caught.value) == f'Get "http://{host}/v2/": dial tcp {host}: connect: connection refused'


def test_a_host_without_an_address_is_said_in_dockers_words(transport: Transport) -> None:
    with pytest.raises(RegistryUnreachable, match=r"dial tcp: lookup nowhere\.invalid: no such host"):
        transport.request("GET", "http://nowhere.invalid/v2/")


def test_an_unknown_authority_is_said_in_dockers_words(guarded, transport: Transport) -> None:  # type: ignore[no-untyped-def]
    strict = Transport(lambda host: ssl.create_default_context(), limits=QUICK)
    with pytest.raises(RegistryUnreachable, match="x509: certificate signed by unknown authority"):
        strict.request("GET", f"https://{guarded.host}/v2/")


def test_plain_http_where_tls_is_wanted_is_said_in_dockers_words(plain, transport: Transport) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RegistryUnreachable, match="http: server gave HTTP response to HTTPS client"):
        transport.request("GET", f"https://{plain.host}/v2/")


def test_silence_ends_after_the_timeout() -> None:
    transport = Transport(Settings().context, limits=replace(QUICK, read=0.2, attempts=1))
    done = threading.Event()
    with (
        scripted(lambda request: Answer(200 if done.wait(60) else 500)) as (host, _),
        pytest.raises(RegistryUnreachable, match="i/o timeout"),
    ):
        transport.request("GET", f"http://{host}/")
    done.set()


def test_a_proxy_is_used_and_told_who_asks(transport: Transport) -> None:
    with scripted(lambda request: Answer(200, b"by proxy")) as (host, seen):
        proxied = Transport(Settings().context, lambda url: f"http://me:pw@{host}", QUICK)
        assert proxied.request("GET", "http://registry.example/v2/").body(100) == b"by proxy"
    assert seen[0].path == "http://registry.example/v2/"
    assert seen[0].headers["Proxy-Authorization"] == "Basic bWU6cHc="


def test_a_proxy_that_is_not_there_is_said(transport: Transport) -> None:
    host = f"127.0.0.1:{free_port()}"
    proxied = Transport(Settings().context, lambda url: f"http://{host}", QUICK)
    for url in ("http://registry.example/v2/", "https://registry.example/v2/"):
        with pytest.raises(RegistryUnreachable, match=f"proxyconnect: dial tcp {host}: connect: connection refused"):
            proxied.request("GET", url)
    with pytest.raises(RegistryUnreachable, match=r"proxyconnect: dial tcp: lookup proxy\.invalid: no such host"):
        Transport(Settings().context, lambda url: "http://proxy.invalid:1", QUICK).request("GET", url)
    with pytest.raises(InvalidInput, match="bad proxy"):
        Transport(Settings().context, lambda url: "http://[::1", QUICK).request("GET", url)


def test_tls_goes_through_a_tunnel(guarded, certificates) -> None:  # type: ignore[no-untyped-def]
    asked = []

    def tunnel() -> None:
        near, _ = listener.accept()
        asked.append(near.recv(4096).split()[:2])
        far = socket.create_connection(("127.0.0.1", int(guarded.host.rpartition(":")[2])))
        near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        pairs = ((near, far), (far, near))
        for one, other in pairs:
            threading.Thread(target=_pump, args=(one, other), daemon=True).start()

    context = ssl.create_default_context(cafile=certificates.ca)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=tunnel, daemon=True).start()
        proxy = f"http://127.0.0.1:{listener.getsockname()[1]}"
        proxied = Transport(lambda host: context, lambda url: proxy, QUICK)
        answer = proxied.request("GET", f"https://{guarded.host}/v2/")
        answer.discard()
        proxied.close()
    assert (answer.status, asked) == (401, [[b"CONNECT", guarded.host.encode()]])


def _pump(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError), one, other:  # the other direction has ended it
        while data := one.recv(1 << 16):
            other.sendall(data)


def test_cancelling_ends_a_request_that_waits() -> None:
    transport = Transport(Settings().context, limits=PATIENT)
    arrived, done, over = (threading.Event() for _ in range(3))

    def never(request: Request) -> Answer:
        arrived.set()
        return Answer(200 if done.wait(60) or over.set() else 500)

    def cancel() -> None:
        arrived.wait(60)
        transport.cancel()

    with scripted(never) as (host, _):
        threading.Thread(target=cancel).start()
        with pytest.raises(RegistryError, match="cancelled"):
            transport.request("GET", f"http://{host}/")
        assert not over.is_set()
        done.set()


def test_a_cancel_between_a_requests_start_and_its_connection_ends_it() -> None:
    """The proxy is asked for after the request's look at `stop`, and before its connection."""
    done, over = threading.Event(), threading.Event()

    def cancel(url: str) -> None:
        transport.cancel()

    transport = Transport(Settings().context, proxy=cancel, limits=PATIENT)
    with scripted(lambda request: Answer(200 if done.wait(60) or over.set() else 500)) as (host, _):
        with pytest.raises(RegistryError, match="cancelled"):
            transport.request("GET", f"http://{host}/")
        assert not over.is_set()
        done.set()
