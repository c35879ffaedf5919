"""Escapes that a container could try through commands that reach into it, or show what it says."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from layerfs.engine.volumes import Volumes
from layerfs.errors import CommandNotFound, InUse, RunError
from tests.looking import eventually

pytestmark = pytest.mark.root
FOREVER = "echo ready; while :; do sleep 0.05; done"
EVIL = "\x1b]0;evil\x07\x1b[2J\x1b[31m\r"


def started(box):
    box.start()
    assert eventually(lambda: b"ready" in b"".join(entry.data for entry in box.logs()))
    return box


# exec


@pytest.mark.parametrize("where", ["/proc", "/dev/pts", "/etc", "/sys", "/dev"])
def test_exec_into_a_container_that_fakes_its_file_systems(shell, where):
    """What exec needs is opened before, or checked to be the kernel's own."""
    script = f"""mount -t tmpfs x {where}; mkdir -p {where}/self/fd {where}/self/attr
    ln -s /etc/passwd {where}/ptmx; echo root:x:0:0::/: >{where}/passwd; {FOREVER}"""
    box = started(shell(script, cap_add=["SYS_ADMIN"], seccomp="unconfined"))
    before = Path("/etc/passwd").read_bytes()
    assert box.exec(["echo", "hi"]).stdout == b"hi\n"
    if where in ("/dev/pts", "/dev"):
        with pytest.raises(RunError, match="terminal"):
            box.exec_terminal(["echo", "hi"])
    assert Path("/etc/passwd").read_bytes() == before


def test_cve_2016_9962_a_process_that_enters_shows_nothing_of_the_host(shell):
    """Until its exec it is not dumpable: neither what it has open nor its program can be looked at."""
    watch = """echo ready; while :; do for p in /proc/[0-9]*; do case $p in /proc/1|/proc/$$) ;; *)
      readlink $p/exe $p/cwd $p/root $p/fd/* 2>/dev/null;; esac; done; done"""
    box = started(shell(watch))
    for _ in range(10):
        assert box.exec(["true"]).returncode == 0
    seen = set(b"".join(entry.data for entry in box.logs()).split()) - {b"ready"}
    assert not [each for each in seen if b"memfd" in each or b"layerfs" in each or os.fsencode(box.store.path) in each]


def test_cve_2024_21626_exec_in_a_working_directory_that_leads_out(shell):
    box = started(shell(FOREVER))
    for place in ("/proc/self/fd/7", "/proc/self/fd/8/..", "/proc/1/root", "/proc/self/cwd/../.."):
        try:
            said = box.exec(["ls", "-d", "/bin/busybox", "."], workdir=place).stdout
            assert sorted(said.split()) == [b".", b"/bin/busybox"]
        except RunError:
            continue


def test_exec_of_proc_self_exe_is_the_containers(shell):
    box = started(shell(FOREVER))
    with pytest.raises((RunError, CommandNotFound)):
        box.exec(["/proc/self/fd/3"])
    assert box.exec(["readlink", "/proc/self/exe"]).stdout == b"/bin/busybox\n"


def test_a_program_that_has_ended_is_not_entered(shell):
    box = shell("true")
    box.start()
    box.wait()
    with pytest.raises(InUse, match="is not running"):
        box.exec(["true"])


# files


def test_cve_2018_15664_copies_while_directories_become_links(shell, tmp_path):
    """docker and podman resolved a path in the container, and opened it later."""
    host = tmp_path / "host"
    host.mkdir()
    (host / "f").write_text("the host's")
    swap = (
        "mkdir /a; echo mine >/a/f; ln -s {0} /l; echo ready; while :; do mv /a /b; mv /l /a; mv /a /l; mv /b /a; done"
    )
    box = started(shell(swap.format(host)))
    (tmp_path / "new").write_text("evil")
    for number in range(30):
        for action in (
            lambda number=number: box.copy_out("/a/f", str(tmp_path / f"out{number}")),
            lambda: box.copy_in(str(tmp_path / "new"), "/a/g"),
        ):
            try:
                action()
            except OSError:
                continue
    assert sorted(path.name for path in host.iterdir()) == ["f"]
    assert not [path for path in tmp_path.glob("out*") if "host" in path.read_text()]


