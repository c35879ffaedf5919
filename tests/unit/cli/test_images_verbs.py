"""import, images, history, inspect, tag, rmi, save, load, export, diff, debug tree, system."""

from __future__ import annotations

import io
import json
import re
import tarfile

import pytest

from tests.unit.cli.conftest import ODD
from tests.unit.image.make import Layout, tar


def test_import_prints_the_id_alone(small):
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", small)


def test_images_is_dockers_table(shell, small):
    heading, row = shell("images").lines
    assert re.fullmatch(r"REPOSITORY   TAG       IMAGE ID       CREATED  +SIZE", heading)
    assert re.fullmatch(rf"small        1         {small[7:19]}   .* ago   200kB", row)


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ("-q", "{short}"),
        ("-q --no-trunc", "{id}"),
        ("-q small", "{short}"),
        ("-q small:1", "{short}"),
        ("-q sma*", "{short}"),
        ("-q nosuch", ""),
        ("-q -f label=k=v", "{short}"),
        ("-q -f label=k=w", ""),
        ("-q -f dangling=true", ""),
        ("-q -f reference=small:*", "{short}"),
        ("-q -f since=small:1", ""),
        ("--format {{.Repository}}:{{.Tag}}", "small:1"),
        ("--format {{.ID}}\\t{{.Size}} small", "{short}\t200kB"),
    ],
)
def test_images_selects_and_formats(shell, small, options, want):
    done = shell("images", *options.split(" "))
    assert done.out.strip("\n") == want.format(short=small[7:19], id=small)


def test_images_as_json_is_an_object_a_line(shell, small):
    shell("tag", "small:1", "other")
    rows = [json.loads(line) for line in shell("images", "--format", "json").lines]
    assert sorted((r["Repository"], r["Tag"], r["ID"]) for r in rows) == [
        ("other", "latest", small[7:19]),
        ("small", "1", small[7:19]),
    ]


def test_a_table_of_ones_own(shell, small):
    assert shell("images", "--format", r"table {{.Tag}}\t{{.Repository}}").lines == [
        "TAG       REPOSITORY",
        "1         small",
    ]


def test_history_has_dockers_columns(shell, small):
    heading, row = shell("history", "small:1").lines
    assert re.fullmatch(r"IMAGE          CREATED  +CREATED BY   SIZE      COMMENT", heading)
    assert re.fullmatch(rf"{small[7:19]}   .* ago  +200kB     a test", row)


def test_history_shows_missing_for_what_is_not_an_image_here(shell, small, tmp_path):
    shell("create", "--name", "cc", "small:1")
    top = shell("commit", "-m", "more", "-c", "ENV A=1", "cc", "small:2").out.strip()
    assert [line.split()[0] for line in shell("history", "-q", "--no-trunc", "small:2").lines] == [top, small]
    shell("save", "-o", str(tmp_path / "s.tar"), "small:2")
    shell("load", "-i", str(tmp_path / "s.tar"), store="other")
    assert shell("history", "-q", "--no-trunc", "small:2", store="other").lines == [top, "<missing>"]


def test_history_for_machines(shell, small):
    row = shell("history", "-H=false", "--format", "{{.Size}} {{.CreatedAt}}", "small:1").out
    assert re.fullmatch(r"200012 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)\n", row)


def test_inspect_is_an_array_and_tells_what_is_missing(shell, small):
    done = shell("inspect", "small:1", "nosuch")
    assert done.code == 1
    assert [each["Id"] for each in json.loads(done.out)] == [small]
    assert done.err == "layerfs: No such object: nosuch\n"


