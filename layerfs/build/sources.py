"""Where the files of a build come from: its context, the named ones, stages and images."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from layerfs._record import dataclass
from layerfs.build.config import State
from layerfs.build.context import DirectoryFiles
from layerfs.build.files import Files, Ignore, TreeFiles
from layerfs.build.stages import Root
from layerfs.digest import DiffID
from layerfs.layer.merged import merged_tree
from layerfs.store.root import StoreRoot


class Context(Protocol):
    """A context that is opened by every step that reads it."""

    def open(self) -> contextlib.AbstractContextManager[Files]: ...


@dataclass(frozen=True, slots=True)
class DirectoryContext:
    """A directory of the host, with its .dockerignore; kept open for the whole build."""

    files: DirectoryFiles

    def open(self) -> contextlib.AbstractContextManager[Files]:
        return self.files.again()


@dataclass(frozen=True, slots=True)
class TreeContext:
    """Layers of the store: a tar context (whose owners do not count) with its .dockerignore, or an image, with its
    `state` for FROM."""

    root: StoreRoot
    layers: tuple[DiffID, ...]
    owned: bool = True
    state: State | None = None
    ignore: Ignore | None = None

    @contextlib.contextmanager
    def open(self) -> Iterator[Files]:
        yield TreeFiles(self.root, merged_tree(self.root, self.layers), owned=self.owned, ignore=self.ignore)


LayersOf = Callable[[str], tuple[DiffID, ...]]


def source_name(root: Root | None) -> str:
    """What `--from` means, as a text; "" is the context."""
    if root is None:
        return ""
    return f"stage {root.stage}" if root.kind == "stage" else f"{root.kind} {root.name}"


class Sources:
    """By `source_name`. `layers_of` knows the layers of a stage or an image, and waits for a stage to be built."""

    def __init__(self, root: StoreRoot, main: Context, named: Mapping[str, Context], layers_of: LayersOf) -> None:
        self._root, self._main, self._named, self._layers_of = root, main, named, layers_of

    def _context(self, name: str) -> Context | None:
        return self._named[name.removeprefix("context ")] if name.startswith("context ") else None

    def is_tree(self, name: str) -> bool:
        """Whether it is whole layers already."""
        return bool(name) and not isinstance(self._context(name), DirectoryContext)

    def layers(self, name: str) -> tuple[DiffID, ...]:
        context = self._context(name)
        return context.layers if isinstance(context, TreeContext) else self._layers_of(name)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Files]:
        context = self._context(name) if name else self._main
        with (context or TreeContext(self._root, self._layers_of(name))).open() as files:
            yield files
