"""`images -f`: docker's filters as predicates over what the list shows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence

from layerfs._record import dataclass, replace
from layerfs.errors import InvalidInput
from layerfs.image.record import ImageRecord, Tag
from layerfs.image.values import parse_duration
from layerfs.oci.fields import parse_time
from layerfs.reference import Reference

NAMES = ("before", "dangling", "label", "reference", "since", "until")
_TRUE, _FALSE = frozenset({"1", "t", "true"}), frozenset({"0", "f", "false"})


@dataclass(frozen=True, slots=True)
class ImageSummary:
    """One image of the list: its names and its size (bytes of files, summed over its layers, as docker counts)."""

    record: ImageRecord
    tags: tuple[Tag, ...]
    digests: tuple[Tag, ...]
    size: int
    has_children: bool = False

    @property
    def dangling(self) -> bool:
        return not self.tags


Labels = Callable[[ImageRecord], Mapping[str, str]]


class Filters:
    """Parsed filters. Filters of different names are all needed; of one name any is enough, except `label` (all).

    Raises:
        InvalidInput: an unknown filter or value, in docker's words.
    """

    def __init__(
        self, values: Mapping[str, Sequence[str]], *, created: Callable[[str], int], now_ns: int | None = None
    ) -> None:
        """`created` gives the creation time (ns) of the image that `before` or `since` names."""
        for name in values:
            if name not in NAMES:
                raise InvalidInput(f"invalid filter '{name}'")
        now = time.time_ns() if now_ns is None else now_ns
        self.dangling = _boolean("dangling", values["dangling"]) if values.get("dangling") else None
        self.labels = [label.partition("=") for label in values.get("label", ())]
        self.references = [glob(pattern) for pattern in values.get("reference", ())]
        before = [created(name) for name in values.get("before", ())]
        before += [parse_moment(text, now) for text in values.get("until", ())]
        self.before = min(before, default=None)
        self.since = max((created(name) for name in values.get("since", ())), default=None)

    def apply(self, summaries: Sequence[ImageSummary], labels: Labels, *, show_all: bool = False) -> list[ImageSummary]:
        shown = []
        for summary in summaries:
            kept = self._names(summary, show_all)
            if kept is not None and self._times(summary.record) and self._labels(summary.record, labels):
                shown.append(kept)
        return shown

    def _names(self, summary: ImageSummary, show_all: bool) -> ImageSummary | None:
        """The summary with the names that are shown, or None. Untagged parents of other images are intermediate."""
        untagged = not summary.tags and not summary.digests
        if untagged and ((summary.has_children and not show_all) or self.dangling is False or self.references):
            return None
        if self.dangling and (summary.tags or summary.has_children):
            return None
        if not self.references:
            return summary
        tags = tuple(tag for tag in summary.tags if self._matches(tag.reference))
        digests = tuple(tag for tag in summary.digests if self._matches(tag.reference))
        return replace(summary, tags=tags, digests=digests) if tags or digests else None

    def _matches(self, reference: Reference) -> bool:
        texts = (reference.familiar, reference.familiar_name)
        return any(pattern.match(text) for pattern in self.references for text in texts)

    def _times(self, record: ImageRecord) -> bool:
        created = record.created_ns or 0
        return (self.before is None or created < self.before) and (self.since is None or created > self.since)

    def _labels(self, record: ImageRecord, labels: Labels) -> bool:
        if not self.labels:
            return True
        found = labels(record)
        return all(key in found and (not equals or found[key] == value) for key, equals, value in self.labels)


def glob(pattern: str) -> re.Pattern[str]:
    """Go's path.Match: `*` and `?` stop at `/`, `[a-z]` and `[^a]` are classes, `\\` escapes.

    Raises:
        InvalidInput: an unfinished class or escape.
    """
    result, position = "", 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char in "*?":
            result += "[^/]*" if char == "*" else "[^/]"
        elif char == "\\" and position < len(pattern):
            result += re.escape(pattern[position])
            position += 1
        elif char == "[":
            end = pattern.find("]", position + 1)
            if end < 0:
                raise InvalidInput(f"syntax error in pattern: {pattern}")
            body = pattern[position:end]
            negated = body.startswith("^")
            escaped = re.sub(r"([\\\[\]^&~|])", r"\\\1", body[negated:])
            result += f"[{'^' * negated}{escaped}]"
            position = end + 1
        elif char == "\\":
            raise InvalidInput(f"syntax error in pattern: {pattern}")
        else:
            result += re.escape(char)
    try:
        return re.compile(result + r"\Z")
    except re.error:
        raise InvalidInput(f"syntax error in pattern: {pattern}") from None


def parse_moment(text: str, now_ns: int) -> int:
    """`until`: a Go duration before now, an RFC 3339 time or date, or seconds since the epoch; in nanoseconds."""
    if re.fullmatch(r"\d+(\.\d{1,9})?", text, re.ASCII):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
    if match := re.fullmatch(r"(\d{4}-\d{2}-\d{2})(?:T(\d{2}:\d{2})(:\d{2}(?:\.\d+)?)?)?(Z|[+-]\d{2}:\d{2})?", text):
        date, clock, seconds, zone = match.groups()
        return parse_time(f"{date}T{clock or '00:00'}{seconds or ':00'}{zone or 'Z'}")
    return now_ns - parse_duration(text)


def _boolean(name: str, values: Sequence[str]) -> bool:
    found = {value.lower() in _TRUE for value in values}
    if len(found) != 1 or not all(value.lower() in _TRUE | _FALSE for value in values):
        raise InvalidInput(f"invalid filter '{name}={list(values)}'")
    return found.pop()
