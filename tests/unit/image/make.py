"""Small archives made by hand, for the tests of this folder and of tests/interop."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def tar(files: Mapping[str, bytes | str | None]) -> bytes:
    """A tar: bytes are a file, text is a symlink's target, None is a directory."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, value in files.items():
            info = tarfile.TarInfo(name)
            info.mode = 0o755 if value is None else 0o644
            info.type = (
                tarfile.DIRTYPE if value is None else tarfile.SYMTYPE if isinstance(value, str) else tarfile.REGTYPE
            )
            if isinstance(value, str):
                info.linkname = value
            info.size = len(value) if isinstance(value, bytes) else 0
            archive.addfile(info, io.BytesIO(value) if isinstance(value, bytes) else None)
    return out.getvalue()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def config(layers: Sequence[bytes], **more: Any) -> bytes:
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
    }
    return json.dumps(document | more).encode()


def docker_archive(images: Sequence[tuple[Sequence[bytes], Sequence[str]]], **more: Any) -> bytes:
    """`docker save`'s old form of images, each its layers and its names."""
    members: dict[str, bytes | str | None] = {}
    listed = []
    for layers, names in images:
        raw = config(layers, **more)
        members[digest(raw)[7:] + ".json"] = raw
        for layer in layers:
            members[digest(layer)[7:] + "/layer.tar"] = layer
        paths = [digest(layer)[7:] + "/layer.tar" for layer in layers]
        listed.append({"Config": digest(raw)[7:] + ".json", "RepoTags": list(names) or None, "Layers": paths})
    members["manifest.json"] = json.dumps(listed).encode()
    return tar(members)


class Layout:
    """An OCI layout in a directory, built piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.entries: list[dict[str, Any]] = []
        self.write_index()

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        (self.path / "blobs/sha256" / digest(data)[7:]).write_bytes(data)
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def manifest(
        self, layers: Sequence[bytes], *, compress: bool = True, level: int = 6, **more: Any
    ) -> dict[str, Any]:
        own = self.blob(config(layers, **more), CONFIG)
        pack = [gzip.compress(layer, level, mtime=0) if compress else layer for layer in layers]
        blobs = [self.blob(data, LAYER + ("+gzip" if compress else "")) for data in pack]
        raw = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": own, "layers": blobs}).encode()
        return self.blob(raw, MANIFEST)

    def index(self, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        kind = "application/vnd.oci.image.index.v1+json"
        raw = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": list(entries)}).encode()
        return self.blob(raw, kind)

    def add(self, entry: dict[str, Any], name: str = "", **more: Any) -> Layout:
        annotations = {"org.opencontainers.image.ref.name": name} if name else {}
        self.entries.append(entry | {"annotations": annotations} | more)
        self.write_index()
        return self

    def write_index(self) -> None:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self.entries}))

    def tar(self) -> bytes:
        paths = sorted(path for path in self.path.rglob("*") if path.is_file())
        return tar({str(path.relative_to(self.path)): path.read_bytes() for path in paths})
