"""What is found in the build cache, and what is not; reproducible images; pruning."""

from __future__ import annotations

import gc
import os
import stat
import time
from pathlib import Path

import pytest

import layerfs
from layerfs.build.cachekeys import BuildCache
from layerfs.build.contentkeys import Hashes, digest_of
from layerfs.build.context import DirectoryFiles
from layerfs.engine.buildcache import cache_records, prune_cache
from layerfs.errors import InUse, InvalidInput
from tests.build.conftest import Build, Events, read, tree, write_files
from tests.looking import open_files

COPY = "FROM scratch\nCOPY d /cached/\n"


def copied(build: Build, **how: object) -> list[str]:
    """The steps that were not cached."""
    events = Events()
    build(COPY, progress=events, **how)
    return events.kinds("done")[1:]


def test_only_what_a_copy_takes_decides(build: Build, tmp_path: Path) -> None:
    context = tmp_path / "context"
    write_files(context, {"d/f": "what decides", "d/g": "g", "else": "1"})
    assert copied(build) == ["COPY d /cached/"]
    os.utime(context / "d/f", (1, 1))
    (context / "else").write_text("2")
    assert copied(build) == []
    (context / "d/f").chmod(0o700)
    assert copied(build) == ["COPY d /cached/"]
    (context / "d/f").chmod(0o644)
    assert copied(build) == []
    (context / "d/f").rename(context / "d/h")
    assert copied(build) == ["COPY d /cached/"]


