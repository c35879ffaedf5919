"""What all verbs that inspect do with what they find."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from layerfs._lazy import TYPE_CHECKING
from layerfs.cli.output import fail, out
from layerfs.cli.table import unescape
from layerfs.errors import InvalidInput, NotFound, RegistryError

if TYPE_CHECKING:
    from typing import Any


def inspect_all(names: Sequence[str], format_: str | None, inspect: Callable[[str], Any]) -> int:
    """docker's: one JSON array of what was found, or a line for each name by the template. The exit code."""
    from layerfs.cli.gotypes import to_json, typed
    from layerfs.cli.template import Template

    template = Template(unescape(format_)) if format_ and format_ != "json" else None
    found: list[Any] = []
    code = 0
    for name in names:
        try:
            found.append(inspect(name))
        except (NotFound, InvalidInput, RegistryError) as error:
            if template is not None:
                out("")
            code = fail(str(error))
        else:
            if template is not None:
                out(template(typed(found[-1])))
    if template is None:
        out(to_json(found) if format_ else json.dumps(found, indent=4, ensure_ascii=False))
    return code
