"""Commit costs what changed, not what there is."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import layerfs

GROUP = "Commit"


def test_commit_of_ten_files(pair: Any, real: Any, podman: Any, run: Any, tmp_path: Path) -> None:
    archive = real("image")
    run(*podman("load", "-q", "-i", str(archive), root="commit"))
    run(*podman("create", "--name", "box", "real:1", "sh", root="commit"))
    place = subprocess.run(
        podman("mount", "box", root="commit"), capture_output=True, text=True, check=True
    ).stdout.strip()
    turn = iter(range(1000))

    def change(root: Path) -> None:
        for number in range(10):
            (root / f"etc/changed{number}").write_text(f"{next(turn)}")

    with layerfs.Store(tmp_path / "store") as store:
        box = store.create(store.load(archive)[0].image, name="box")

        def change_ours() -> None:
            with box.mount(engine="kernel") as root:
                change(root)

        pair(
            "commit of ten changed files on 36k",
            lambda: box.commit(f"ours:{next(turn)}"),
            lambda: run(*podman("commit", "-q", "box", f"theirs:{next(turn)}", root="commit")),
            peer_name="podman commit (whole command)",
            bar=0.3,
            rounds=7,
            prepare=change_ours,
            prepare_peer=lambda: change(Path(place)),
        )
    run(*podman("umount", "box", root="commit"))
