"""Answers as servers give them: good, odd, hostile. The standard library's reader is the oracle where both accept."""

from __future__ import annotations

import http.client
import io
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from layerfs.registry.http1 import CHUNK_LINE_MAX, FIELDS_MAX, LINE_MAX, CutOff, Message, ProtocolError
from layerfs.registry.pace import HeadTooLong

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
NO_LENGTHS = (b"", b"-1", b"+5", b"1_0", b"0x5", b"x", b"5 5", b"5,", b"5,4", b"\xb2", b"9" * 19)
NO_CODINGS = (b"", b"gzip, chunked", b"chunked, chunked", b"x", b"identity", b"\x0bchunked")
NO_SIZES = (b"", b"-1", b"+1", b"0x1", b"1_0", b" 1", b"g", b"1 2", b"1,")


class Wire:
    """A socket on which these bytes come, at most `step` at a time, and then the end."""

    def __init__(self, raw: bytes, step: int = 1 << 20) -> None:
        self._file, self._step = io.BytesIO(raw), step

    def gettimeout(self) -> float:
        return 60.0

    def recv(self, count: int) -> bytes:
        return self._file.read(min(count, self._step))

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._file)  # type: ignore[type-var]

    @property
    def is_empty(self) -> bool:
        """Whether a connection has nothing more to say, which is looked at before it is used again."""
        return not self._file.read()


def answer(raw: bytes, method: str = "GET", step: int = 1 << 20) -> tuple[Message, bytes, bool]:
    """The answer, its body, and whether its connection is used again."""
    wire: Any = Wire(raw, step)
    message = Message(wire, method)
    body = b""
    while data := message.read1(7):
        body += data
    return message, body, message.is_reusable and wire.is_empty


