"""`--cache-from` and `--cache-to`: another store finds what this one has built."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import layerfs
from layerfs.build.cacheplaces import CachePlace
from layerfs.engine.buildcache import cache_records
from layerfs.errors import InvalidInput, Unsupported
from tests.build.conftest import Events, Files, read, write_files

STAGES = (
    "FROM scratch AS made\nCOPY f /in-between\n"
    "FROM scratch\nCOPY --from=made /in-between /copied\nCOPY g /second\nLABEL a=b\n"
)
FILES = {"f": "first", "g": "second"}


@pytest.fixture
def other(tmp_path: Path, shared_store: layerfs.Store) -> Iterator[layerfs.Store]:
    """A store that knows nothing but the base image."""
    shared_store.save(["box:1"], tmp_path / "box.tar")
    with layerfs.Store(tmp_path / "other") as store:
        store.import_archive(tmp_path / "box.tar")
        yield store


def steps(store: layerfs.Store, place: Path, text: str, files: Files, **how: Any) -> tuple[list[str], list[str]]:
    """The steps that were cached, and the warnings."""
    events = Events()
    write_files(place, {"Dockerfile": text, **files})
    store.build(place, progress=events, network="none", **how)
    return events.kinds("cached"), [event.text for event in events if event.kind == "warning"]


def test_a_directory_gives_another_store_the_same_image(
    store: layerfs.Store, other: layerfs.Store, tmp_path: Path
) -> None:
    context = write_files(tmp_path / "context", {"Dockerfile": STAGES, **FILES})
    image = store.build(context, cache_to=[f"type=local,dest={tmp_path / 'cache'},mode=max"])
    found, warnings = steps(other, context, STAGES, {}, cache_from=[f"type=local,src={tmp_path / 'cache'}"])
    assert found == ["COPY f /in-between", "COPY --from=made /in-between /copied", "COPY g /second"]
    assert warnings == []
    again = other.images()[0]
    assert (again.id, read(again, "copied")) == (image.id, b"first")
    assert other.fsck() == []


def test_min_has_only_what_the_image_has(store: layerfs.Store, other: layerfs.Store, tmp_path: Path) -> None:
    context = write_files(tmp_path / "context", {"Dockerfile": STAGES, **FILES})
    store.build(context, cache_to=[f"type=local,dest={tmp_path / 'cache'}"])
    found, _ = steps(other, context, STAGES, {}, cache_from=[f"type=local,src={tmp_path / 'cache'}"])
    assert found == ["COPY --from=made /in-between /copied", "COPY g /second"]


@pytest.mark.root
def test_a_run_that_changes_nothing_is_found_and_what_nobody_needs_is_not_fetched(
    store: layerfs.Store, other: layerfs.Store, tmp_path: Path
) -> None:
    text = "FROM box:1\nRUN true quietly\nRUN echo elsewhere > /made\n"
    context, cache = tmp_path / "context", tmp_path / "cache"
    steps(store, context, text + "RUN echo more > /more\n", {}, cache_to=[f"type=local,dest={cache},mode=max"])
    assert steps(other, context, text, {}, cache_from=[f"type=local,src={cache}"]) == (
        ["RUN true quietly", "RUN echo elsewhere > /made"],
        [],
    )
    assert {record.text for record in cache_records(other) if record.kind == "run"} == set(text.splitlines()[1:])
    with other.root.index.view() as txn:
        assert txn.count("layers") == 2  # the base's, and that of the one step


def test_the_same_build_writes_the_same_cache_and_tags_stand_beside_each_other(
    store: layerfs.Store, other: layerfs.Store, tmp_path: Path
) -> None:
    cache, context = tmp_path / "cache", tmp_path / "context"
    for _ in range(2):
        steps(store, context, STAGES, FILES, cache_to=[f"type=local,dest={cache}"])
    blobs = {file.name for file in (cache / "blobs/sha256").iterdir()}
    assert len(blobs) == 4  # two layers, records, manifest
    steps(store, context, STAGES, FILES, cache_to=[f"type=local,dest={cache},tag=all,mode=max"])
    assert len(json.loads((cache / "index.json").read_text())["manifests"]) == 2
    found, _ = steps(other, context, STAGES, {}, cache_from=f"type=local,src={cache},tag=all")
    assert len(found) == 3


def test_a_cache_that_cannot_be_read_is_a_warning(store: layerfs.Store, tmp_path: Path) -> None:
    context = tmp_path / "context"
    for number, wrong in enumerate(("{", '{"version":2}', '{"version":1,"layers":[],"records":[{"key":"zz"}]}')):
        cache = tmp_path / f"cache{number}"
        steps(store, context, STAGES, FILES, cache_to=[f"type=local,dest={cache}"])
        manifest = json.loads((cache / "index.json").read_text())["manifests"][0]["digest"].removeprefix("sha256:")
        config = json.loads((cache / f"blobs/sha256/{manifest}").read_text())["config"]["digest"]
        (cache / f"blobs/sha256/{config.removeprefix('sha256:')}").write_text(wrong)
        _, warnings = steps(store, context, STAGES, FILES, cache_from=[f"type=local,src={cache}"])
        assert len(warnings) == 1 and "is not used" in warnings[0]
    _, warnings = steps(store, context, STAGES, FILES, cache_from=[f"type=local,src={tmp_path / 'nowhere'}"])
    assert "nowhere is not used: no cache there" in warnings[0]


def test_a_damaged_layer_of_a_cache_is_built_instead(
    store: layerfs.Store, other: layerfs.Store, tmp_path: Path
) -> None:
    context, cache = tmp_path / "context", tmp_path / "cache"
    steps(store, context, STAGES, FILES, cache_to=[f"type=local,dest={cache},mode=max"])
    for blob in (cache / "blobs/sha256").iterdir():
        data = blob.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            blob.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    found, warnings = steps(other, context, STAGES, FILES, cache_from=[f"type=local,src={cache}"])
    assert found == [] and len(warnings) == 1 and "is not used any more" in warnings[0]
    assert read(other.images()[0], "second") == b"second"
    assert other.fsck() == []


def test_a_cache_that_cannot_be_written_fails_the_build_unless_that_is_ignored(
    store: layerfs.Store, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    context, flag = tmp_path / "context", f"type=local,dest={tmp_path / 'file'}"
    with pytest.raises(OSError, match="file"):
        steps(store, context, STAGES, FILES, cache_to=[flag])
    _, warnings = steps(store, context, STAGES, FILES, cache_to=[flag + ",ignore-error=true"])
    assert "was not written" in warnings[0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("type=registry", "ref is required"),
        ("type=local,dest=/x", "src is required"),
        ("type=inline", "an inline cache is read by"),
        ("type=nothing", "unknown cache type 'nothing'"),
        ("type=local,src=/x,mood=max", "unknown key 'mood'"),
        ("type=local,src=/x,mode=most", "invalid mode 'most'"),
        ("type=local,src", "invalid value 'src'"),
    ],
)
def test_wrong_words_are_told(text: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        CachePlace.parse(text)


def test_types_of_buildkit_that_are_not_there_are_told() -> None:
    with pytest.raises(Unsupported, match="cache type gha is not supported"):
        CachePlace.parse("type=gha")
    assert CachePlace.parse("user/app:cache") == CachePlace("registry", "user/app:cache")
