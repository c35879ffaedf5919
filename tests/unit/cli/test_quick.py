"""Command lines that need no click mean what click makes of them; what is wrong with others is click's to say."""

from __future__ import annotations

import click
import pytest

from layerfs.cli.app import cli, load_verb
from layerfs.cli.flags import parse
from layerfs.cli.quick import _verb, attempt

LINES = [
    "ps",
    "ps -aq --no-trunc",
    "ps -n5 -f name=a -f name=b=c --filter=STATUS=exited --format {{.ID}}",
    "rm a -f b",
    "rm -fv a -- -b",
    "rm --force=false a",
    "inspect a --type image -f {{.Id}} b",
    "inspect --type=volume -sq a",
    "start a b -i --no-sig-proxy",
    "start -a --detach-keys=ctrl-x a",
    "exec -it -eA=1 --env B=2 -u 1:2 c sh -c -x",
    "exec -d --privileged c -- true",
    "create --rm -v /a:/b image -x",
    "run -dit --name n --no-sig-proxy image sh -c x",
    "pull --platform linux/arm64 -q a",
    "push a:1 -a --compression=zstd --exact",
]
UNCLEAR = [
    "",
    "ps x",
    "ps -f x",
    "ps --last=x",
    "ps --help",
    "rm",
    "rm -x a",
    "rm --force=perhaps a",
    "inspect --type=nothing a",
    "inspect a --format",
    "start --restart-policy",
    "push",
    "push --compression lz4 a",
    "pull a b",
    "exec c",
    "container",
    "container inspect a",
    "container prune",
    "images",
]


@pytest.mark.parametrize("line", LINES)
def test_click_reads_the_same(line: str) -> None:
    name, *words = line.split()
    plain, command = _verb(name), load_verb(name)
    assert plain is not None
    assert command is not None
    options, rest = parse(words, plain.flags, mixed=plain.mixed)
    values = command.make_context(name, words, parent=click.Context(cli, **cli.context_settings)).params
    assert options == {flag.name: values[flag.name] for flag in plain.flags}
    taken = [values[each.name] for each in command.params if isinstance(each, click.Argument)]
    assert rest == [word for each in taken for word in (each if isinstance(each, tuple) else (each,))]
    assert plain.least <= len(rest) <= (len(rest) if plain.most is None else plain.most)


@pytest.mark.parametrize("line", UNCLEAR)
def test_what_is_wrong_is_left_to_click(line: str) -> None:
    assert attempt(line.split()) is None
