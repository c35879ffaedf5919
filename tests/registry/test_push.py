"""Pushing from a store, with skopeo and podman as judges."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

import layerfs
from layerfs.digest import Digest
from layerfs.errors import ImageNotFound, InvalidInput, NotFound, RegistryDenied, RegistryError
from layerfs.oci import Manifest, media
from layerfs.registry.config import Settings
from layerfs.registry.connect import Registries
from layerfs.registry.copy import copy
from layerfs.registry.credentials import Credential
from layerfs.registry.places import Place
from layerfs.registry.push import Pushed, Pusher
from tests.registry import hostile
from tests.registry.servers import PASSWORD, QUICK, USER, Answer, Registry, Request, TokenServer, get, scripted
from tests.unit.image.make import config as make_config
from tests.unit.image.make import digest, tar

Push = Callable[..., list[Pushed]]


@pytest.fixture
def push(store: layerfs.Store, settings: Settings) -> Push:
    def push(name: str, **how: object) -> list[Pushed]:
        return store.push(name, settings=settings, **how)  # type: ignore[arg-type]

    return push


def hows(pushed: list[Pushed]) -> list[str]:
    return [layer.sent.how for layer in pushed[0].layers]


def skopeo(*arguments: str | Path) -> str:
    done = subprocess.run(["skopeo", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_skopeo_reads_what_was_pushed(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], push: Push, tmp_path: Path
) -> None:
    name = f"{plain.host}/{repository}:1"
    image = make_image(name)
    (pushed,) = push(name)
    skopeo("copy", "--src-tls-verify=false", f"docker://{name}", f"dir:{tmp_path}/out")
    raw = (tmp_path / "out/manifest.json").read_bytes()
    assert (raw, Digest.of(raw)) == (pushed.document.raw, pushed.digest)
    assert Manifest.parse(raw).config.digest == image.id


def test_what_is_there_is_not_sent_again(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], push: Push
) -> None:
    name = f"{plain.host}/{repository}"
    make_image(name, motd=repository)
    first, second = push(name), push(name)
    assert (hows(first), hows(second)) == (["sent"], ["there"])
    assert first[0].digest == second[0].digest


def test_only_the_new_layer_of_a_commit_is_sent(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], push: Push, store: layerfs.Store
) -> None:
    name = f"{plain.host}/{repository}"
    image = make_image(f"{name}:1", motd=repository)
    push(f"{name}:1")
    box = store.create(image)
    with box.mount() as root:
        (root / "new").write_text("new\n")
    box.commit(f"{name}:2")
    assert hows(push(f"{name}:2")) == ["there", "sent"]


def committed(store: layerfs.Store, base: str, name: str) -> None:
    """An image of one more layer than its base."""
    box = store.create(base)
    with box.mount() as root:
        (root / "new").write_text(name)
    box.commit(name)


def test_a_blob_that_the_registry_lost_is_sent_again(
    plain: Registry,
    repository: str,
    make_image: Callable[..., layerfs.Image],
    push: Push,
    store: layerfs.Store,
    registries: Registries,
) -> None:
    name = f"{plain.host}/{repository}"
    make_image(f"{name}:1", motd=repository)
    (first,) = push(f"{name}:1")
    registries.client(plain.host).delete_blob(repository, first.layers[0].descriptor.digest)
    committed(store, f"{name}:1", f"{name}:2")
    (second,) = push(f"{name}:2")
    assert [layer.sent.how for layer in second.layers] == ["sent", "sent"]
    assert second.layers[0].descriptor == first.layers[0].descriptor
    skopeo("inspect", "--tls-verify=false", f"docker://{name}:2")
    with layerfs.Store(store.path.parent / "other") as other:
        assert other.pull(f"{name}:2", settings=Settings(limits=QUICK)).id == store.image(f"{name}:2").id


def test_a_lost_blob_is_noticed_where_manifests_are_not_checked(
    make_image: Callable[..., layerfs.Image], push: Push, store: layerfs.Store
) -> None:
    """And nobody is asked for what goes anyway."""
    blobs: set[str] = set()

    def answer(request: Request) -> Answer:
        digest = request.path.rpartition("/")[2]
        if request.method == "POST":
            return Answer(202, headers={"Location": "/v2/app/blobs/uploads/1"})
        if request.method == "PUT":
            blobs.add(unquote(request.path.partition("digest=")[2]))
            return Answer(201)
        return Answer(200 if request.method == "GET" or digest in blobs else 404)

    with scripted(answer) as (host, seen):
        make_image(f"{host}/app:1")
        (first,) = push(f"{host}/app:1")
        assert "HEAD" not in [request.method for request in seen]
        lost = first.layers[0].descriptor.digest
        blobs.remove(lost)
        committed(store, f"{host}/app:1", f"{host}/app:2")
        assert hows(push(f"{host}/app:2")) == ["sent", "sent"]
        puts = [request.path for request in seen if request.method == "PUT"]
    assert (lost in blobs, puts[-1]) == (True, "/v2/app/manifests/2")


def test_an_upload_that_was_opened_early_is_opened_again_when_it_is_lost(
    make_image: Callable[..., layerfs.Image], push: Push
) -> None:
    opened = itertools.count()

    def answer(request: Request) -> Answer:
        if request.method == "POST":
            return Answer(202, headers={"Location": f"/v2/app/blobs/uploads/{next(opened)}"})
        first = request.path.startswith(("/v2/app/blobs/uploads/0", "/v2/app/blobs/uploads/1"))
        return Answer(404 if first else 201 if request.method == "PUT" else 200)

    with scripted(answer) as (host, _):
        make_image(f"{host}/app:1")
        assert hows(push(f"{host}/app:1")) == ["sent"]
    assert next(opened) == 4


def test_small_layers_and_the_config_go_side_by_side(
    make_image: Callable[..., layerfs.Image], push: Push, store: layerfs.Store
) -> None:
    together = threading.Barrier(3, timeout=30)

    def answer(request: Request) -> Answer:
        if request.method in ("POST", "PUT") and "manifests" not in request.path:
            together.wait()
        where = {"Location": "/v2/app/blobs/uploads/1"}
        return {"POST": Answer(202, headers=where), "PUT": Answer(201), "HEAD": Answer(404)}.get(
            request.method, Answer(200)
        )

    with scripted(answer) as (host, _):
        make_image(f"{host}/app:1")
        committed(store, f"{host}/app:1", f"{host}/app:2")
        assert hows(push(f"{host}/app:2")) == ["sent", "sent"]


def test_layers_are_mounted_from_the_repository_that_has_them(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], push: Push, store: layerfs.Store
) -> None:
    make_image(f"{plain.host}/{repository}", motd=repository)
    push(f"{plain.host}/{repository}")
    store.tag(f"{plain.host}/{repository}", f"{plain.host}/{repository}/other")
    (pushed,) = push(f"{plain.host}/{repository}/other")
    assert [(layer.sent.how, layer.sent.source) for layer in pushed.layers] == [("mounted", repository)]


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_a_loaded_image_is_pushed_with_its_own_manifest(
    plain: Registry,
    repository: str,
    make_image: Callable[..., layerfs.Image],
    push: Push,
    store: layerfs.Store,
    settings: Settings,
    tmp_path: Path,
    compression: str,
) -> None:
    make_image("local:1", motd=repository)
    store.save(["local:1"], tmp_path / "layout", format="oci-dir", compression=compression)
    index = json.loads((tmp_path / "layout/index.json").read_bytes())
    name = f"{plain.host}/{repository}:{compression}"
    with layerfs.Store(tmp_path / "other") as other:
        other.load(tmp_path / "layout")
        other.tag("local:1", name)
        (pushed,) = other.push(name, settings=settings)
    assert str(pushed.digest) == index["manifests"][0]["digest"]
    assert get(plain.host, f"/v2/{repository}/manifests/{pushed.digest}") == pushed.document.raw


def test_the_name_has_a_digest_afterwards(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], push: Push, store: layerfs.Store
) -> None:
    name = f"{plain.host}/{repository}"
    make_image(name)
    (pushed,) = push(name)
    assert store.inspect(name)["RepoDigests"] == [f"{name}@{pushed.digest}"]
    assert store.fsck() == []
    store.gc()
    assert hows(push(name)) == ["there"]


def test_a_push_goes_to_a_second_registry_from_the_first(
    plain: Registry,
    guarded: Registry,
    repository: str,
    make_image: Callable[..., layerfs.Image],
    push: Push,
    store: layerfs.Store,
    settings: Settings,
) -> None:
    here, there = f"{plain.host}/{repository}", f"{guarded.host}/{repository}"
    make_image(here, motd=repository)
    first = push(here)
    store.tag(here, there)
    assert settings.auth is not None
    settings.auth.store(guarded.host, Credential(USER, PASSWORD))
    second = push(there)
    assert (hows(second), second[0].digest) == (["sent"], first[0].digest)


def test_all_tags_go_at_once(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], push: Push
) -> None:
    for tag in ("1", "2"):
        make_image(f"{plain.host}/{repository}:{tag}", motd=tag)
    pushed = push(f"{plain.host}/{repository}", all_tags=True)
    assert [each.reference.tag for each in pushed] == ["1", "2"]
    assert set(json.loads(get(plain.host, f"/v2/{repository}/tags/list"))["tags"]) == {"1", "2"}


def test_what_is_not_there_is_said_in_dockers_words(plain: Registry, push: Push) -> None:
    with pytest.raises(ImageNotFound) as caught:
        push(f"{plain.host}/none:1")
    assert str(caught.value) == f"An image does not exist locally with the tag: {plain.host}/none"
    with pytest.raises(InvalidInput, match="cannot push a digest reference"):
        push(f"{plain.host}/none@sha256:{'0' * 64}")
    with pytest.raises(InvalidInput, match="tag can't be used with --all-tags/-a"):
        push(f"{plain.host}/none:1", all_tags=True)


def test_a_push_that_is_not_allowed_names_its_repository(
    guarded: Registry, repository: str, make_image: Callable[..., layerfs.Image], push: Push
) -> None:
    make_image(f"{guarded.host}/{repository}")
    with pytest.raises(RegistryDenied) as caught:
        push(f"{guarded.host}/{repository}")
    assert str(caught.value) == f"{guarded.host}/{repository}: unauthorized: authentication required"


def test_tokens_let_a_push_in(
    tokened: Registry,
    tokens: TokenServer,
    repository: str,
    make_image: Callable[..., layerfs.Image],
    push: Push,
    settings: Settings,
) -> None:
    assert settings.auth is not None
    settings.auth.store(tokened.host, Credential(USER, PASSWORD))
    make_image(f"{tokened.host}/{repository}", motd=repository)
    tokens.asked.clear()
    assert hows(push(f"{tokened.host}/{repository}")) == ["sent"]
    assert tokens.asked == [[f"repository:{repository}:pull,push"]]


@pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman")
def test_podman_pulls_what_was_pushed(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], push: Push, tmp_path: Path
) -> None:
    name = f"{plain.host}/{repository}:1"
    image = make_image(name, motd=repository)
    push(name)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:  # a short path, as podman wants it
        (Path(place) / "containers.conf").write_text('[engine]\nlock_type = "file"\n')  # not the machine's own locks
        environ = {**os.environ, "CONTAINERS_CONF": f"{place}/containers.conf"}
        podman = ["podman", "--root", f"{place}/root", "--runroot", f"{place}/run", "--storage-driver", "vfs"]
        pull = [*podman, "pull", "-q", "--tls-verify=false", name]
        done = subprocess.run(pull, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == image.id.removeprefix("sha256:")


def test_a_pulled_image_is_pushed_as_it_came(
    plain: Registry,
    repository: str,
    make_image: Callable[..., layerfs.Image],
    push: Push,
    store: layerfs.Store,
    settings: Settings,
    tmp_path: Path,
) -> None:
    """By skopeo, in docker's own format: another manifest than we would make."""
    make_image("app:1", motd=repository)
    store.save(["app:1"], tmp_path / "app.tar")
    name = f"{plain.host}/{repository}:1"
    skopeo("copy", "--dest-tls-verify=false", "--format=v2s2", f"docker-archive:{tmp_path}/app.tar", f"docker://{name}")
    with layerfs.Store(tmp_path / "other") as other:
        image = other.pull(name, settings=settings)
        other.tag(name, f"{plain.host}/{repository}/copy:1")
        (pushed,) = other.push(f"{plain.host}/{repository}/copy:1", settings=settings)
    assert pushed.document.media_type == media.DOCKER_MANIFEST
    assert pushed.document.raw == get(plain.host, f"/v2/{repository}/manifests/1", media.DOCKER_MANIFEST)
    assert str(image.digest) == str(pushed.digest)


