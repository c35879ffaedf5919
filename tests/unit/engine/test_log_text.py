"""Many lines of a log at once are the bytes that its lines are one by one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerfs.engine.logs import _entries, _runs

TEXTS = st.lists(st.one_of(st.binary(max_size=20), st.sampled_from([b'","stream":"', b"\\n", b'{"log":"', b"\\"])))


def line(stream: str, time: int, data: bytes) -> bytes:
    text = json.dumps(data.decode("utf-8", "surrogateescape"), ensure_ascii=False)
    text = "".join(f"\\u{ord(c):04x}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in text)
    return f'{{"log":{text},"stream":"{stream}","time":"2026-01-01T00:00:00.{time:09d}Z"}}\n'.encode()


@given(st.lists(st.tuples(st.sampled_from(["stdout", "stderr"]), TEXTS), max_size=4))
def test_it_is_the_same(pieces):
    rows = [(stream, time, text + b"\n") for time, (stream, texts) in enumerate(pieces) for text in texts]
    block = b"".join(line(*row) for row in rows)
    runs = _runs(block)
    assert runs is not None
    assert [entry.data for entry in _entries(block)] == [data for _, _, data in rows]
    for stream in ("stdout", "stderr"):
        wanted = b"".join(data for name, _, data in rows if name == stream)
        assert b"".join(text for name, text in runs if name == stream) == wanted


@pytest.mark.parametrize(
    "block",
    [
        line("stdout", 1, b"a\n") + line("stderr", 2, b"b\n") + line("stdout", 1, b"c\n"),
        line("stdout", 1, b"a\n")[:-9] + line("stdout", 1, b"b\n"),
        line("stdout", 1, b"a\n").replace(b"stdout", b"other"),
        b"".join(line("stdout", time, b"x\n") for time in range(9)),
        b"nonsense\n",
    ],
)
def test_what_is_no_run_is_left_to_the_other_reader(block):
    assert _runs(block) is None