def test_a_change_of_equal_size_and_times_is_found(build: Build, tmp_path: Path) -> None:
    context = tmp_path / "context"
    write_files(context, {"d/f": "grain 1"})
    copied(build)
    before = (context / "d/f").stat()
    (context / "d/f").write_text("grain 2")
    os.utime(context / "d/f", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert copied(build) == ["COPY d /cached/"]


def test_digests_are_remembered_only_when_a_later_change_would_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_files(tmp_path / "c", {"old": "1", "new": "2"})
    time.sleep(0.2)
    (place / "new").write_text("3")
    at_once = (place / "new").stat().st_ctime_ns + 1  # however busy the machine is
    for module in ("context", "contentkeys"):
        monkeypatch.setattr(f"layerfs.build.{module}.now_ns", lambda: at_once)
    with DirectoryFiles(place, None, hashes := Hashes(tmp_path / "hashes")) as files:
        digest_of(files, files.root)
        hashes.save()
    again = Hashes(tmp_path / "hashes")
    assert again.get((place / "old").stat()) is not None
    assert again.get((place / "new").stat()) is None


@pytest.mark.root
@pytest.mark.parametrize("engine", ["kernel", "native"])
def test_what_a_mounted_image_says_of_its_files_is_not_believed_of_the_next_one(
    store: layerfs.Store, tmp_path: Path, engine: str
) -> None:
    """Device, inode numbers, sizes and all times of two images may be the same."""
    for number in ("1", "2"):
        source = write_files(tmp_path / number, {"f": number, "Dockerfile": "FROM scratch\nCOPY f /g\nCOPY . /all/\n"})
        for path in (source, *source.iterdir()):
            os.utime(path, ns=(0, 10**18))
        with store.import_archive(source).mount(tmp_path / "mounted", engine=engine) as place:
            image = store.build(place)
        assert (read(image, "g"), read(image, "all/f")) == (number.encode(), number.encode())


def test_a_file_system_inside_a_context_is_not_believed_either(tmp_path: Path) -> None:
    place = write_files(tmp_path / "c", {"f": "1", "d/g": "2"})
    time.sleep(0.2)
    hashes = Hashes(tmp_path / "hashes")
    with DirectoryFiles(place, None, hashes) as files:
        hashes.trees.device = 1  # as if the top were somewhere else
        digest_of(files, files.root)
    hashes.save()
    assert Hashes(tmp_path / "hashes").get((place / "f").stat()) is None
    assert not (tmp_path / "hashes.trees").exists()


def test_a_build_leaves_no_descriptors(build: Build) -> None:
    def opened() -> set[tuple[str, str]]:
        gc.collect()
        return open_files()

    build("FROM scratch\nCOPY . /\n", {"f": ""}, build_contexts={"other": "/etc"})
    before = opened()
    build("FROM scratch\nCOPY . /\n", build_contexts={"other": "/etc"})
    assert opened() - before == set()


def test_a_damaged_file_of_digests_is_passed_over(tmp_path: Path) -> None:
    place = write_files(tmp_path / "c", {"f": "1"})
    time.sleep(0.2)
    with DirectoryFiles(place, None, hashes := Hashes(tmp_path / "hashes")) as files:
        digest_of(files, files.root)
        hashes.save()
    data = bytearray((tmp_path / "hashes").read_bytes())
    data[-40] ^= 1
    (tmp_path / "hashes").write_bytes(data)
    assert Hashes(tmp_path / "hashes").get((place / "f").stat()) is None


@pytest.mark.root
def test_arguments_environment_and_text_decide_about_a_run(build: Build) -> None:
    def ran(before: str, **how: object) -> list[str]:
        events = Events()
        build(f"FROM box:1\n{before}RUN echo decides > /f\nLABEL a=1\n", network="none", progress=events, **how)
        return events.kinds("done")[1:]

    line = ["RUN echo decides > /f"]
    assert ran("") == line
    assert ran("") == []
    assert ran("LABEL x=y\n") == []
    assert ran("ENV E=1\n") == line
    assert ran("ARG V=1\n") == line
    assert ran("ARG V=1\n", build_args={"V": "2"}) == line
    assert ran("ARG V=1\n", build_args={"V": "2", "HTTP_PROXY": "http://p"}) == []
    assert ran("", no_cache=True) == line


@pytest.mark.root
def test_no_cache_filter_runs_one_stage_again(build: Build) -> None:
    text = "FROM box:1 AS one\nRUN echo 1 > /filtered\nFROM box:1 AS two\nRUN echo 2 > /filtered\n"
    text += "COPY --from=one /filtered /1\n"
    build(text, network="none")
    events = Events()
    build(text, network="none", no_cache_filter=["two"], progress=events)
    assert events.kinds("cached") == ["RUN echo 1 > /filtered"]


def test_a_cached_build_is_the_same_image_and_writes_nothing(build: Build, store: layerfs.Store) -> None:
    image = build('FROM scratch\nCOPY f /same\nCMD ["x"]\n', {"f": "same"}, tag="same:1")
    before = (store.path / "index" / "data.mdb").stat().st_mtime_ns
    assert build('FROM scratch\nCOPY f /same\nCMD ["x"]\n', tag="same:1") == image
    assert (store.path / "index" / "data.mdb").stat().st_mtime_ns == before


def test_the_same_sources_give_the_same_digest_on_another_day(tmp_path: Path) -> None:
    ids = set()
    for number, order in enumerate((("a", "b", "c"), ("c", "a", "b"))):
        context = tmp_path / f"context{number}"
        for name in order:
            write_files(context, {f"d/{name}": name, "Dockerfile": "FROM scratch\nCOPY d /x/\nWORKDIR /w\nENV A=1\n"})
            time.sleep(0.01)
        mask = os.umask(0o077 if number else 0o022)
        try:
            with layerfs.Store(tmp_path / f"store{number}") as store:
                ids.add(store.build(context, epoch=1_600_000_000).id)
        finally:
            os.umask(mask)
    assert len(ids) == 1


@pytest.mark.root
def test_no_time_is_later_than_the_epoch(build: Build, store: layerfs.Store) -> None:
    image = build(
        "FROM box:1\nRUN mkdir /d && echo > /d/f\nCOPY f /g\n", {"f": ""}, network="none", epoch=1_600_000_000
    )
    limit = 1_600_000_000 * 10**9
    new = {change.path for change in store.diff("box:1", image)}
    times = [inode.mtime_ns for path, inode in image.tree().walk() if f"/{path.decode()}" in new]
    assert times and max(times) <= limit
    assert {row.created_ns for row in image.config.history[-2:]} == {limit} == {image.config.created_ns}


@pytest.mark.parametrize("epoch", [-1, 10**18])
def test_an_epoch_out_of_the_calendar_is_refused(build: Build, epoch: int) -> None:
    with pytest.raises(InvalidInput, match=f"invalid SOURCE_DATE_EPOCH: {epoch} "):
        build("FROM scratch\nCOPY f /epoch\n", {"f": ""}, epoch=epoch)


@pytest.mark.root
def test_a_chmod_and_a_chown_store_no_second_copy(build: Build, store: layerfs.Store) -> None:
    def stored() -> int:
        files = [path for top in ("packs", "objects") for path in (store.path / top).rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)

    big = {"big": os.urandom(1 << 20), "small": os.urandom(100_000)}
    build("FROM box:1\nCOPY big small /\n", big, network="none")
    before = stored()
    image = build("FROM box:1\nCOPY big small /\nRUN chmod 600 /big && chown 1000:1001 /small /big\n", network="none")
    assert stored() - before < 50_000
    assert tree(image)["big"] == (stat.S_IFREG | 0o600, 1000, 1001)
    assert read(image, "big") == big["big"] and read(image, "small") == big["small"]


@pytest.mark.root
def test_squash_leaves_one_layer_on_the_base(build: Build, store: layerfs.Store) -> None:
    text = "FROM box:1\nRUN echo 1 > /a; rm /etc/group; ln /etc/passwd /etc/again\nRUN rm /a; echo 2 > /b\n"
    plain, squashed = build(text, network="none"), build(text, network="none", squash=True)
    assert len(squashed.record.diff_ids) == len(store.image("box:1").record.diff_ids) + 1
    assert [change for change in store.diff(plain, squashed) if "mtime" not in change.fields] == []
    assert [row.empty_layer for row in squashed.config.history][-3:] == [True, True, False]


def test_pruning_forgets_what_no_image_has_and_gc_frees_it(tmp_path: Path) -> None:
    with layerfs.Store(tmp_path / "store") as store:
        context = write_files(tmp_path / "c", {"f": "kept", "g": "dangling", "Dockerfile": "FROM scratch\nCOPY f /\n"})
        store.build(context, tag="kept:1")
        (context / "Dockerfile").write_text("FROM scratch\nCOPY g /\n")
        store.remove_image(store.build(context).id)
        layers = {record.text for record in cache_records(store) if record.kind == "copy"}
        assert layers == {"COPY f /", "COPY g /"}
        store.gc()
        events = Events()
        store.build(context, progress=events)
        assert events.kinds("cached") == ["COPY g /"]
        store.remove_image(store.images()[0].id if not store.images()[0].tags else store.images()[1].id)
        assert {record.text for record in prune_cache(store) if record.kind == "copy"} == {"COPY g /"}
        assert [record.text for record in cache_records(store) if record.kind == "copy"] == ["COPY f /"]
        assert store.fsck() == []
        assert read(store.image("kept:1"), "f") == b"kept"


def test_a_context_that_changes_between_its_key_and_its_copy_is_not_remembered_wrongly(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = write_files(tmp_path / "context", {"d/f": "as keyed"})
    find = BuildCache.find

    def and_then_change(self: BuildCache, key: bytes) -> object:
        (place / "d/f").write_text("as copied")
        return find(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(BuildCache, "find", and_then_change)
        with pytest.raises(InUse, match="the context changed while it was read"):
            build("FROM scratch\nCOPY d /keyed/\n")
    write_files(place, {"d/f": "as keyed"})
    assert read(build("FROM scratch\nCOPY d /keyed/\n"), "keyed/f") == b"as keyed"


def test_a_directory_that_nobody_touched_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_files(tmp_path / "c", {"d/f": "1", "d/g": "2"})
    for path in [place, *place.rglob("*")]:
        os.utime(path, (1, 1))
    clock = time.time_ns() + 10**10
    monkeypatch.setattr("layerfs.build.contentkeys.now_ns", lambda: clock)
    digests = []
    for _ in range(2):
        with DirectoryFiles(place, None, hashes := Hashes(tmp_path / "hashes")) as files:
            digests.append(digest_of(files, files.root))
            hashes.save()
        monkeypatch.setattr(DirectoryFiles, "identity", lambda self, item: pytest.fail("read again"))
    assert digests[0] == digests[1]