def test_a_whole_index_goes_with_all_platforms(
    plain: Registry,
    repository: str,
    index_layout: Path,
    registries: Registries,
    settings: Settings,
    tmp_path: Path,
) -> None:
    here, there = f"{plain.host}/{repository}:all", f"{plain.host}/{repository}/copy:all"
    copy(Place.parse(f"oci:{index_layout}:all"), Place.parse(f"docker://{here}"), registries, everything=True)
    with layerfs.Store(tmp_path / "other") as other:
        other.pull(here, settings=settings, all_platforms=True)
        other.tag(here, there)
        (whole,) = other.push(there, all_platforms=True, settings=settings)
        assert other.inspect(there)["RepoDigests"]
        (one,) = other.push(there, settings=settings)
    index = get(plain.host, f"/v2/{repository}/manifests/all", media.OCI_INDEX)
    assert (whole.document.raw, isinstance(one.document, Manifest)) == (index, True)


def test_a_layer_in_two_forms_goes_in_both(
    plain: Registry, repository: str, settings: Settings, store: layerfs.Store
) -> None:
    layer = tar({"f": repository.encode()})
    with hostile.Registry() as source:
        image = {"config": source.put(make_config([layer, layer]), media.OCI_CONFIG)}
        forms = ((gzip.compress(layer, mtime=0), media.OCI_LAYER_GZIP), (layer, media.OCI_LAYER))
        entry = source.manifest("app:1", image | {"layers": [source.put(*form) for form in forms]})
        store.pull(f"{source.host}/app:1", settings=settings)
        assert len(source.fetched()) == 2  # the config and one of them
        store.tag(f"{source.host}/app:1", f"{plain.host}/{repository}:1")
        (pushed,) = store.push(f"{plain.host}/{repository}:1", settings=settings, exact=True)
    assert str(pushed.digest) == entry["digest"]


