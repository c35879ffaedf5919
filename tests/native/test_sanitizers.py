"""A short part of `make sanitize`: the extension and the container helper under address and undefined sanitizers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.conftest import PROJECT


@pytest.mark.slow
@pytest.mark.timeout(1200)  # it compiles everything, the first time
@pytest.mark.root
@pytest.mark.skipif("LAYERFS_SANITIZED" in os.environ, reason="this is a sanitizer run")
def test_readers_and_helper_are_clean() -> None:
    command = [sys.executable, PROJECT / "tools/sanitize.py", "quick"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT)
    if "cannot find" in done.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