@pytest.mark.parametrize(
    ("raw", "body", "reusable"),
    [
        (OK + b"Content-Length: 3\r\n\r\nabc", b"abc", True),
        (OK + b"content-length:3\r\nCONTENT-LENGTH: 3\r\n\r\nabc", b"abc", True),
        (OK + b"Content-Length: 3 , 3\r\n\r\nabc", b"abc", True),
        (OK + b"Content-Length: 3\r\n\r\nabcd", b"abc", False),  # what comes after is nobody's
        (OK + b"Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", b"", False),
        (OK + b"Content-Length: 3\r\nConnection: x , Close\r\n\r\nabc", b"abc", False),
        (OK + b"\r\nuntil the end", b"until the end", False),
        (b"HTTP/1.1 200 OK\nContent-Length: 1\n\na", b"a", True),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 999 \xe4\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", b"a", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\na", b"a", True),
        (b"HTTP/1.1 204 None\r\nContent-Length: 7\r\n\r\n", b"", True),
        (b"HTTP/1.1 304 Same\r\nTransfer-Encoding: chunked\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Go on\r\n\r\nHTTP/1.1 103 x\r\nX: y\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\na", b"a", True),
        (CHUNKED + b"3\r\nabc\r\nA;name=\"x\"\r\n0123456789\r\n0\r\n\r\n", b"abc0123456789", True),
        (CHUNKED + b"3\r\nabc\r\n000\r\nTrailer: x\r\n\r\n", b"abc", True),
        (CHUNKED + b"0\r\n\r\nx", b"", False),
        (OK + b"Transfer-Encoding: Chunked\r\nContent-Length: 9\r\n\r\n1\r\na\r\n0\r\n\r\n", b"a", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"", False),
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_answers_that_are_clear(raw: bytes, body: bytes, reusable: bool, step: int) -> None:
    assert answer(raw, step=step)[1:] == (body, reusable)


def test_an_answer_to_head_has_no_body() -> None:
    for framing in (b"Content-Length: 9", b"Transfer-Encoding: chunked", b"X: y"):
        message, *rest = answer(OK + framing + b"\r\n\r\n", "HEAD")
        assert (message.is_empty, *rest) == (True, b"", True)


def test_headers_in_any_case_and_on_several_lines() -> None:
    message, *_ = answer(OK + b"One: a\r\n\t b \r\nTWO:\r\nTwo: \xe4 \r\nContent-Length: 0\r\n\r\n")
    assert [message.headers.get(name) for name in ("one", "two", "three")] == ["a b", ", ä", None]


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n" + OK + b"\r\n",
        b"<html>\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46\n\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.10 200 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 101 Other\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        OK + b" Content-Length: 1\r\n\r\na",
        OK + b"Content-Length : 1\r\n\r\na",
        OK + b"Content-Length\r\n\r\na",
        OK + b": 1\r\n\r\na",
        OK + b"Content Length: 1\r\n\r\na",
        OK + b"X: a\rContent-Length: 1\r\n\r\na",
        OK + b"X: a\0b\r\n\r\n",
        OK + b"X\0: b\r\n\r\n",
        *(OK + b"Content-Length: " + length + b"\r\n\r\n12345" for length in NO_LENGTHS),
        OK + b"Content-Length: 5\r\n 5\r\n\r\n12345",
        OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        *(OK + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n" for coding in NO_CODINGS),
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        *(CHUNKED + size + b"\r\na\r\n0\r\n\r\n" for size in NO_SIZES),
        CHUNKED + b"1\na\r\n0\r\n\r\n",
        CHUNKED + b"1;x\n\r\na\r\n0\r\n\r\n",
        CHUNKED + b"1\r\nabc\r\n0\r\n\r\n",
        CHUNKED + b"1\r\na\n0\r\n\r\n",
        CHUNKED + b"1" * 16 + b"\r\na",
        CHUNKED + b"0\r\nno trailer\r\n\r\n",
        CHUNKED + b"1;" + b"x" * CHUNK_LINE_MAX + b"\r\na\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nX: " + b"x" * LINE_MAX + b"\r\n\r\n",
        OK + b"X: y\r\n" * (FIELDS_MAX + 1) + b"\r\n",
        OK + b"X: y\r\n" + b" z\r\n" * FIELDS_MAX + b"\r\n",
        CHUNKED + b"0\r\n" + b"X: y\r\n" * (FIELDS_MAX + 1) + b"\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_is_not_clear_is_an_error(raw: bytes, step: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        answer(raw, step=step)
    assert not isinstance(caught.value, CutOff)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("whole", [OK + b"Content-Length: 3\r\n\r\nabc", CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n\r\n"])
def test_the_end_comes_too_early_everywhere(whole: bytes) -> None:
    for end in range(len(whole)):
        with pytest.raises(CutOff):
            answer(whole[:end])


@pytest.mark.parametrize(
    ("start", "more"),
    [(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"", b"x"), (OK, b"X: y\r\n"), (OK + b"X: ", b"y" * 10), (OK, b" y\n")],
)
def test_endless_beginnings_end(start: bytes, more: bytes) -> None:
    with pytest.raises(HeadTooLong):
        answer(start + more * (2**20 // len(more) + 9999))


TOKEN = st.text("abcXYZ019!#$-_~", min_size=1, max_size=8).map("X-".__add__)
VALUE = st.text('ab\t ,;:="\\\x7fäÿ', max_size=12)
FIELDS = st.lists(st.tuples(TOKEN, VALUE.map(lambda value: value.strip(" \t"))), max_size=6)


def written(fields: list[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode("latin-1")


@given(
    status=st.integers(200, 999).filter(lambda status: status not in (204, 304)),
    fields=FIELDS,
    trailers=FIELDS,
    interim=st.lists(st.sampled_from([100, 102, 103, 199]), max_size=2),
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    framing=st.sampled_from(["length", "chunks", "end"]),
    step=st.integers(1, 60),
)
def test_what_is_written_is_read(
    status: int,
    fields: list[tuple[str, str]],
    trailers: list[tuple[str, str]],
    interim: list[int],
    pieces: list[bytes],
    framing: str,
    step: int,
) -> None:
    body = b"".join(pieces)
    how = {"length": f"Content-Length: {len(body)}\r\n", "chunks": "Transfer-Encoding: chunked\r\n", "end": ""}[framing]
    raw = b"".join(b"HTTP/1.1 %d x\r\n%s\r\n" % (one, written(fields)) for one in interim)
    raw += b"HTTP/1.1 %d x\r\n%s%s\r\n" % (status, written(fields), how.encode())
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    raw += chunks + b"0\r\n" + written(trailers) + b"\r\n" if framing == "chunks" else body
    message, *rest = answer(raw, step=step)
    assert (message.status, *rest) == (status, body, framing != "end")
    for name, _ in fields:
        assert message.headers.getlist(name) == [value for each, value in fields if each.lower() == name.lower()]


PARTS = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 404 \r\n", b"HTTP/1.1 100 \r\n\r\n", b"HTTP/1.1 204 x\r\n"),
        *(b"Content-Length: 3\r\n", b"content-length: 3\r\n", b"Content-Length: 4\r\n", b"\r\n", b"\n", b"\r"),
        *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Transfer-Encoding: chunked\r\n"),
        *(b"X: y\r\n", b" z\r\n", b" ", b":", b"\0", b","),
        *(b"\r\n\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"3;x\r\nabc\r\n", b"abc", b"1", b"0"),
    ]
)


@given(parts=st.lists(PARTS, max_size=10), step=st.integers(1, 40))
def test_where_the_standard_library_accepts_it_too_it_reads_the_same(parts: list[bytes], step: int) -> None:
    raw = b"HTTP/1.1 200 OK\r\n" + b"".join(parts)
    try:
        message, body, reusable = answer(raw, step=step)
    except ProtocolError:
        return
    wire: Any = Wire(raw)
    oracle = http.client.HTTPResponse(wire, method="GET")
    oracle.begin()
    assume(oracle.status != 204)  # whose chunks it reads
    assert (message.status, body) == (oracle.status, oracle.read())
    for name, value in oracle.headers.items():
        assert value.split() == message.headers.get(name).split() or "," in message.headers.get(name)
    assert not (reusable and oracle.will_close)


@given(st.binary(max_size=300), st.integers(0, 60))
def test_noise_is_an_answer_or_an_error(noise: bytes, at: int) -> None:
    start = (CHUNKED + b"3\r\nabc\r\n")[:at]
    try:
        answer(start + noise)
    except ProtocolError as error:
        assert str(error).isprintable()
