"""The public Python face: names, types, errors; nothing here mounts."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import warnings
from pathlib import Path

import pytest

import layerfs
from layerfs import errors
from layerfs.engine.store import default_path


@pytest.mark.parametrize("kind", [str, os.fspath, lambda path: path])
def test_a_store_may_be_named_by_text_or_path(tmp_path, kind):
    with layerfs.Store(kind(tmp_path / "s")) as store:
        assert store.path == tmp_path / "s"
        assert repr(store) == f"<layerfs.Store {tmp_path / 's'}>"


def test_a_store_that_is_not_there_is_refused_when_asked(tmp_path):
    with pytest.raises(errors.StoreError):
        layerfs.Store(tmp_path / "none", create=False)


def test_an_unclosed_store_gives_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layerfs.Store(tmp_path / "s").images()
        gc.collect()


def test_an_image_tells_of_itself(store, image):
    assert image.id.startswith("sha256:") and len(image.id) == 71
    assert image.short_id == image.id[7:19]
    assert image.tags == ("small:1",)
    assert image.config.config.env == ("A=1", "B=2")
    assert [layer.size for layer in image.layers] == [8]
    assert image.history()[0].size == 8
    assert repr(image) == f"<layerfs.Image {image.short_id} small:1>"
    assert image == store.image("small:1") == store.image(image.short_id)
    assert len({image, store.image(image.id)}) == 1


def test_a_container_tells_of_itself(store, image):
    box = store.create(image, name="box", env={"C": "3"}, labels=["x=1"], workdir="/tmp")
    assert (box.name, box.short_id, box.image) == ("box", box.id[:12], image)
    assert repr(box) == f"<layerfs.Container {box.short_id} box>"
    assert box == store.container("box") == store.container(box.id[:20])
    assert box.config().env == ("C=3", "A=1", "B=2")  # as docker has it: its own first
    assert dict(box.config().labels) == {"k": "v", "x": "1"}
    assert (box.state.status, box.state.running, box.state.code) == ("created", False, 0)
    assert (box.diff(), box.sizes().writable, box.sizes().image) == ([], 0, 8)


def test_commit_without_changes_adds_no_layer(store, image):
    made = store.create(image, command=["a", "b"]).commit("small:2", message="m", author="a", changes=["USER bob"])
    assert (made.tags, made.parent, made.layers) == (("small:2",), image, image.layers)
    assert (made.config.config.user, made.config.author) == ("bob", "a")
    assert (made.history()[0].comment, made.history()[0].created_by) == ("m", "a b")


def test_diff_of_images_names_what_differs(store, image, tmp_path):
    (tmp_path / "plain/etc/motd").write_text("Other words\n")
    (tmp_path / "plain/new").touch()
    other = store.import_archive(str(tmp_path / "plain"))
    found = {change.path: change for change in layerfs.diff(image, other)}
    assert (found["/etc/motd"].kind, found["/etc/motd"].old_size, found["/etc/motd"].new_size) == ("C", 8, 12)
    assert found["/new"].kind == "A"
    assert {c.path for c in other.diff(image) if c.kind == "D"} == {"/new"}


def test_images_of_two_stores_are_not_compared(store, image, tmp_path):
    with layerfs.Store(tmp_path / "other") as other:
        theirs = other.import_archive(tmp_path / "plain")
        with pytest.raises(errors.InvalidInput, match="two stores"):
            layerfs.diff(image, theirs)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"memory": "64q"}, errors.InvalidInput, "invalid size: '64q'"),
        ({"cpus": 0.001}, errors.InvalidInput, "range of CPUs is from 0.01"),
        ({"pids": "many"}, errors.InvalidInput, "invalid value for pids: 'many'"),
        ({"resources": {}}, errors.InvalidInput, "unknown setting 'resources'"),
        ({"sysctls": ["kernel.panic=1"]}, errors.InvalidInput, "sysctl 'kernel.panic' is not allowed"),
        ({"nosuch": 1}, errors.InvalidInput, "unknown setting 'nosuch'"),
        ({"nosuch": None}, errors.InvalidInput, "unknown setting 'nosuch'"),
        ({"command": "echo hi"}, errors.InvalidInput, "command must be a list of strings"),
        ({"command": ["a", 1]}, errors.InvalidInput, "1 is not a string"),
        ({"env": ["=x"]}, errors.InvalidInput, "invalid environment variable"),
        ({"user": "a\0b"}, errors.InvalidInput, "holds a NUL"),
        ({"volumes": ["data:/x:sideways"]}, errors.InvalidInput, "invalid volume specification"),
        ({"engine": "odd"}, errors.InvalidInput, "unknown engine 'odd'"),
        ({"name": "-"}, errors.InvalidInput, "Invalid container name"),
    ],
)
def test_settings_that_cannot_be_are_told_at_create(store, image, settings, kind, message):
    with pytest.raises(kind, match=message):
        store.create(image, **settings)
    assert store.containers() == []


def test_a_limit_of_none_is_no_limit(store, image):
    assert store.create(image, memory=None, cpus=None, pids=None).settings.command is None


def test_bytes_in_settings_come_back_as_the_file_system_has_them(store, image):
    box = store.create(image, command=[b"\xff"], entrypoint="/bin/x")
    assert store.container(box.id).settings.command == ("\udcff",)
    assert box.settings.entrypoint == ("/bin/x",)


def test_what_is_not_there_is_said_in_dockers_words(store):
    for call, message in [
        (lambda: store.image("nosuch"), "No such image: nosuch:latest"),
        (lambda: store.container("nosuch"), "No such container: nosuch"),
        (lambda: store.inspect("nosuch"), "No such object: nosuch"),
        (lambda: store.export("nosuch", "/x"), "No such container or image: nosuch"),
        (lambda: store.create("nosuch"), "No such image: nosuch:latest"),
    ]:
        with pytest.raises(FileNotFoundError, match=message) as caught:
            call()
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (type(caught.value), str(caught.value))


def test_the_candidates_of_a_short_id_survive_pickling():
    error = errors.Ambiguous("two", candidates=("a", "b"))
    assert pickle.loads(pickle.dumps(error)).candidates == ("a", "b")


def test_a_removed_container_is_gone(store, image):
    box = store.create(image, name="box")
    store.container("box").remove()
    for call in (lambda: box.name, box.remove, box.diff, box.commit):
        with pytest.raises(errors.ContainerNotFound):
            call()


def test_create_and_remove_from_many_threads(store, image):
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                store.create(image).remove()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failures, store.containers()) == ([], [])


def test_only_one_thread_gets_a_name(store, image):
    results: list[object] = []

    def work() -> None:
        try:
            results.append(store.create(image, name="mine").name)
        except errors.AlreadyExists as error:
            results.append(type(error))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)).count("mine") == 1
    assert results.count(errors.AlreadyExists) == 3


def test_a_forked_child_uses_the_same_store(store, image):
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if store.create(image, name="child").image == image else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.container("child").image_name == "small:1"


def test_two_stores_in_one_process_do_not_mix(store, image, tmp_path):
    with layerfs.Store(tmp_path / "other") as other:
        assert other.images() == []
        other.import_archive(tmp_path / "plain", tag="there:1")
        assert [i.tags for i in store.images()] == [("small:1",)]


def test_gc_and_fsck_of_a_whole_store(store, image):
    assert store.fsck() == []
    store.remove_image("small:1")
    assert store.gc(dry_run=True).layers == 1
    assert store.gc().layers == 1
    assert store.fsck(repair=True) == []


def test_public_names_load_and_are_documented():
    for name in layerfs.__all__:
        assert getattr(layerfs, name)
    for each in (layerfs.Store, layerfs.Image, layerfs.Container):
        public = [
            v for k, v in vars(each).items() if not k.startswith("_") and (callable(v) or isinstance(v, property))
        ]
        assert [v for v in public if not v.__doc__ and not (isinstance(v, property))] == []


def test_the_default_store_is_told_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAYERFS_STORE", str(tmp_path / "mine"))
    with layerfs.Store() as store:
        assert store.path == tmp_path / "mine"
    monkeypatch.delenv("LAYERFS_STORE")
    assert default_path() in (Path("/var/lib/layerfs"), Path.home() / ".local/share/layerfs")


def test_who_has_no_home_is_told_to_name_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LAYERFS_STORE", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    with pytest.raises(layerfs.errors.StoreError, match="no home directory"):
        default_path()
