"""Wrong command lines: docker's words and exit codes, in one line."""

from __future__ import annotations

import click
import pytest

from layerfs.cli.app import _NOUNS, _VERBS, load_verb
from layerfs.cli.output import fail

WRONG = [  # command line, exit code, part of the message
    ("ps --bad", 125, "unknown flag: --bad"),
    ("ps -x", 125, "unknown shorthand flag: 'x' in -x"),
    ("ps -aX", 125, "unknown shorthand flag: 'X'"),
    ("system df --bad", 125, "unknown flag: --bad (see 'layerfs system df --help')"),
    ("run -it x", 125, "the input device is not a TTY"),
    ("run -p 80:99999 x", 125, "invalid containerPort: 99999"),
    ("run -p 99999:80 x", 125, "invalid hostPort: 99999"),
    ("run --ipc nosuch x", 125, "invalid IPC mode: nosuch"),
    ("run -m 1m x", 125, "Minimum memory limit allowed is 6MB"),
    ("run --memory-swap 64m x", 125, "You should always set the Memory limit when using Memoryswap limit"),
    ("run --cpus 1000 x", 125, "range of CPUs is from 0.01"),
    ("run --ulimit nofile=2:1 x", 125, "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
    ("run --ulimit nosuch=1 x", 125, "invalid ulimit type: nosuch"),
    ("run --sysctl kernel.panic=1 x", 125, "sysctl 'kernel.panic' is not allowed"),
    ("run --device-read-bps sda:1m x", 125, "bad format for device-read-bps: sda:1m"),
    ("create --name", 125, "flag needs an argument: --name (see 'layerfs create --help')"),
    ("create -e", 125, "flag needs an argument: 'e' in -e"),
    ("images -f x", 125, 'invalid argument "x" for "-f, --filter" flag'),
    ("images --all=maybe", 125, 'invalid argument "maybe" for "-a, --all" flag'),
    ("ps -n many", 125, 'invalid argument for "-n, --last" flag'),
    ("--nope", 125, "unknown flag: --nope"),
    ("rmi", 1, "'layerfs rmi' requires at least 1 argument"),
    ("history", 1, "'layerfs history' requires 1 argument"),
    ("history a b", 1, "'layerfs history' requires 1 argument"),
    ("rename a", 1, "'layerfs rename' requires 2 arguments"),
    ("tag a b c", 1, "'layerfs tag' requires 2 arguments"),
    ("ps a", 1, "'layerfs ps' accepts no arguments"),
    ("images a b", 1, "'layerfs images' accepts at most 1 argument"),
    ("commit a b c", 1, "'layerfs commit' requires at least 1 and at most 2 arguments"),
    ("umount", 1, "name a mount point or a container"),
    ("nosuch", 1, "unknown command: layerfs nosuch"),
    ("image nosuch", 1, "unknown command: layerfs image nosuch"),
    ("images -f foo=1", 1, "invalid filter 'foo'"),
    ("ps -f foo=1", 1, "invalid filter 'foo'"),
    ("ps -f status=odd", 1, "invalid filter 'status=odd'"),
    ("ps -f name=[", 1, "invalid filter 'name=['"),
    ("ps -f exited=x", 1, "invalid filter 'exited=x'"),
    ("ps -f before=nosuch", 1, "No such container: nosuch"),
    ("history nosuch", 1, "No such image: nosuch:latest"),
    ("rmi nosuch", 1, "No such image: nosuch:latest"),
    ("rmi BAD", 1, "invalid reference format: repository name (library/BAD) must be lowercase"),
    ("rm nosuch", 1, "No such container: nosuch"),
    ("commit nosuch", 1, "No such container: nosuch"),
    ("diff nosuch", 1, "No such container: nosuch"),
    ("save nosuch", 1, "No such image: nosuch:latest"),
    ("export nosuch", 1, "No such container or image: nosuch"),
    ("load -i nosuch", 1, "open nosuch: no such file or directory"),
    ("import nosuch", 1, "open nosuch: no such file or directory"),
    ("umount /nosuch", 1, "nothing of this store is mounted at /nosuch"),
    ("run --pull never nosuch", 125, "No such image: nosuch:latest"),
    ("create --pull never nosuch", 125, "No such image: nosuch:latest"),
    ("run BAD", 125, "invalid reference format"),
    ("completion tcsh", 1, "'tcsh' is not one of"),
]


@pytest.mark.parametrize(("line", "code", "message"), WRONG, ids=[w[0] for w in WRONG])
def test_a_wrong_command_line_is_told_in_one_line(shell, line, code, message):
    done = shell(*line.split())
    assert (done.code, done.out) == (code, "")
    assert done.err.splitlines()[-1].startswith("layerfs: ")
    assert message in done.err


def test_a_missing_image_of_run_that_cannot_be_pulled_is_told_in_one_line(shell):
    (line,) = shell("run", "127.0.0.1:1/x").err.splitlines()
    assert line.startswith("layerfs: Unable to find image '127.0.0.1:1/x:latest' locally: Get ")


@pytest.mark.parametrize(
    "line", ["", "--help", "-h", "help", "image", "system", "debug", "help run", "run --help", "container rm -h"]
)
def test_help_is_a_result(shell, line):
    done = shell(*line.split())
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: layerfs")


@pytest.mark.parametrize("name", [*_VERBS, *(v for verbs in _NOUNS.values() for v in verbs.values())])
def test_every_verb_has_a_help_that_says_what_it_does(name):
    assert load_verb(name).get_short_help_str().rstrip(".")


@pytest.mark.parametrize("name", [*_VERBS, *(v for verbs in _NOUNS.values() for v in verbs.values())])
def test_every_option_says_what_it_does(name):
    def options(command):
        inner = command.commands.values() if isinstance(command, click.Group) else ()
        return [p for p in command.params if isinstance(p, click.Option)] + [o for c in inner for o in options(c)]

    assert [o.opts for o in options(load_verb(name)) if not o.help and not o.hidden] == []


@pytest.mark.parametrize(
    ("line", "count"), [("-aq", 1), ("-a -q", 1), ("-a=true --quiet=true", 1), ("-a=false -q", 0), ("-q", 0)]
)
def test_flags_stack_and_take_values(shell, small, line, count):
    shell("create", "small:1")
    assert len(shell("ps", *line.split()).lines) == count


def test_a_value_that_looks_like_a_flag_is_a_value(shell, small):
    assert shell("create", "--name", "cc", "--label", "--read-only=false", "small:1").code == 0
    assert shell("inspect", "-f", "{{json .Config.Labels}}", "cc").out == '{"--read-only":"false","k":"v"}\n'


def test_several_arguments_go_on_after_an_error(shell, small):
    shell("create", "--name", "one", "small:1")
    shell("create", "--name", "two", "small:1")
    done = shell("rm", "one", "nosuch", "two")
    assert (done.code, done.lines, done.err) == (1, ["one", "two"], "layerfs: No such container: nosuch\n")


def test_rm_by_force_forgives_unknown_names(shell):
    done = shell("rm", "-f", "nosuch")
    assert (done.code, done.err) == (0, "layerfs: No such container: nosuch\n")


def test_control_characters_stay_out_of_messages(shell):
    assert shell("rm", "a\x1b[31m\udcff").err == "layerfs: No such container: a\\x1b[31m\\xff\n"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("a\nb\tc", "a b c"),
        ("\x07\u200bx", "\\x07\\xe2\\x80\\x8bx"),
        ("\udce2\udc80\udca6 \udcff", "… \\xff"),
        ("\ud800", "\\ud800"),
    ],
)
def test_a_message_is_one_printable_line(capsys, message, line):
    assert fail(message, 3) == 3
    assert capsys.readouterr().err == f"layerfs: {line}\n"
