"""The rules of lookup and merged listings."""

from __future__ import annotations

import stat

import pytest

from layerfs.union.layerview import Verdict, decide, merge_listing
from layerfs.union.node import Listed

DIR, REG = stat.S_IFDIR, stat.S_IFREG


@pytest.mark.parametrize(
    ("kind", "marks", "below", "redirected", "verdict"),
    [
        (None, "", None, None, Verdict.ABSENT),
        (None, "", REG, REG, Verdict.BELOW),
        (stat.S_IFCHR, "w", DIR, DIR, Verdict.ABSENT),
        (REG, "", REG, REG, Verdict.HERE),
        (REG, "", DIR, DIR, Verdict.HERE),
        (REG, "m", REG, REG, Verdict.METACOPY),
        (DIR, "", None, None, Verdict.HERE),
        (DIR, "", REG, REG, Verdict.HERE),
        (DIR, "", DIR, DIR, Verdict.MERGED),
        (DIR, "o", DIR, DIR, Verdict.HERE),
        (DIR, "", None, DIR, Verdict.MERGED),
        (DIR, "", DIR, None, Verdict.HERE),
    ],
)
def test_decide(kind: int | None, marks: str, below: int | None, redirected: int | None, verdict: Verdict) -> None:
    found = decide(
        kind=kind,
        whiteout="w" in marks,
        opaque="o" in marks,
        metacopy="m" in marks,
        below=below,
        redirected=redirected,
    )
    assert found is verdict


def test_listings_merge_with_the_upper_entry_first_and_whiteouts_hiding() -> None:
    below = {b"a": Listed(REG, 1), b"b": Listed(REG, 2), b"c": Listed(REG, 3)}
    merged = merge_listing([(b"b", Listed(DIR, 9)), (b"c", None), (b"d", Listed(REG, 4))], below)
    assert merged == {b"b": Listed(DIR, 9), b"d": Listed(REG, 4), b"a": Listed(REG, 1)}
    assert list(merged) == [b"b", b"d", b"a"]
