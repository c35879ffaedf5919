"""History texts: the classic builder's, and Go's durations; BuildKit's are in the corpus."""

from __future__ import annotations

import pytest

from layerfs.build.historytext import classic, duration
from layerfs.build.parse import parse
from layerfs.build.stages import plan

SHELL = ("/bin/sh", "-ec")


@pytest.mark.parametrize(
    ("line", "shell", "text"),
    [
        ("RUN echo run > /run1", (), "/bin/sh -c echo run > /run1"),
        ("ENV A=1 B=2", (), "/bin/sh -c #(nop)  ENV A=1 B=2"),
        ("CMD a b", (), '/bin/sh -c #(nop)  CMD ["/bin/sh" "-c" "a b"]'),
        ("COPY a /b", (), "/bin/sh -c #(nop) COPY file:00 in /b "),
        ("ADD a c /b/", (), "/bin/sh -c #(nop) ADD file:00 in /b/ "),
        ("WORKDIR w", (), "/bin/sh -c #(nop) WORKDIR /w"),
        ("EXPOSE 80 443/tcp 53/udp", (), "/bin/sh -c #(nop)  EXPOSE 443 53/udp 80"),
        ("ONBUILD RUN echo x", (), "/bin/sh -c #(nop)  ONBUILD RUN echo x"),
        ("ARG V=1", (), "/bin/sh -c #(nop)  ARG V=1"),
        ('SHELL ["/bin/sh", "-ec"]', (), "/bin/sh -ec #(nop)  SHELL [/bin/sh -ec]"),
        ("STOPSIGNAL SIGINT", SHELL, "/bin/sh -ec #(nop)  STOPSIGNAL SIGINT"),
        ("HEALTHCHECK NONE", (), '/bin/sh -c #(nop)  HEALTHCHECK &{["NONE"] "0s" "0s" "0s" "0s" \'\\x00\'}'),
    ],
)
def test_classic_texts(line: str, shell: tuple[str, ...], text: str) -> None:
    made = plan(parse(f"FROM a\n{line}\n"))
    scope = made.globals.enter()
    expanded, _ = scope.step(made.stages[0].instructions[0])
    assert classic(expanded, scope, shell, digest="file:00", workdir="/w") == text


def test_classic_runs_show_sorted_arguments() -> None:
    made = plan(parse("FROM a\nARG Z=1\nARG B=2\nRUN x\n"))
    scope = made.globals.enter()
    for instruction in made.stages[0].instructions[:2]:
        _, scope = scope.step(instruction)
    assert classic(made.stages[0].instructions[2], scope, ()) == "|2 B=2 Z=1 /bin/sh -c x"


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1100, "1.1µs"),
        (2_200_000, "2.2ms"),
        (10**9, "1s"),
        (1_500_000_000, "1.5s"),
        (60 * 10**9, "1m0s"),
        (3_661_001_000_000, "1h1m1.001s"),
        (3600 * 10**9, "1h0m0s"),
        (-1_500_000_000, "-1.5s"),
    ],
)
def test_durations_are_gos(nanoseconds: int, text: str) -> None:
    assert duration(nanoseconds) == text
