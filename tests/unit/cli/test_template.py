"""Go templates: what docker users type after --format."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerfs.cli.gotypes import typed
from layerfs.cli.table import table, unescape
from layerfs.cli.template import Template
from layerfs.errors import InvalidInput

VALUE = {
    "ID": "x",
    "Config": {"Env": ["A=1", "B=2"], "Labels": {"k": "v"}},
    "Mounts": [{"Source": "/s"}],
    "Empty": "",
    "N": 3,
}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("{{.ID}}", "x"),
        ("a {{- .ID -}} b", "axb"),
        ("{{json .Config.Env}}", '["A=1","B=2"]'),
        ("{{range .Config.Env}}{{println .}}{{end}}", "A=1\nB=2\n"),
        ("{{range $i, $e := .Config.Env}}{{if $i}},{{end}}{{$e}}{{end}}", "A=1,B=2"),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if .Empty}}yes{{else if eq .ID `x`}}x{{else}}no{{end}}", "x"),
        ("{{with .Config}}{{.Labels.k}}{{end}}", "v"),
        ("{{$v := .ID}}{{$v}}{{$.N}}", "x3"),
        ('{{index .Config.Labels "k"}}', "v"),
        ("{{(index .Mounts 0).Source}}", "/s"),
        ('{{join .Config.Env ";" | upper}}', "A=1;B=2"),
        ('{{printf "%s-%d" .ID .N}}', "x-3"),
        ("{{len .Config.Env}} {{.Config.Env}} {{.Config.Labels}}", "2 [A=1 B=2] map[k:v]"),
        ('{{truncate "abcdef" 3}}{{/* a comment */}}', "abc"),
        ("{{not .Empty}} {{and .ID .N}} {{or .Empty .ID}}", "true 3 x"),
        ('{{if and .Empty (eq .Empty.Nothing "x")}}yes{{else}}no{{end}}', "no"),
        ("{{(index (index .Config.Env) 1)}} {{(slice .Config.Env 1)}} {{slice .ID 0 1}}", "B=2 [B=2] x"),
        ('{{index .Config.Labels "nope"}}|', "|"),
        ("{{range .Config.Env}}{{if eq . `B=2`}}{{break}}{{end}}<{{.}}>{{end}}", "<A=1>"),
        ("{{range .Config.Env}}{{if eq . `A=1`}}a{{continue}}{{end}}<{{.}}>{{end}}", "a<B=2>"),
        ("{{range 3}}{{.}}{{end}}", "012"),
        (
            '{{printf "%-4s|%4d|%04d|%x|%t|%.1f|%%|%q|%v" .ID 5 5 255 true 1.25 "a" .Mounts}}',
            'x   |   5|0005|ff|true|1.2|%|"a"|[map[Source:/s]]',
        ),
        (
            '{{printf "%d" .ID}} {{printf "%s"}} {{printf "a" 1}} {{printf "%T" .N}}',
            "%!d(string=x) %!s(MISSING) a%!(EXTRA int=1) int",
        ),
        ('{{html "<a>"}} {{urlquery "a b"}}', "&lt;a&gt; a+b"),
    ],
)
def test_templates_render_as_in_go(text: str, want: str) -> None:
    assert Template(text)(VALUE) == want


@pytest.mark.parametrize(
    "text",
    [
        "{{.Nope}}",
        "{{.ID.X}}",
        "{{",
        "{{nofunc .}}",
        "{{if .ID}}",
        "{{end}}",
        "{{.ID .ID}}",
        "{{lower 1}}",
        '{{"a}}',
        "{{break}}",
        "{{range 1.5}}{{end}}",
        "{{index .Config.Env 2}}",
        "{{index .Config.Env -1}}",
        "{{slice .ID 9}}",
        "{{and}}",
        "{{(" + "(" * 5000,
    ],
)
def test_wrong_templates_are_a_clear_error(text: str) -> None:
    with pytest.raises(InvalidInput, match="template parsing error"):
        Template(text)(VALUE)


INSPECTED = {
    "Id": "abc",
    "State": {"Status": "running", "Pid": 5},
    "Config": {"Labels": {"k": "v"}, "ExposedPorts": {"80/tcp": {}}, "Cmd": None},
    "HostConfig": {
        "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0},
        "LogConfig": {"Type": "json-file", "Config": {}},
        "CapAdd": None,
        "Sysctls": None,
        "PidsLimit": None,
    },
    "Mounts": [{"Type": "volume", "RW": True}],
    "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "7777"}], "81/tcp": None}},
}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("{{.HostConfig.RestartPolicy}} {{.HostConfig.LogConfig}}", "{always 0} {json-file map[]}"),
        ("{{.Config.Labels}} {{.Config.ExposedPorts}} {{.Mounts}}", "map[k:v] map[80/tcp:{}] [{volume true}]"),
        ("{{.HostConfig.CapAdd}} {{.HostConfig.Sysctls}} {{.HostConfig.PidsLimit}}", "[] map[] <nil>"),
        ("{{.NetworkSettings.Ports}}", "map[80/tcp:[{127.0.0.1 7777}] 81/tcp:[]]"),
        ('{{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}}', "7777"),
        ("{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}", "none"),
        ("{{.State.Health}} {{len .Config.Cmd}} {{json .Config.Cmd}} {{.SizeRw}}", "<nil> 0 null <nil>"),
        ("{{.Config.User}}|{{range .Config.Env}}x{{end}}|{{.Config.Volumes}}", "||map[]"),
        ("{{json .State}}", '{"Status":"running","Pid":5}'),
        (
            "{{range $p, $b := .NetworkSettings.Ports}}{{$p}}={{range $b}}{{.HostPort}}{{end}} {{end}}",
            "80/tcp=7777 81/tcp= ",
        ),
    ],
)
def test_what_is_inspected_prints_as_docker_prints_its_types(text: str, want: str) -> None:
    assert Template(text)(typed(INSPECTED)) == want


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{.State.Health.Status}}", "nil pointer evaluating .Status"),
        ("{{.State.Nope}}", 'map has no entry for key "Nope"'),
        ("{{.Config.Labels.User}}", 'map has no entry for key "User"'),
        ('{{index (index .NetworkSettings.Ports "81/tcp") 0}}', "index out of range: 0"),
    ],
)
def test_what_an_inspected_thing_has_not_is_told(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        Template(text)(typed(INSPECTED))


def test_tables_are_padded_as_docker_pads_them() -> None:
    assert table(["A", "B"], [["x" * 12, "y"]]) == "A" + " " * 14 + "B\n" + "x" * 12 + "   y"


def test_tabs_may_be_typed() -> None:
    assert unescape(r"table {{.A}}\t{{.B}}") == "table {{.A}}\t{{.B}}"


TEXT = st.text(st.characters(blacklist_characters="{}", blacklist_categories=["Cs"]))


@given(TEXT)
def test_text_without_actions_is_itself(text: str) -> None:
    assert Template(text)({}) == text


@given(st.dictionaries(st.from_regex(r"[A-Z][a-z]{0,5}", fullmatch=True), TEXT, min_size=1))
def test_fields_render_as_their_values(value: dict[str, str]) -> None:
    template = Template("".join(f"<{{{{.{key}}}}}>" for key in value))
    assert template(value) == "".join(f"<{text}>" for text in value.values())


@given(st.text(alphabet='{}.$|()"`\\-: aeifrngwth=,1'))
def test_any_text_is_a_template_or_a_clear_error(text: str) -> None:
    with contextlib.suppress(InvalidInput):
        Template(text)(VALUE)


@given(st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda v: st.lists(v) | st.dictionaries(TEXT, v)))
def test_json_is_json_in_one_line(value: object) -> None:
    text = Template("{{json .}}")(value)
    assert json.loads(text) == value
    assert "\n" not in text


@given(st.lists(st.lists(st.text(st.characters(categories=["L", "N"])), min_size=3, max_size=3), max_size=5))
def test_columns_of_a_table_begin_at_the_same_place(rows: list[list[str]]) -> None:
    lines = table(["ONE", "TWO", "THREE"], rows).split("\n")
    second = lines[0].index("TWO")
    third = lines[0].index("THREE")
    assert [line[second:third].rstrip() for line in lines[1:]] == [row[1].rstrip() for row in rows]
    assert [line[third:].rstrip() for line in lines[1:]] == [row[2].rstrip() for row in rows]
