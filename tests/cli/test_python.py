"""What the command line's nouns do, from Python."""

from __future__ import annotations

import io
import time

import pytest

import layerfs
from layerfs.engine.settings import Settings
from layerfs.errors import ContainerNotFound, InvalidInput
from layerfs.runtime.resources import NAMES

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


def test_streams_may_be_any_file_objects(shell):
    box = shell("true")
    written, text, errors = io.BytesIO(), io.StringIO(), io.BytesIO()
    many = b"line\n" * 100_000
    done = box.run(["sh", "-c", "cat; echo told >&2"], stdin=io.BytesIO(many), stdout=written, stderr=errors)
    assert (done.returncode, written.getvalue() == many, errors.getvalue()) == (0, True, b"told\n")
    assert box.run(["cat"], stdin="h\u00e9", stdout=text).stdout == b"" and text.getvalue() == "h\u00e9"
    assert box.run(["cat"], stdin=io.StringIO("text")).stdout == b"text"
    assert box.run(["true"], stdin=io.BytesIO(many)).returncode == 0  # who does not read it
    for wrong in ({"stdin": object()}, {"stdout": 1.5}, {"stdout": io.BytesIO(), "stderr": object()}):
        with pytest.raises(InvalidInput, match="is no stream"):
            box.run(["true"], **wrong)


def test_a_stream_may_take_less_than_it_is_given(shell):
    class Slow:
        taken = b""

        def write(self, data):
            self.taken += data[:7]
            return len(data[:7])

    slow = Slow()
    shell("true").run(["sh", "-c", "echo one two three; echo four"], stdout=slow)
    assert slow.taken == b"one two three\nfour\n"


def test_what_goes_wrong_with_a_stream_is_raised_and_the_program_ends(shell):
    class Full:
        def write(self, data):
            raise OSError(28, "full")

        def read(self, count):
            raise OSError(5, "broken")

    box = shell("true")
    with pytest.raises(OSError, match="full"):
        box.run(["yes"], stdout=Full())
    with pytest.raises(OSError, match="broken"):
        box.run(["cat"], stdin=Full())
    box.start()


def test_exec_takes_file_objects_and_a_timeout_ends_it(shell):
    box = shell("sleep 100")
    box.start()
    written = io.BytesIO()
    with pytest.raises(layerfs.errors.RunTimeout):
        box.exec(["sh", "-c", "echo before; sleep 100"], stdout=written, timeout=3)
    assert written.getvalue() == b"before\n"
    box.remove(force=True)


def test_a_container_may_be_for_a_block(opened, shell):
    with shell("sleep 100") as box:
        box.start()
        assert box.inspect()["State"]["Status"] == "running" and box.inspect(size=True)["SizeRw"] == 0
        assert box.image.inspect()["Id"] == box.image.id
    with pytest.raises(ContainerNotFound):
        opened.container(box.id)
    with shell("true") as box:
        box.remove()
    box = shell("true")
    with opened.container(box.id) as same, same.fork("child") as child:
        assert child.name == "child"
    assert [each.name for each in opened.containers()] == [box.name]  # it was there before


def test_settings_may_be_mappings(shell, tmp_path):
    (tmp_path / "there").write_text("x")
    how = {"volumes": {tmp_path: "/v:ro"}, "env": {"N": 1, "HOME": None}, "extra_hosts": {"away": "10.1.2.3"}}
    done = shell("true").run(["sh", "-c", "ls /v; echo $N; cat /etc/hosts"], **how)
    assert b"there\n1\n" in done.stdout and b"10.1.2.3\taway" in done.stdout
    for name in ("publish", "cap_add", "command"):
        with pytest.raises(InvalidInput, match=f"{name} must be a list of strings"):
            shell("true").run(**{name: {"a": "b"}})


def test_paths_of_the_host_may_be_path_objects(shell, tmp_path):
    box = shell("true")
    (tmp_path / "in").write_text("in")
    box.copy_in(tmp_path / "in", "/x")
    box.copy_out("/x", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "in"


def test_all_settings_are_documented():
    ours = {"resources", "detached", "unnamed_volumes", "auto_ids", "attachments"}
    names = set(Settings.__dataclass_fields__) - ours | NAMES - {"pids_limit"}
    words = {word.strip("`;:,.()") for word in layerfs.Store.create.__doc__.split()}
    assert names <= words, names - words
