"""The tutorial works by copy and paste, and prints what it says it prints."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(sh|text)\n(.*?)^```$", re.S | re.M)
MARK = "--- end of block ---"


def _blocks() -> list[tuple[str, str]]:
    return BLOCK.findall((PROJECT / "docs/tutorial.md").read_text())


def _pattern(line: str) -> re.Pattern[str]:
    """Widths and ages may differ; a run of blanks is one: many of them would try every way to share what there is."""
    line = line.replace("Less than a second ago", "… ago")
    parts = [re.sub(r"(\\ )+", r"\\s*", re.escape(part)) for part in line.strip().split("…")]
    return re.compile(r"\s*" + r".*".join(parts) + r"\s*")


@pytest.mark.root
def test_the_tutorial_can_be_copied_and_pasted(tmp_path: Path) -> None:
    blocks = _blocks()
    scripts = [text for kind, text in blocks if kind == "sh"]
    script = "set -eu\n" + f"\necho '{MARK}'\n".join(scripts)
    env = os.environ | {"TMPDIR": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=PROJECT, env=env, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    printed = done.stdout.split(MARK + "\n")
    number = -1
    for kind, text in blocks:
        if kind == "sh":
            number += 1
            continue
        rest = iter(printed[number].splitlines())
        for line in filter(None, text.splitlines()):
            assert any(_pattern(line).fullmatch(got) for got in rest), (
                f"block {number}: {line!r} not in {printed[number]!r}"
            )
