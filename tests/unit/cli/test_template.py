"""Go templates: what docker users type after --format."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    ],
)
def test_templates_render_as_in_go(text: str, want: str) -> None:
    assert Template(text)(VALUE) == want


@pytest.mark.parametrize(
    "text",
    ["{{.Nope}}", "{{.ID.X}}", "{{", "{{nofunc .}}", "{{if .ID}}", "{{end}}", "{{.ID .ID}}", "{{lower 1}}", '{{"a}}'],
)
def test_wrong_templates_are_a_clear_error(text: str) -> None:
    with pytest.raises(InvalidInput, match="template parsing error"):
        Template(text)(VALUE)


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
