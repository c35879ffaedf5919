"""The instructions of --change, one by one."""

from typing import Any

import pytest

from layerfs.errors import InvalidInput
from layerfs.image.changes import apply_changes
from layerfs.image.values import parse_duration
from layerfs.oci import ContainerConfig, Healthcheck


def after(*changes: str, **start: Any) -> ContainerConfig:
    return apply_changes(ContainerConfig(**start), changes)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ('CMD ["a", "b c"]', "cmd", ("a", "b c")),
        ("CMD echo  $HOME", "cmd", ("/bin/sh", "-c", "echo  $HOME")),
        ("CMD ['a']", "cmd", ("/bin/sh", "-c", "['a']")),
        ("CMD []", "cmd", ()),
        ('cmd ["a", 1]', "cmd", ("/bin/sh", "-c", '["a", 1]')),
        ('ENTRYPOINT ["e"]', "entrypoint", ("e",)),
        ("ENV A=1 B='2 3' C=\"4 $X\"", "env", ("X=x", "A=1", "B=2 3", "C=4 x")),
        ("ENV A 1  2", "env", ("X=x", "A=1  2")),
        ("ENV X=y Z=$X", "env", ("X=y", "Z=x")),
        ("ENV A=b=c", "env", ("X=x", "A=b=c")),
        ("ENV A=", "env", ("X=x", "A=")),
        ("EXPOSE 443 80-82/udp", "exposed_ports", ("443/tcp", "80/udp", "81/udp", "82/udp")),
        ("LABEL b=2 a=\"x y\" 'c d'=3", "labels", (("a", "x y"), ("b", "2"), ("c d", "3"))),
        ("LABEL maintainer me you", "labels", (("maintainer", "me you"),)),
        ("ONBUILD RUN echo x", "on_build", ("RUN echo x",)),
        ("USER 1000:$X", "user", "1000:x"),
        ('VOLUME ["/data", "/b b"]', "volumes", ("/b b", "/data")),
        ("VOLUME /a /b", "volumes", ("/a", "/b")),
        ("WORKDIR /a//b/../c", "working_dir", "/a/c"),
        ("WORKDIR //x", "working_dir", "/x"),
        ("STOPSIGNAL SIGRTMIN+3", "stop_signal", "SIGRTMIN+3"),
        ("STOPSIGNAL 9", "stop_signal", "9"),
        ("HEALTHCHECK NONE", "healthcheck", Healthcheck(("NONE",))),
        ("HEALTHCHECK CMD true", "healthcheck", Healthcheck(("CMD-SHELL", "true"))),
        (
            'HEALTHCHECK --interval=1m30s --timeout=1.5s --start-interval=5ms --retries=3 CMD ["a"]',
            "healthcheck",
            Healthcheck(("CMD", "a"), 90 * 10**9, 1_500_000_000, 0, 5_000_000, 3),
        ),
    ],
)
def test_one_instruction(change: str, field: str, value: object) -> None:
    assert getattr(after(change, env=("X=x",)), field) == value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("RUN x", "run is not a valid change command"),
        ("FROM x", "from is not a valid change command"),
        ("SHELL []", "shell is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=1 B", 'find = in "B"'),
        ("ENV =x", "ENV names can not be blank"),
        ("EXPOSE 99999", "Invalid containerPort: 99999"),
        ("EXPOSE 9-8", "Invalid containerPort"),
        ("EXPOSE 80/icmp", "Invalid proto: icmp"),
        ("ONBUILD onbuild RUN x", "Chaining ONBUILD"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("STOPSIGNAL NOPE", "invalid signal: NOPE"),
        ("STOPSIGNAL 65", "invalid signal: 65"),
        ("USER a b", "USER requires exactly one argument"),
        ('VOLUME [""]', "can not be an empty string"),
        ("HEALTHCHECK WHAT x", "Unknown type"),
        ("HEALTHCHECK CMD", "Missing command"),
        ("HEALTHCHECK --interval=5 CMD x", "invalid duration"),
        ("HEALTHCHECK --interval=1us CMD x", "cannot be less than 1ms"),
        ("HEALTHCHECK --retries=x CMD y", "retries"),
        ("HEALTHCHECK --nope=x CMD y", "unknown flag: --nope"),
        ("WORKDIR $NOTHING", "cannot normalize nothing"),
    ],
)
def test_a_bad_instruction_is_refused(change: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        after(change)


def test_entrypoint_drops_an_inherited_cmd_but_not_one_set_beside_it() -> None:
    assert after('ENTRYPOINT ["e"]', cmd=("old",)).cmd is None
    assert after('CMD ["c"]', 'ENTRYPOINT ["e"]', cmd=("old",)).cmd == ("c",)


def test_relative_workdirs_follow_each_other() -> None:
    assert after("WORKDIR a", "WORKDIR b", working_dir="/w").working_dir == "/w/a/b"


def test_shell_form_uses_the_images_shell() -> None:
    assert after("CMD x", shell=("/bin/bash", "-ec")).cmd == ("/bin/bash", "-ec", "x")


def test_one_change_may_hold_several_and_continued_lines() -> None:
    assert after("ENV A=1 \\\n  B=2\n# note\n\nUSER u").env == ("A=1", "B=2")


def test_an_env_name_is_replaced_in_its_place() -> None:
    assert after("ENV A=9", env=("A=1", "B=2")).env == ("A=9", "B=2")


@pytest.mark.parametrize(("text", "ns"), [("0", 0), ("1h2m3s", 3723 * 10**9), (".5s", 500_000_000), ("-1s", -(10**9))])
def test_go_durations(text: str, ns: int) -> None:
    assert parse_duration(text) == ns