def test_an_index_goes_with_what_it_names_beside_manifests(
    plain: Registry, repository: str, settings: Settings, store: layerfs.Store
) -> None:
    with hostile.Registry() as source:
        image = source.image("app", [tar({"f": b"x"})])
        entry = source.index("app:1", [image, source.put(repository.encode(), "application/x-any")])
        store.pull(f"{source.host}/app:1", settings=settings, all_platforms=True)
        store.tag(f"{source.host}/app:1", f"{plain.host}/{repository}:1")
    (pushed,) = store.push(f"{plain.host}/{repository}:1", settings=settings, all_platforms=True)
    assert str(pushed.digest) == entry["digest"]
    assert digest(repository.encode())[7:] in plain.blob_files()


def test_a_part_of_an_index_is_not_pushed_as_a_whole(
    plain: Registry,
    repository: str,
    index_layout: Path,
    registries: Registries,
    settings: Settings,
    tmp_path: Path,
) -> None:
    name = f"{plain.host}/{repository}:all"
    copy(Place.parse(f"oci:{index_layout}:all"), Place.parse(f"docker://{name}"), registries, everything=True)
    with layerfs.Store(tmp_path / "other") as other:
        other.pull(name, settings=settings)
        with pytest.raises(NotFound, match="is not in the store: pull with --all-platforms first"):
            other.push(name, all_platforms=True, settings=settings)


