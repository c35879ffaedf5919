"""Events that tell of everything docker tells of, in its words and order."""

from __future__ import annotations

import json

import pytest

from tests.looking import eventually

pytestmark = pytest.mark.root
FOREVER = "echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def events(opened):
    def read(box):
        lines = (opened.path / "events").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return [each for each in found if each["Actor"]["ID"] == box.id]

    return read


def actions(found):
    return [each["Action"] for each in found]


def test_a_life_with_all_that_is_done_to_it(shell, events, tmp_path):
    box = shell(FOREVER)
    box.start()
    assert eventually(lambda: b"ready" in b"".join(entry.data for entry in box.logs()))
    box.pause()
    box.unpause()
    box.update(cpu_shares=100)
    box.exec(["true"])
    box.top()
    box.export(str(tmp_path / "x.tar"))
    box.commit("made:1")
    box.rename("other")
    box.stop(0)
    assert actions(events(box)) == [
        *("create", "start", "pause", "unpause", "update", "exec_create: true", "exec_start: true", "exec_die", "top"),
        *("export", "pause", "commit", "unpause", "rename", "kill", "die", "stop"),
    ]
    assert events(box)[-2]["Actor"]["Attributes"]["exitCode"] == "137"


def test_who_attaches_and_resizes(shell, events):
    box = shell("sleep 0.2; read line; exit 0", tty=True, interactive=True)
    box.start()
    with box.attach(stdin=True) as connection:
        connection.resize(30, 90)
        connection.write(b"\n")
        for _ in connection.messages(60):
            pass
    found = events(box)
    assert actions(found) == ["create", "start", "attach", "resize", "die"]
    assert {"height": "30", "width": "90"}.items() <= found[3]["Actor"]["Attributes"].items()


def test_a_run_in_the_foreground_attaches(events, opened, layerfs_command):
    layerfs_command("run", "--name", "fore", "box:1", "true")
    assert actions(events(opened.container("fore"))) == ["create", "attach", "start", "die"]


def test_a_program_that_is_killed_for_want_of_memory(shell, events):
    box = shell("head -c 200m /dev/zero | tail -c 150m >/dev/null; exit 9", memory="20m")
    box.start()
    box.wait()
    assert actions(events(box)) == ["create", "start", "oom", "die"]
