"""Rows of the history, in BuildKit's words and in those of docker's old builder."""

from __future__ import annotations

import layerfs.build.historytext as historytext
import layerfs.build.instructions as i
from layerfs.build.config import State
from layerfs.build.scope import Scope


class Texts:
    """`comment` is that of every row."""

    def __init__(self, *, legacy: bool) -> None:
        self._legacy = legacy
        self.comment = "" if legacy else historytext.COMMENT

    def row(self, step: i.Instruction, before: State, after: State, scope: Scope, source: str) -> str | None:
        """Of an expanded instruction; None: no row. `source` is `file:HEX` and the like, for the old words."""
        shell, workdir = before.config.shell, after.config.working_dir
        if self._legacy:
            return historytext.classic(step, scope, shell, digest=source, workdir=workdir)
        return historytext.buildkit(step, scope, shell, workdir)