def test_what_changes_during_a_push_stays_changed(
    plain: Registry, repository: str, make_image: Callable[..., layerfs.Image], push: Push, store: layerfs.Store
) -> None:
    name = f"{plain.host}/{repository}:1"
    make_image(name, motd=repository)
    other = make_image("other:1", motd="other")

    def retag(layer: object) -> None:
        store.tag("other:1", name)

    push(name, done=retag)
    assert store.image(name).id == other.id


def test_what_changes_while_the_manifest_is_on_its_way_stays_changed(
    plain: Registry,
    repository: str,
    make_image: Callable[..., layerfs.Image],
    push: Push,
    store: layerfs.Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the note was made ready, and before it is written."""
    name = f"{plain.host}/{repository}:1"
    image = make_image(name, motd=repository)
    other = make_image("other:1", motd="other")
    note = Pusher._note

    def late(*arguments: Any) -> None:
        store.tag("other:1", name)
        note(*arguments)

    monkeypatch.setattr(Pusher, "_note", late)
    (pushed,) = push(name)
    assert (store.image(name).id, store.image(name).digest) == (other.id, None)
    assert store.image(f"{plain.host}/{repository}@{pushed.digest}").id == image.id


def test_a_manifest_that_the_registry_refuses_has_no_name_here(
    make_image: Callable[..., layerfs.Image], push: Push, store: layerfs.Store
) -> None:
    def answer(request: Request) -> Answer:
        if request.method == "PUT" and "/manifests/" in request.path:
            return Answer(400, b'{"errors": [{"code": "MANIFEST_INVALID", "message": "no"}]}')
        where = {"Location": "/v2/app/blobs/uploads/1"}
        return {"POST": Answer(202, headers=where), "PUT": Answer(201), "HEAD": Answer(404)}.get(
            request.method, Answer(200)
        )

    with scripted(answer) as (host, _):
        make_image(f"{host}/app:1")
        name = f"{host}/app:1"
        with pytest.raises(RegistryError, match="manifest invalid: no"):
            push(name)
        image = store.image(name)
        assert (image.digest, store.inspect(name)["RepoDigests"]) == (None, [])
