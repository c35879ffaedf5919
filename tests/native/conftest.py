"""The tree part of the core, built once for a test run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.script import Compiler, Trees


@pytest.fixture(scope="session")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    return Compiler(tmp_path_factory.mktemp("trees"))


@pytest.fixture(scope="session")
def tree_program(compiler: Compiler) -> Path:
    return compiler.link("tree_script.c")


@pytest.fixture
def trees(tree_program: Path, tmp_path: Path) -> Trees:
    return Trees(tree_program, tmp_path)
