"""Plans: what a change has to do, without a disk."""

from __future__ import annotations

import errno

import pytest

from layerfs.union import plan
from layerfs.union.plan import Data, Facts, Leave

LOWER = Facts(b"d/f", exists=True, lower=True)
COPIED = Facts(b"d/f", exists=True, here=True, lower=True)
OWN = Facts(b"d/f", exists=True, here=True)
FREE = Facts(b"d/new")


def test_parents_that_are_missing_are_made_from_the_top() -> None:
    assert plan.plan_parents(b"a/b/c/f", [b"a"]) == [plan.CopyDirectory(b"a/b"), plan.CopyDirectory(b"a/b/c")]
    assert plan.plan_parents(b"f", []) == []


def test_copy_up_of_a_lower_file_names_all_its_links() -> None:
    steps = plan.plan_copy_up(LOWER, (b"d/f", b"e"), Data.ALL)
    assert steps == [plan.CopyFile(b"d/f", (b"d/f", b"e"), Data.ALL)]


def test_a_metacopy_is_completed_only_when_bytes_change() -> None:
    metacopy = Facts(b"f", exists=True, here=True, metacopy=True)
    assert plan.plan_copy_up(metacopy, (), Data.NONE) == []
    assert plan.plan_copy_up(metacopy, (), Data.EMPTY) == [plan.Complete(b"f", Data.EMPTY)]
    assert plan.plan_copy_up(OWN, (), Data.ALL) == []


@pytest.mark.parametrize(
    ("facts", "step"),
    [
        (LOWER, plan.Whiteout),
        (COPIED, plan.CoverFile),
        (OWN, plan.Unlink),
        (Facts(b"d", exists=True, is_dir=True, lower=True, merged=True), plan.Whiteout),
        (Facts(b"d", exists=True, is_dir=True, here=True, lower=True, merged=True), plan.CoverDirectory),
        (Facts(b"d", exists=True, is_dir=True, here=True), plan.RemoveDirectory),
    ],
)
def test_removing_leaves_a_whiteout_only_where_something_below_would_show(facts: Facts, step: type) -> None:
    assert plan.plan_remove(facts) == [step(facts.path)]


def test_renaming_a_copied_file_leaves_a_whiteout() -> None:
    steps = plan.plan_rename(COPIED, FREE, merged_parent=True)
    assert steps[-1] == plan.Move(b"d/f", b"d/new", Leave.WHITEOUT)


def test_renaming_an_own_file_leaves_nothing() -> None:
    assert plan.plan_rename(OWN, FREE, merged_parent=True)[-1] == plan.Move(b"d/f", b"d/new", Leave.NOTHING)


def test_renaming_a_merged_directory_takes_a_redirect_bare_in_the_same_parent() -> None:
    merged = Facts(b"p/d", exists=True, is_dir=True, here=True, lower=True, merged=True)
    assert plan.Redirect(b"p/d", True) in plan.plan_rename(merged, Facts(b"p/e"), merged_parent=True)
    assert plan.Redirect(b"p/d", False) in plan.plan_rename(merged, Facts(b"q/e"), merged_parent=True)


def test_renaming_an_own_directory_makes_it_opaque_in_a_merged_place() -> None:
    own = Facts(b"d", exists=True, is_dir=True, here=True)
    assert plan.Opaque(b"d") in plan.plan_rename(own, FREE, merged_parent=True)
    assert plan.Opaque(b"d") not in plan.plan_rename(own, FREE, merged_parent=False)


def test_a_directory_with_whiteouts_is_cleared_before_it_is_replaced() -> None:
    target = Facts(b"t", exists=True, is_dir=True, here=True, lower=True, merged=True, litter=True)
    own = Facts(b"d", exists=True, is_dir=True, here=True)
    steps = plan.plan_rename(own, target, merged_parent=True)
    assert steps.index(plan.Clear(b"t")) < steps.index(plan.Move(b"d", b"t", Leave.NOTHING, over_visible=True))


@pytest.mark.parametrize(
    ("old", "new", "empty", "replace", "number"),
    [
        (Facts(b"a"), FREE, True, True, errno.ENOENT),
        (OWN, LOWER, True, False, errno.EEXIST),
        (Facts(b"d", exists=True, is_dir=True), Facts(b"d/e/f"), True, True, errno.EINVAL),
        (Facts(b"d/e", exists=True), Facts(b"d", exists=True, is_dir=True), False, True, errno.ENOTEMPTY),
        (OWN, Facts(b"t", exists=True, is_dir=True), True, True, errno.EISDIR),
        (Facts(b"d", exists=True, is_dir=True), Facts(b"t", exists=True), True, True, errno.ENOTDIR),
        (Facts(b"d", exists=True, is_dir=True), Facts(b"t", exists=True, is_dir=True), False, True, errno.ENOTEMPTY),
    ],
)
def test_what_rename_refuses(old: Facts, new: Facts, empty: bool, replace: bool, number: int) -> None:
    with pytest.raises(OSError) as caught:
        plan.check_rename(old, new, new_empty=empty, replace=replace)
    assert caught.value.errno == number
