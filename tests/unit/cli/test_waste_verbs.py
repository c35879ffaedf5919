"""waste, optimize."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.crash.world import docker_archive
from tests.unit.image.test_waste import LAYERS


def test_waste_and_optimize(shell: Any, tmp_path: Path) -> None:
    shell("load", "-q", "-i", str(docker_archive(tmp_path / "i.tar", {"i:1": LAYERS})))
    first, heading, *lines = shell("waste", "i:1", "-n", "2").lines
    assert first.endswith("is seen; 200kB is hidden by later layers; duplicates: 200kB (stored once)")
    assert heading.split() == ["REASON", "LAYER", "SIZE", "PATH"] and len(lines) == 2
    reasons = [json.loads(line)["Reason"] for line in shell("waste", "i:1", "--format", "json").lines]
    assert sorted(reasons) == ["copied", "duplicate", "removed", "removed"]
    assert shell("optimize", "i:1", "j:1").out.startswith("sha256:")
    assert shell("diff", "i:1", "j:1").out == ""
    assert shell("waste", "j:1").lines[0].startswith("100.0% of")
    assert shell("waste", "nothing:1").code == 1
