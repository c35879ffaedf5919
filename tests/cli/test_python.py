"""What the command line's nouns do, from Python."""

from __future__ import annotations

import time

import pytest

from layerfs.errors import InvalidInput

pytestmark = pytest.mark.root


def test_volumes(opened, shell):
    made = opened.volumes.create("data", {"kind": "test"})
    box = shell("echo kept > /data/f", volumes=["data:/data"])
    box.start()
    assert box.wait() == 0
    assert (made.path / "f").read_text() == "kept\n"
    assert opened.volumes.users("data") == [box]
    box.remove()
    opened.volumes.remove("data")
    assert opened.volumes.all() == []


def test_events(opened, shell):
    began = time.time_ns()
    box = shell("true")
    box.start()
    box.wait()
    filters = {"container": [box.name], "event": ["create", "start"]}
    found = opened.events(since_ns=began, until_ns=time.time_ns(), filters=filters)
    assert [event["Action"] for event in found] == ["create", "start"]
    with pytest.raises(InvalidInput):
        opened.events(filters={"colour": ["red"]})
