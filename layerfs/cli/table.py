"""Rows as docker prints them: a padded table, JSON lines, or a template."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs.cli.output import out

if TYPE_CHECKING:
    from typing import Any

    Row = Mapping[str, Any]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns padded to the widest cell and three spaces, and to ten cells with these at least (reference 5.1)."""
    cells = [list(headings), *(list(r) for r in rows)]
    widths = [max(7, *(len(r[i]) for r in cells)) for i in range(len(headings))]
    lines = ("   ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells)
    return "\n".join(lines)


def aligned(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as `docker top` pads them: to twenty cells at least."""
    cells = [list(titles), *(list(r) for r in rows)]
    widths = [max(20, *(len(r[i]) + 1 for r in cells if i < len(r))) for i in range(len(titles))]
    return "\n".join("".join(c.ljust(w) for c, w in zip(r, widths, strict=False)).rstrip() for r in cells)


def _template_rows(text: str, headings: Mapping[str, str], rows: Iterable[Row]) -> list[str]:
    """`table {{.A}}\\t{{.B}}`: the heading is the template on the headings' names."""
    from layerfs.cli.template import Template

    template = Template(text)
    lines = [template(dict(headings)).split("\t"), *(template(r).split("\t") for r in rows)]
    count = max(len(line) for line in lines)
    padded = [line + [""] * (count - len(line)) for line in lines]
    return table(padded[0], padded[1:]).split("\n")


def unescape(text: str) -> str:
    """`\\t` and `\\n` typed on a command line, as docker takes them in formats."""
    return re.sub(r"\\([tn])", lambda m: {"t": "\t", "n": "\n"}[m[1]], text)


def render(
    rows: Iterable[Row], columns: Mapping[str, str], *, format: str | None = None, quiet: str | None = None
) -> None:
    """Print rows as docker does. `columns`: heading -> key of the default table; `quiet`: the key `-q` prints alone.

    Every key of a row may be named in a template; headings of keys outside the table are their names in capitals.

    Raises:
        InvalidInput: a bad template.
    """
    if quiet is not None and format in (None, "table"):
        for row in rows:
            out(str(row[quiet]))
        return
    text = unescape(format or "table").strip()
    if text == "table":
        out(table(list(columns), [[str(row[key]) for key in columns.values()] for row in rows]))
        return
    from layerfs.cli.gotypes import to_json  # not needed by the plain tables
    from layerfs.cli.template import Template

    if text == "json":
        for row in rows:
            out(to_json(dict(sorted(row.items()))))
    elif text.startswith("table "):
        rows = list(rows)
        headings = {key: _heading(key) for row in rows for key in row} | {key: h for h, key in columns.items()}
        for line in _template_rows(text.removeprefix("table "), headings, rows):
            out(line)
    else:
        template = Template(text)
        for row in rows:
            out(template(row))


def _heading(key: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).upper()


__all__ = ["Row", "render", "table", "unescape"]
