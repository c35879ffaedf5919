"""Exit codes and the errors of commands that do not start."""

import os

import pytest

from layerfs.errors import CommandNotExecutable, CommandNotFound, RunError


@pytest.mark.parametrize("code", [0, 1, 3, 125, 126, 127, 255])
def test_the_programs_own_code(box, code):
    assert box(f"exit {code}").returncode == code


@pytest.mark.parametrize(("number", "code"), [(9, 137), (15, 143), (11, 139), (6, 134)])
def test_death_by_a_signal_is_128_and_its_number(box, number, code):
    # PID 1 does not die of its own signals, so a helper of it is asked to pass the code on
    assert box(f"sh -c 'kill -{number} $$'; exit $?").returncode == code


def test_pid_1_is_killed_from_outside(box):
    assert box("sleep 30", on_started=lambda process: process.kill()).returncode == 137


def test_pid_1_ignores_what_it_has_no_handler_for(box):
    assert box("kill -9 $$; kill -15 $$; exit 7").returncode == 7


CASES = [
    (["nosuchcmd"], CommandNotFound, 'exec: "nosuchcmd": executable file not found in $PATH'),
    (["/no/such"], CommandNotFound, 'exec: "/no/such": stat /no/such: no such file or directory'),
    ([""], CommandNotFound, 'exec: "": executable file not found in $PATH'),
    (["/etc/passwd"], CommandNotExecutable, 'exec: "/etc/passwd": permission denied'),
    (["/etc"], CommandNotExecutable, 'exec: "/etc": is a directory'),
    (["/text"], CommandNotExecutable, "exec /text: exec format error"),
    (["/script"], CommandNotFound, "exec /script: no such file or directory"),
    (["/etc/passwd/x"], CommandNotFound, "not a directory"),
]


@pytest.mark.parametrize(("command", "kind", "text"), CASES)
def test_commands_that_do_not_start(box, root, command, kind, text):
    for name, content in (("text", "words"), ("script", "#!/no/such/interpreter\n")):
        (root / name).write_text(content)
        (root / name).chmod(0o755)
    with pytest.raises(kind) as caught:
        box(command)
    assert str(caught.value) == "unable to start container process: " + text or text in str(caught.value)
    assert caught.value.exit_code == (126 if kind is CommandNotExecutable else 127)


def test_a_file_in_path_that_cannot_run_is_passed_over(box, root):
    for place in ("first", "second"):
        (root / place).mkdir()
        (root / place / "tool").write_text("#!/bin/sh\necho " + place)
    (root / "second/tool").chmod(0o755)
    assert box(["tool"], env=["PATH=/first:/second:/bin"]).stdout == b"second\n"
    with pytest.raises(CommandNotFound):
        box(["tool"], env=["PATH=/first"])


def test_an_empty_path_entry_is_the_workdir(box, root):
    (root / "tmp/tool").write_text("#!/bin/sh\necho here")
    (root / "tmp/tool").chmod(0o755)
    assert box(["tool"], env=["PATH=/x::/bin"], workdir="/tmp").stdout == b"here\n"
    assert box(["./tool"], workdir="/tmp").stdout == b"here\n"


def test_permission_is_the_users_and_not_roots(box, root):
    (root / "only").write_text("#!/bin/sh\necho x")
    (root / "only").chmod(0o700)
    assert box(["/only"]).returncode == 0
    with pytest.raises(CommandNotExecutable):
        box(["/only"], user="bob")


def test_nothing_to_run_is_125(box):
    with pytest.raises(RunError, match="no command specified") as caught:
        box(None)
    assert caught.value.exit_code == 125


def test_a_root_that_is_not_there(box, tmp_path):
    with pytest.raises(RunError, match="no such file or directory"):
        box("true", root=tmp_path / "nowhere", user="0")


def test_arguments_that_are_not_utf8(box):
    assert box(["printf", "%s", b"\xff\xfe\n"]).stdout == b"\xff\xfe\n"


def test_names_that_are_not_utf8(box, root):
    os.link(root / "bin/busybox", os.fsencode(root) + b"/bin/\xffecho")
    with pytest.raises(CommandNotFound):
        box([b"\xff"])
    assert box(["ls", "-d", b"/bin/\xffecho"]).returncode == 0


def test_entrypoint_and_cmd_of_an_image(box):
    config = {"Entrypoint": ["echo", "e"], "Cmd": ["c"]}
    assert box(None, config=config).stdout == b"e c\n"
    assert box(["x"], config=config).stdout == b"e x\n"
    assert box(["y"], config=config, entrypoint=["printf"]).stdout == b"y"


def test_the_environment_in_dockers_order(box):
    result = box(["env"], config={"Env": ["A=1", "B=2"]}, env=["B=3", "C=4"], hostname="h")
    assert [line.split(b"=")[0] for line in result.stdout.splitlines()] == [
        b"PATH",
        b"HOSTNAME",
        b"B",
        b"C",
        b"A",
        b"HOME",
    ]


def test_too_many_arguments_are_a_clear_error(box):
    with pytest.raises(RunError, match="rgument list too long"):
        box(["echo", "x" * 200_000])