@pytest.mark.parametrize(
    ("line", "out", "err"),
    [
        ("inspect nosuch", "[]\n", "No such object: nosuch"),
        ("inspect -f {{.Id}} nosuch", "\n", "No such object: nosuch"),
        ("inspect --type image nosuch", "[]\n", "No such image: nosuch:latest"),
        ("image inspect cc", "[]\n", "No such image: cc:latest"),
        ("container inspect small:1", "[]\n", "No such container: small:1"),
        ("inspect -f {{.Name}} cc", "/cc\n", ""),
        ("inspect -f {{.Config.Cmd}} small:1", "[sh -c a b]\n", ""),
        ("inspect -f {{.Nope}} small:1", "", "template parsing error"),
    ],
)
def test_inspect_finds_the_right_kind(shell, small, line, out, err):
    shell("create", "--name", "cc", "small:1")
    done = shell(*line.split())
    assert done.out == out
    assert err in done.err


def test_a_bad_tag_is_told_as_docker_does(shell, small):
    done = shell("tag", "small:1", "BAD:x")
    assert done.err.startswith(
        'layerfs: Error parsing reference: "BAD:x" is not a valid repository/tag: invalid reference format'
    )


def test_rmi_untags_then_deletes(shell, small):
    shell("tag", "small:1", "other:2")
    assert shell("rmi", "other:2").out == "Untagged: other:2\n"
    assert shell("rmi", "small:1").lines[:2] == ["Untagged: small:1", f"Deleted: {small}"]
    assert shell("images", "-q").out == ""


def test_rmi_refuses_what_a_container_stands_on(shell, small):
    box = shell("create", "--name", "cc", "small:1").out[:12]
    done = shell("rmi", "small:1")
    assert done.code == 1
    assert f'conflict: unable to remove repository reference "small:1" (must force) - container {box}' in done.err
    assert shell("rmi", "-f", "small:1").lines[0] == "Untagged: small:1"
    assert shell("commit", "cc").code == 0  # what it stands on is kept for it


def test_save_and_load_keep_ids(shell, small, tmp_path):
    archive = str(tmp_path / "a.tar")
    shell("tag", "small:1", "x/y:2")
    assert shell("save", "-o", archive, "small:1", "x/y:2").out == ""
    assert sorted(shell("load", "-i", archive, store="other").lines) == ["Loaded image: small:1", "Loaded image: x/y:2"]
    assert set(shell("images", "-q", "--no-trunc", store="other").lines) == {small}


def test_save_warns_where_a_blob_that_came_is_not_kept(shell, tmp_path):
    layout = Layout(tmp_path / "in")
    entry = layout.manifest([tar({"a": b"1"})], level=1)
    layout.add(entry, "x/y:1")
    assert shell("load", "-i", str(layout.path)).out == "Loaded image: x/y:1\n"
    (layer,) = json.loads((layout.path / "blobs/sha256" / entry["digest"][7:]).read_text())["layers"]
    (tmp_path / "store/blobs/sha256" / layer["digest"][7:]).unlink()
    done = shell("save", "--exact", "-o", str(tmp_path / "out"), "x/y:1")
    assert done.code == 1 and done.err.startswith(
        f"layerfs: x/y:1: manifest {entry['digest']}: layer {layer['digest']}"
    )
    done = shell("save", "--format", "oci-dir", "-o", str(tmp_path / "out"), "x/y:1")
    assert done.code == 0 and done.err.startswith(f"WARNING! x/y:1: a new manifest, not {entry['digest']} as it came:")


def test_untagged_images_are_loaded_by_id(shell, small, tmp_path):
    archive = str(tmp_path / "a.tar")
    shell("save", "-o", archive, small)
    assert shell("load", "-q", "--input", archive, store="other").out == f"Loaded image ID: {small}\n"


def test_names_that_are_no_utf8_come_through(shell, small, tmp_path):
    assert shell("export", "-o", str(tmp_path / "flat.tar"), "small:1").code == 0
    with tarfile.open(tmp_path / "flat.tar", errors="surrogateescape") as tar:
        assert b"etc/" + ODD in [name.encode(errors="surrogateescape") for name in tar.getnames()]
    shell("import", str(tmp_path / "rootfs/etc"), "part")
    assert "D /etc/\\xff\\xfe-odd" in shell("diff", "small:1", "part").lines
    assert any(r"\xff\xfe-odd" in line for line in shell("debug", "tree", "small:1").lines)


