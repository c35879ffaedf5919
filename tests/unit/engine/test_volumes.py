"""Volumes, binds and tmpfs: what is seen, kept, filled and removed."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from layerfs import errors
from layerfs.engine.networks import Networks
from layerfs.engine.volumes import Volumes

pytestmark = pytest.mark.root


@pytest.fixture
def filled(store, shell_image):
    """An image with something at /data, which the user 7 owns."""
    box = store.create(shell_image)
    (box.upper / "data/sub").mkdir(parents=True)
    (box.upper / "data/file").write_text("from the image")
    (box.upper / "data/link").symlink_to("/etc/passwd")
    os.chown(box.upper / "data", 7, 8)
    (box.upper / "data").chmod(0o750)
    return box.commit("filled:1")


def test_a_new_volume_gets_what_the_image_has_there(store, filled):
    box = store.create(filled, volumes=["keep:/data"])
    assert box.run(["sh", "-c", "cat /data/file; echo more > /data/new"]).stdout == b"from the image"
    place = Volumes(store).get("keep").path
    assert (
        sorted(path.name for path in place.iterdir()) == ["file", "link", "new", "sub"]
        and str((place / "link").readlink()) == "/etc/passwd"
    )
    assert (place.stat().st_uid, place.stat().st_gid, place.stat().st_mode & 0o777) == (7, 8, 0o750)
    assert box.diff() == []
    assert store.create(filled, volumes=["keep:/elsewhere:ro"]).run(["cat", "/elsewhere/new"]).stdout == b"more\n"
    with pytest.raises(errors.InUse, match="volume is in use"):
        Volumes(store).remove("keep")


def test_nocopy_and_full_volumes_are_left_as_they_are(store, filled):
    box = store.create(filled, volumes=["empty:/data:nocopy"])
    assert box.run(["ls", "/data"]).stdout == b""
    (Volumes(store).create("own").path / "mine").write_text("x")
    assert store.create(filled, mounts=["src=own,dst=/data"]).run(["ls", "/data"]).stdout == b"mine\n"


def test_unnamed_volumes_go_with_their_container_when_asked(store, shell_image):
    kept = store.create(shell_image, volumes=["/a"], mounts=["dst=/b"])
    gone = store.create(shell_image, volumes=["/a"])
    kept.run(["touch", "/a/x", "/b/y"])
    gone.run(["touch", "/a/x"])
    assert len(Volumes(store).all()) == 3
    gone.remove(volumes=True)
    kept.remove()
    assert len(Volumes(store).all()) == 2
    assert len(Volumes(store).prune()) == 2


def test_volumes_of_the_image(store, shell_image):
    image = store.create(shell_image).commit("v:1", changes=["VOLUME /inner"])
    box = store.create(image)
    box.run(["touch", "/inner/file"])
    assert [mount["Destination"] for mount in store.inspect(box.id)["Mounts"]] == ["/inner"]
    assert len(Volumes(store).all()) == 1
    assert len(store.create(image, volumes=["named:/inner"]).settings.volumes) == 1


def test_a_hostile_link_in_the_image_does_not_fill_from_the_host(store, shell_image):
    box = store.create(shell_image)
    (box.upper / "data").symlink_to("../../../../../../etc")
    image = box.commit("hostile:1")
    store.create(image, volumes=["trap:/data"]).run(["ls"])
    assert not (Volumes(store).get("trap").path / "shadow").exists()


def test_subpaths_stay_inside_their_volume(store, shell_image):
    place = Volumes(store).create("v").path
    (place / "good").mkdir()
    (place / "good/file").touch()
    (place / "bad").symlink_to("/etc")
    mount = "src=v,dst=/m,volume-subpath="
    assert store.create(shell_image, mounts=[mount + "good"]).run(["ls", "/m"]).stdout == b"file\n"
    with pytest.raises(errors.RunError, match="cannot access path bad"):
        store.create(shell_image, mounts=[mount + "bad"]).run(["ls", "/m"])


def test_a_missing_source_is_made_by_v_and_an_error_for_mount(store, shell_image, tmp_path):
    box = store.create(shell_image)
    box.run(["touch", "/m/file"], volumes=[f"{tmp_path}/new/dir:/m"])
    assert (tmp_path / "new/dir/file").exists()
    with pytest.raises(errors.RunError, match="bind source path does not exist"):
        box.run(["ls"], mounts=[f"type=bind,src={tmp_path}/nosuch,dst=/m"])


def test_propagation(store, shell_image, tmp_path):
    source = tmp_path / "shared"
    source.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", source], check=True)
    try:
        subprocess.run(["mount", "--make-private", source], check=True)
        box = store.create(shell_image, mounts=[f"type=bind,src={source},dst=/m,bind-propagation=rshared"])
        with pytest.raises(errors.RunError, match="not shared"):
            box.run(["ls"])
        subprocess.run(["mount", "--make-shared", source], check=True)
        optional = {}
        for word in ("rshared", "rslave", "rprivate"):
            shown = box.run(["cat", "/proc/self/mountinfo"], volumes=[], mounts=[
                f"type=bind,src={source},dst=/m,bind-propagation={word}"]).stdout.decode()  # fmt: skip
            line = next(line for line in shown.splitlines() if line.split()[4] == "/m")
            optional[word] = line.split(" - ")[0].split()[6:]
        assert [x.partition(":")[0] for word in optional.values() for x in word] == ["shared", "master"]
    finally:
        subprocess.run(["umount", source], check=True)


def test_tmpfs_by_mount(store, shell_image):
    box = store.create(shell_image, mounts=["type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700"])
    assert b"size=1024k,mode=700" in box.run(["cat", "/proc/mounts"]).stdout


def test_volumes_as_records(store):
    volumes = Volumes(store)
    assert volumes.create("a", {"k": "v"}) == volumes.create("a") == volumes.get("a")
    assert len(volumes.create().name) == 64
    for name in ("nosuch", "../a", ""):
        with pytest.raises(errors.NotFound, match="no such volume"):
            volumes.get(name)
    with pytest.raises(errors.InvalidInput):
        volumes.create("a/b")
    volumes.remove("a")
    assert len(volumes.prune()) == 1 and volumes.all() == []


def test_usage_tells_who_uses_a_volume_and_pruning_removes_the_unnamed(store, shell_image):
    box = store.create(shell_image, volumes=["kept:/a", "/b"])
    box.run(["sh", "-c", "echo 12345678 > /a/x; echo 1234567 > /b/x"])
    assert sorted(Volumes(store).usage().values()) == [(8, True), (9, True)]
    Networks(store).create("idle")
    box.remove()
    assert Volumes(store).usage()["kept"] == (9, False)
    words = "\n".join(store.prune(networks=True, volumes=True))
    assert re.match(r"Deleted Networks:\nidle\n\nDeleted Volumes:\n[0-9a-f]{64}\n\nTotal reclaimed space: ", words)
    assert [volume.name for volume in Volumes(store).all()] == ["kept"]
