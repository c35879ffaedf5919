"""The layer reader under sanitizers: the fuzzer's program over layers of the tests, whole, cut short and damaged."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from tests.golden.layers import REFUSED, TREES
from tests.native.sanitized import NATIVE, compile_sanitized


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = [NATIVE / "fuzz" / "fuzz_tar.c", *sorted(NATIVE.glob("core/*.c"))]
    return compile_sanitized(tmp_path_factory.mktemp("fuzz") / "fuzz_tar", sources, "-DFUZZ_MAIN")


def damaged(layer: bytes, dice: random.Random) -> bytes:
    changed = bytearray(layer)
    for _ in range(dice.randint(1, 8)):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def test_no_layer_trips_a_sanitizer(program: Path, tmp_path: Path) -> None:
    dice = random.Random(4)
    layers = [layer for stack in (*TREES.values(), *REFUSED.values()) for layer in stack if 0 < len(layer) < 100_000]
    layers = dice.sample(layers, min(len(layers), 20))  # the sanitizers take their time
    for number, layer in enumerate(layers):
        (tmp_path / f"{number}-whole").write_bytes(layer)
        (tmp_path / f"{number}-short").write_bytes(layer[: dice.randrange(len(layer))])
        (tmp_path / f"{number}-damaged").write_bytes(damaged(layer, dice))
    files = sorted(map(str, tmp_path.iterdir()))
    run = subprocess.run([program, *files], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
