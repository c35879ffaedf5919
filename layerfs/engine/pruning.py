"""The filters of the prune verbs: docker's `label`, `label!` and `until`."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence

from layerfs.errors import InvalidInput
from layerfs.image.filters import parse_moment


class PruneFilter:
    """Which containers, networks or volumes may go. Raises InvalidInput: a filter that is not among `known`."""

    def __init__(
        self, values: Mapping[str, Sequence[str]], known: Collection[str] = ("label", "label!", "until")
    ) -> None:
        for name in values:
            if name not in known:
                raise InvalidInput(f"invalid filter '{name}'")
        now = time.time_ns()
        self._wanted = values.get("label", ())
        self._kept = values.get("label!", ())
        self._before = min((parse_moment(text, now) for text in values.get("until", ())), default=None)

    def allows(self, labels: Mapping[str, str], created_ns: int) -> bool:
        return (
            all(_has(labels, text) for text in self._wanted)
            and not any(_has(labels, text) for text in self._kept)
            and (self._before is None or created_ns < self._before)
        )


def _has(labels: Mapping[str, str], text: str) -> bool:
    name, equals, value = text.partition("=")
    return name in labels and (not equals or labels[name] == value)
