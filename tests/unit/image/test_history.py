"""docker history: rows newest first, sizes of filled entries, IDs as far as local parents are known."""

from layerfs.image.history import history
from layerfs.oci import History


def test_empty_entries_have_no_size_and_take_no_layer(root, add) -> None:
    entries = (History(1, "a"), History(2, "b", empty_layer=True, comment="note"), History(None, "c"))
    image = add([10, 20], "x", history=entries)
    rows = history(root, image)
    assert [(row.created_by, row.size, row.created_ns, row.comment) for row in rows] == [
        ("c", 20, None, ""),
        ("b", 0, 2, "note"),
        ("a", 10, 1, ""),
    ]


def test_only_the_image_itself_has_an_id_without_local_parents(root, add) -> None:
    image = add([1, 2], "x:1", "x:2")
    rows = history(root, image)
    assert [row.id_text for row in rows] == [str(image.id), "<missing>"]
    assert [row.tags for row in rows] == [("x:1", "x:2"), ()]


def test_local_parents_give_their_ids_and_tags_until_the_chain_ends(root, add) -> None:
    base = add([1], "base")
    middle = add([1, 2], parent=base.id)
    top = add([1, 2, 3], "top", parent=middle.id)
    assert [(row.id, row.tags) for row in history(root, top)] == [
        (top.id, ("top:latest",)),
        (middle.id, ()),
        (base.id, ("base:latest",)),
    ]


def test_an_image_without_history_has_no_rows(root, add) -> None:
    assert history(root, add([1], "x", history=())) == []


def test_fewer_entries_than_layers_are_shown_as_they_are(root, add) -> None:
    assert [row.size for row in history(root, add([5, 6], history=(History(1, "a"),)))] == [5]