def test_filling_a_volume_does_not_follow_links_that_come_meanwhile(shell, tmp_path, opened):
    host = tmp_path / "host"
    host.mkdir()
    (host / "secret").write_text("the host's")
    box = started(
        shell(
            f"mkdir -p /v/d; echo a >/v/d/f; ln -s {host} /v/l; echo ready; cd /v;"
            "while :; do mv d e; mv l d; mv d l; mv e d; done"
        )
    )
    for number in range(15):
        try:
            box.run(["true"], volumes=[f"fill{number}:/v"])
        except OSError:
            continue
    found = [place for volume in Volumes(opened).all() for place, _, names in os.walk(volume.path) if "secret" in names]
    assert found == []


def test_cve_2021_41091_others_of_the_host_do_not_reach_set_id_files_inside(shell):
    box = started(shell("cp /bin/busybox /su; chmod 6755 /su; " + FOREVER))
    results = []

    def look():
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            reached = [place for place in (box.upper / "su", box.directory / "merged/su") if os.access(place, os.F_OK)]
            os._exit(len(reached))
        results.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert results == [0]


# what is shown


def test_lists_show_no_commands_for_the_terminal(opened, layerfs_command):
    """docker quotes commands in ps and JSON in inspect; logs are the program's own bytes, as it wrote them."""
    box = opened.create(
        "box:1",
        command=["echo", EVIL],
        name="shown",
        labels={"a": EVIL},
        env=[f"A={EVIL}"],
        hostname="h",
        workdir="/" + EVIL,
    )
    for arguments in (
        ["ps", "-a"],
        ["ps", "-a", "--no-trunc"],
        ["ps", "-a", "--format", "{{.Command}} {{.Names}}"],
        ["inspect", "shown"],
        ["inspect", "--format", "{{json .Config}}", "shown"],
    ):
        said = layerfs_command(*arguments).stdout
        assert not {b"\x1b", b"\x07", b"\r"} & {bytes([byte]) for byte in said}, arguments
    box.start()
    box.wait()
    assert EVIL.encode() in layerfs_command("logs", "shown").stdout
    box.commit("evil:1", message=EVIL, author=EVIL)
    for arguments in (
        ["top", "shown"],
        ["history", "--no-trunc", "evil:1"],
        ["events", "--since", "1h", "--until", "0s"],
    ):
        said = layerfs_command(*arguments)
        assert b"\x1b" not in said.stdout + said.stderr


def test_errors_show_no_commands_for_the_terminal(layerfs_command):
    for arguments in (["run", "--rm", "box:1", f"/bin/{EVIL}"], ["run", "--rm", "-u", EVIL, "box:1"], ["logs", EVIL]):
        said = layerfs_command(*arguments)
        assert said.returncode != 0
        assert b"\x1b" not in said.stderr


def test_top_shows_no_commands_for_the_terminal_and_runs_nothing_of_the_image(shell, layerfs_command):
    """CVE-2022-1227: podman ran the container's programs for its top."""
    evil = "rm -f $n; echo '#!/bin/sh' >$n; echo 'touch /ran' >>$n; chmod 755 $n"
    script = f"for n in /bin/ps /bin/nsenter; do {evil}; done; {FOREVER}"
    box = started(shell(script))
    with box.exec_terminal(["sh", "-c", f"exec -a '{EVIL}' sleep 5; sleep 5"]):
        said = layerfs_command("top", box.name)
        assert said.returncode == 0
        assert b"\x1b" not in said.stdout
    assert not (box.upper / "ran").exists()