def test_diff_of_images_has_sizes_and_json(shell, small, rootfs):
    (rootfs / "etc/motd").write_text("changed it\n")
    (rootfs / "big").unlink()
    shell("import", str(rootfs), "small:2")
    assert "C /etc/motd\t8\t11" in shell("diff", "-s", "small:1", "small:2").lines
    rows = {row["Path"]: row for row in map(json.loads, shell("diff", "--format", "json", "small:1", "small:2").lines)}
    assert (rows["/big"]["Kind"], rows["/big"]["OldSize"]) == ("D", 200000)
    assert "content" in rows["/etc/motd"]["Fields"]


def test_system_df_has_dockers_rows(shell, small):
    shell("create", "--name", "cc", "small:1")
    heading, images, containers, *_ = shell("system", "df").lines
    assert heading.split() == ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"]
    assert images.split()[:4] == ["Images", "1", "1", "200kB"]
    assert containers.split()[:3] == ["Containers", "1", "0"]
    assert "Images space usage:" in shell("system", "df", "-v").out


def test_prune_asks_and_removes(shell, small, monkeypatch):
    box = shell("create", "small:1").out.strip()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    refused = shell("container", "prune")
    assert (refused.code, refused.out) == (1, "")
    assert shell("container", "prune", "-f").lines[:2] == ["Deleted Containers:", box]
    assert f"Deleted: {small}" in shell("image", "prune", "-af").lines
    assert shell("system", "prune", "-f").lines[-1].startswith("Total reclaimed space:")


def test_prune_takes_what_the_filters_say(shell, small):
    kept, gone = (shell("create", "-l", label, "small:1").out.strip() for label in ("keep=1", "go=1"))
    assert shell("container", "prune", "-f", "--filter", "until=1h").lines == ["Total reclaimed space: 0B"]
    assert shell("container", "prune", "-f", "--filter", "label!=keep").lines[1] == gone
    assert shell("ps", "-aq", "--no-trunc").lines == [kept]
    shell("volume", "create", "--label", "keep", "kept")
    assert "kept" not in shell("volume", "prune", "-af", "--filter", "label!=keep").out
    assert shell("volume", "inspect", "-f", "{{.Name}}", "kept").out == "kept\n"
    assert shell("volume", "prune", "-f", "--filter", "all=1").lines[1] == "kept"
    assert shell("network", "prune", "-f", "--filter", "odd=1").err == "layerfs: invalid filter 'odd'\n"


def test_a_history_of_another_platform_is_an_error(shell, small):
    assert shell("history", "--platform", "linux/s390x", "small:1").code == 1
    assert shell("history", "-q", "--platform", "linux", "small:1").out == f"{small[7:19]}\n"


def test_the_store_is_clean_at_the_end(shell, small):
    shell("rmi", "small:1")
    assert shell("gc").out.startswith("removed ")
    assert shell("fsck").out == "the store is clean\n"
    assert shell("fsck", "--format", "json").out == "[]\n"


def test_version_says_what_is_loaded(shell):
    assert shell("version", "--format", "{{.Core}}").out in ("native\n", "python\n")
    assert shell("--version").out.startswith("layerfs version ")


def test_inspect_finds_networks_and_volumes_too(shell, small):
    shell("volume", "create", "data")
    assert json.loads(shell("inspect", "data").out)[0]["Name"] == "data"
    assert json.loads(shell("inspect", "--type", "network", "bridge").out)[0]["Name"] == "bridge"
    assert shell("inspect", "--type", "volume", "small:1").err == "layerfs: get small:1: no such volume\n"


def test_inspect_has_a_short_form_and_a_table(shell, small):
    done = shell("inspect", "-q", "small:1", "nothing")
    assert (done.code, done.out, done.err) == (1, f"{small}\n", "layerfs: No such object: nothing\n")
    assert shell("inspect", "--format", "table", "small:1").lines[1].split()[:2] == [small, "small:1"]
