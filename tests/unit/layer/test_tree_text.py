from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerfs.errors import InvalidInput
from layerfs.layer.tree_text import escape, parse_tree_text, tree_text, unescape
from tests.golden.layers import LINKS, LOWER
from tests.trees import Shelf


@given(st.binary(), st.binary(max_size=2))
def test_any_bytes_can_be_written(data: bytes, barred: bytes) -> None:
    text = escape(data, first=b"@", anywhere=barred)
    assert unescape(text) == data
    assert " " not in text
    assert text.isascii()
    assert text.isprintable()


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [],
        lambda lines: lines[1:],
        lambda lines: lines[:1],
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [*lines[:3], "", *lines[3:]],
        lambda lines: [line.replace(" 100644 ", " 10064x ") for line in lines],
        lambda lines: [line.replace(".000000000", ".0") for line in lines],
        lambda lines: [line.replace("/dir/a", "dir/a") for line in lines],
        lambda lines: [line.replace("@/dir/b", "@/dir/none") for line in lines],
        lambda lines: [*lines, "/file/below 100644 0 0 0 1 0.000000000 - - - -"],
        lambda lines: [*lines, "/short 100644 0 0"],
        lambda lines: [*lines, "+pack x"],
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path: Path, change) -> None:  # type: ignore[no-untyped-def]
    lines = list(tree_text(Shelf(tmp_path).read(LOWER)))
    with pytest.raises(InvalidInput):
        parse_tree_text(change(lines), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_an_edited_text_gives_an_edited_tree(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    lines = [line.replace("/h/deep 100644", "/h/deep 100600") for line in tree_text(shelf.read(LINKS))]
    lines = [line.replace("/f 100644 0 0 1", "/f 104755 7 8 1") for line in lines]
    parse_tree_text(lines, str(tmp_path / "out"))
    shelf.trees = [str(tmp_path / "out")]
    with pytest.raises(Exception, match="hard link"):
        shelf.merge()
