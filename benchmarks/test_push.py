"""Pushing to Debian's docker-registry on loopback."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import layerfs
from benchmarks.conftest import LAYERFS
from tests.registry.servers import Registry

GROUP = "Registries"


def test_push_of_a_small_change(
    pair: Any, real: Any, podman: Any, run: Any, tmp_path: Path, registry: Registry
) -> None:
    """The base is in the registry."""
    archive = real("image")
    ours, theirs = f"{registry.host}/ours", f"{registry.host}/theirs"
    push = podman("push", "-q", "--tls-verify=false", root="push")
    run(*podman("load", "-q", "-i", str(archive), root="push"))
    run(*podman("tag", "real:1", f"{theirs}:base", root="push"))
    run(*push, f"{theirs}:base")
    run(*podman("create", "--name", "box", "real:1", "sh", root="push"))
    mount = podman("mount", "box", root="push")
    place = Path(subprocess.run(mount, capture_output=True, text=True, check=True).stdout.strip())
    turn = iter(range(1000))

    def change(root: Path) -> None:
        for number in range(10):
            (root / f"etc/changed{number}").write_text(f"{next(turn)}")

    def commit_theirs() -> None:
        change(place)
        run(*podman("commit", "-q", "box", f"{theirs}:new", root="push"))

    with layerfs.Store(tmp_path / "store") as store:
        box = store.create(store.load(archive)[0].image, name="box")
        store.tag("real:1", f"{ours}:base")
        store.push(f"{ours}:base")

        def commit_ours() -> None:
            with box.mount() as root:
                change(root)
            box.commit(f"{ours}:new")

        for what, ours_push, bar in (
            ("push of ten changed files on 36k", lambda: store.push(f"{ours}:new"), 0.2),
            (
                "the same by `layerfs push`",
                lambda: run(LAYERFS, "--store", store.path, "push", "-q", f"{ours}:new"),
                None,
            ),
        ):
            pair(
                what,
                ours_push,
                lambda: run(*push, f"{theirs}:new"),
                peer_name="podman push (whole command)",
                bar=bar,
                rounds=7,
                prepare=commit_ours,
                prepare_peer=commit_theirs,
            )
    run(*podman("umount", "box", root="push"))
