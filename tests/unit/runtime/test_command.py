"""ENTRYPOINT, CMD and the environment."""

import pytest

from layerfs.errors import InvalidInput, RunError
from layerfs.runtime.command import PATH, compose_argv, compose_env

SHELL = ["/bin/sh", "-c"]
TABLE = [  # the table of Dockerfile forms: Entrypoint, Cmd, what runs
    (None, ["cmd", "a"], [b"cmd", b"a"]),
    (None, [*SHELL, "cmd"], [b"/bin/sh", b"-c", b"cmd"]),
    ([*SHELL, "entry"], None, [b"/bin/sh", b"-c", b"entry"]),
    ([*SHELL, "entry"], ["cmd"], [b"/bin/sh", b"-c", b"entry", b"cmd"]),  # cmd is $0 of the shell: without effect
    (["entry"], None, [b"entry"]),
    (["entry"], ["cmd", "a"], [b"entry", b"cmd", b"a"]),
    (["entry"], [*SHELL, "cmd"], [b"entry", b"/bin/sh", b"-c", b"cmd"]),
]


@pytest.mark.parametrize(("entrypoint", "cmd", "argv"), TABLE)
def test_entrypoint_and_cmd_combine_as_docker_has_it(entrypoint, cmd, argv):
    assert list(compose_argv({"Entrypoint": entrypoint, "Cmd": cmd}, None, None)) == argv


def test_nothing_to_run_is_an_error_in_dockers_words():
    with pytest.raises(RunError, match="no command specified") as caught:
        compose_argv({"Entrypoint": None, "Cmd": []}, None, None)
    assert caught.value.exit_code == 125


def test_command_words_replace_cmd_only():
    assert compose_argv({"Entrypoint": ["e"], "Cmd": ["c"]}, ["x", "y"], None) == (b"e", b"x", b"y")


def test_an_entrypoint_drops_the_images_cmd():
    assert compose_argv({"Entrypoint": ["e"], "Cmd": ["c"]}, None, ["new"]) == (b"new",)


def test_an_empty_entrypoint_resets_it():
    assert compose_argv({"Entrypoint": ["e"], "Cmd": ["c"]}, ["x"], [""]) == (b"x",)


def test_bytes_that_are_not_utf8_pass():
    assert compose_argv({}, [b"\xff", "\udcfe"], None) == (b"\xff", b"\xfe")


def test_a_plain_string_is_no_command():
    with pytest.raises(InvalidInput):
        compose_argv({}, "ls -l", None)


def env(image=(), given=(), **options):
    return list(compose_env({"Env": list(image)}, given, hostname=b"box", home=b"/h", **options))


def test_the_environment_starts_with_path_and_hostname_and_ends_with_home():
    assert env() == [PATH, b"HOSTNAME=box", b"HOME=/h"]


def test_given_variables_come_before_the_images_and_win():
    assert env(["A=1", "B=2"], ["B=3", "C=4"])[2:] == [b"B=3", b"C=4", b"A=1", b"HOME=/h"]


def test_an_images_path_keeps_the_place_of_the_default():
    assert env(["A=1", "PATH=/x"])[:3] == [b"PATH=/x", b"HOSTNAME=box", b"A=1"]


def test_a_name_alone_takes_the_images_variable_away():
    assert env(["A=1"], ["A"]) == [PATH, b"HOSTNAME=box", b"HOME=/h"]


def test_an_empty_value_stays():
    assert b"B=" in env([], ["B="])


def test_term_only_on_a_terminal():
    assert env(tty=True)[2] == b"TERM=xterm"


def test_a_variable_without_a_name_is_refused():
    with pytest.raises(InvalidInput):
        env([], ["=x"])
