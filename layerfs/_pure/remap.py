"""Moving a tree's packed files, and checking tree files."""

from __future__ import annotations

import struct

from layerfs._pure import disk
from layerfs._pure.erofs import build_tree, write_tree
from layerfs._pure.image import Image
from layerfs._pure.merge import load_tree
from layerfs._pure.tree import Content, Node, directories_of
from layerfs.errors import Corrupt, InvalidArchive, InvalidInput

_MOVE = struct.Struct("<QIIQQ")  # old pack, old block, new block, new pack, zero


def remap_tree(path: str, out_path: str, mapping: bytes, /) -> None:
    """Copy a tree with packed files moved (docs/format.md, "Moving packed files").

    mapping: 32-byte records u64 old pack, u32 old block, u32 new block, u64 new pack, u64 zero, sorted. Files
    without a record stay.
    """
    if len(mapping) % _MOVE.size:
        raise InvalidInput("a mapping has 32 bytes for each file")
    moves = {(pack, block): (new_pack, new) for pack, block, new, new_pack, _ in _MOVE.iter_unpack(mapping)}
    with Image(path) as image:
        root = load_tree(image)
        _move(root, moves)
        merged = image.kind == "merged"
        write_tree(root, out_path, merged=merged, subject=image.subject, extra_table=_identities(image))


def _move(root: Node, moves: dict[tuple[int, int], tuple[int, int]]) -> None:
    seen = set()
    for node in directories_of(root):
        for child in (node.children or {}).values():
            if child.content is not None and id(child) not in seen:
                seen.add(id(child))
                child.content = _moved(child.content, moves)


def _moved(content: Content, moves: dict[tuple[int, int], tuple[int, int]]) -> Content:
    place = moves.get((content.pack, content.block)) if content.kind == disk.KIND_PACK else None
    return Content(content.identity, content.kind, content.size, *place) if place else content


def verify_tree(path: str, /) -> bool:
    """Whether a tree file is sound: nothing is left to choice, so writing its tree again must give the same bytes.

    Raises:
        StoreVersionError: another version of the format.
        OSError: the file cannot be read.
    """
    try:
        with Image(path) as image:
            root, merged = load_tree(image), image.kind == "merged"
            again, _ = build_tree(root, merged, image.subject, (), _identities(image), image.devices)
            return again == image.whole()
    except (Corrupt, InvalidArchive):
        return False


def _identities(image: Image) -> list[bytes]:
    table = image.contents()
    return [table[at : at + 32] for at in range(0, len(table), 32)]
