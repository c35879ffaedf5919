"""What fsck finds, as records."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

Severity = Literal["error", "info"]
Kind = Literal[
    "row",
    "blob",
    "content",
    "pack",
    "tree",
    "merged",
    "split",
    "layer",
    "image",
    "reference",
    "container",
    "name",
    "orphan",
    "state",
    "snapshot",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding.

    severity: `error` is damage; `info` (an orphan) harms nothing and goes with the next gc. key: the digest in hex, or
    the name. repairable: whether fsck knows a way, given a source for the layer where bytes are lost. repaired: it
    took that way and it worked.
    """

    severity: Severity
    kind: Kind
    key: str
    message: str
    repairable: bool = False
    repaired: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.message}" + (" (repaired)" if self.repaired else "")


@dataclass
class Findings:
    """The problems of one check, and what repair needs to know of them."""

    problems: list[Problem] = field(default_factory=list)
    places: dict[tuple[int, int], tuple[bytes, int]] = field(default_factory=dict)  # bad (pack, block): identity, size
    objects: set[bytes] = field(default_factory=set)
    rowless: set[bytes] = field(default_factory=set)  # identities that a tree needs and the index does not have
    bad_rows: set[bytes] = field(default_factory=set)  # contents whose bytes are right and whose checksum row is not
    packs: dict[int, int] = field(default_factory=dict)  # missing or short packs: blocks
    trees: set[bytes] = field(default_factory=set)
    splits: set[bytes] = field(default_factory=set)
    unplayed: set[bytes] = field(default_factory=set)  # layers whose records were not tried: contents of them are bad
    merged: set[bytes] = field(default_factory=set)
    blobs: set[bytes] = field(default_factory=set)
    rows: list[tuple[str, bytes]] = field(default_factory=list)  # rows that point nowhere: table, key

    def error(self, kind: Kind, key: str, message: str, *, repairable: bool = False) -> None:
        self.problems.append(Problem("error", kind, key, message, repairable))

    def info(self, kind: Kind, key: str, message: str) -> None:
        self.problems.append(Problem("info", kind, key, message, True))

    def repaired(self, kind: Kind, key: str) -> None:
        """Notes that the problems of this key are mended."""
        self.problems = [
            replace(problem, repaired=True) if (problem.kind, problem.key) == (kind, key) else problem
            for problem in self.problems
        ]
