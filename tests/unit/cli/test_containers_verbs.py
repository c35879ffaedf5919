"""create, ps, rename, diff, commit, and what create takes; nothing here mounts."""

from __future__ import annotations

import json
import re

import pytest

import layerfs
from layerfs.cli.launch import _pairs
from layerfs.cli.rows import box_usage_rows, container_rows
from layerfs.errors import InvalidInput


def test_create_prints_the_id_and_ps_shows_it(shell, small):
    box = shell("create", "--name", "cc", "small:1").out.strip()
    assert re.fullmatch("[0-9a-f]{64}", box)
    assert shell("ps", "-aq", "--no-trunc").lines == [box]
    heading, row = shell("ps", "-a").lines
    assert heading.split("  ")[0] == "CONTAINER ID"
    assert re.fullmatch(rf"{box[:12]}   small:1   \"sh -c 'a b'\"   .* ago   Created  +cc", row)


def test_a_container_that_is_removed_meanwhile_has_no_row(shell, small, tmp_path):
    shell("create", "--name", "stays", "small:1")
    shell("create", "--name", "goes", "small:1")
    with layerfs.Store(tmp_path / "store") as store:
        boxes = store.containers()
        store.container("goes").remove()
        for rows in (container_rows(boxes, truncate=True, size=True), box_usage_rows(boxes)):
            assert [row["Names"] for row in rows] == ["stays"]


def test_ps_shows_running_ones_only(shell, small):
    shell("create", "small:1")
    assert len(shell("ps").lines) == 1


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ("-a", "b a"),
        ("-l", "b"),
        ("-n 1", "b"),
        ("-f status=created", "b a"),
        ("-f status=exited", ""),
        ("-a -f name=aa", "a"),
        ("-a -f name=^/bb$", "b"),
        ("-a -f label=x", "b"),
        ("-a -f label=x=2", ""),
        ("-a -f label=k=v", "b a"),
        ("-a -f ancestor=small:1", "b a"),
        ("-a -f ancestor=nosuch", ""),
        ("-a -f since=aa", "b"),
        ("-a -f before=bb", "a"),
        ("-a -f network=host", "b"),
        ("-a -f volume=/there", "b"),
        ("-a -f exited=0", ""),
    ],
)
def test_ps_filters(shell, small, options, names):
    shell("create", "--name", "aa", "small:1")
    shell("create", "--name", "bb", "-l", "x=1", "--network", "host", "-v", "/tmp:/there:ro", "small:1")
    wanted = [name * 2 for name in names.split()]
    assert shell("ps", *options.split(" "), "--format", "{{.Names}}").lines == wanted


def test_ps_with_sizes_and_json(shell, small):
    shell("create", "--name", "cc", "small:1")
    assert shell("ps", "-as").lines[1].endswith("0B (virtual 200kB)")
    row = json.loads(shell("ps", "-a", "--format", "json").out)
    assert (row["Names"], row["State"], row["Image"], row["Labels"]) == ("cc", "created", "small:1", "k=v")


def test_a_container_of_a_moved_name_shows_the_id(shell, small, rootfs):
    shell("create", "small:1")
    (rootfs / "new").touch()
    shell("import", str(rootfs), "small:1")
    assert shell("ps", "-a", "--format", "{{.Image}}").out == f"{small[7:19]}\n"


def test_a_taken_name_is_dockers_conflict(shell, small):
    box = shell("create", "--name", "cc", "small:1").out.strip()
    done = shell("create", "--name", "cc", "small:1")
    assert done.code == 125
    assert f'Conflict. The container name "/cc" is already in use by container "{box}".' in done.err


def test_rename(shell, small):
    shell("create", "--name", "cc", "small:1")
    assert shell("rename", "cc", "dd").out == ""
    assert shell("ps", "-a", "--format", "{{.Names}}").out == "dd\n"
    assert "Renaming a container with the same name as its current name" in shell("rename", "dd", "dd").err


def test_commit_prints_the_id_and_records_what_it_was_told(shell, small):
    shell("create", "--name", "cc", "small:1", "sh", "-c", "x y")
    image = shell("commit", "-m", "msg", "-a", "me", "-c", "ENV A=1", "-p=false", "cc", "small:2").out.strip()
    text = shell("inspect", "-f", "{{.Id}} {{.Author}} {{.Comment}} {{.Config.Env}} {{.Parent}}", "small:2").out
    assert text == f"{image} me msg [A=1] {small}\n"
    assert shell("history", "--no-trunc", "--format", "{{.CreatedBy}}", "small:2").lines[0] == "sh -c x y"


@pytest.mark.parametrize("change", ["FOO x", "ENV", "EXPOSE 99999999"])
def test_a_bad_change_leaves_nothing(shell, small, change):
    shell("create", "--name", "cc", "small:1")
    assert shell("commit", "-c", change, "cc", "small:2").code == 1
    assert shell("images", "-q", "small:2").out == ""


@pytest.mark.parametrize(
    ("options", "field", "want"),
    [
        ("-e A=1 -e B= -e NOT_SET_HERE", ".Config.Env", "[A=1 B=]"),
        ("-e FROM_US", ".Config.Env", "[FROM_US=ours]"),
        ("-l a=b -l c", "json .Config.Labels", '{"a":"b","c":"","k":"v"}'),
        ("-u bob:staff -w /tmp", "printf `%s %s` .Config.User .Config.WorkingDir", "bob:staff /tmp"),
        ("-h name", ".Config.Hostname", "name"),
        ("--entrypoint /bin/x", "printf `%v %v` .Path .Args", "/bin/x []"),
        ("--net host", ".HostConfig.NetworkMode", "host"),
        (
            "--cap-add NET_ADMIN --cap-drop ALL",
            "printf `%v %v` .HostConfig.CapAdd .HostConfig.CapDrop",
            "[NET_ADMIN] [ALL]",
        ),
        ("--privileged --read-only", "printf `%v %v` .HostConfig.Privileged .HostConfig.ReadonlyRootfs", "true true"),
        ("--read-only=false", ".HostConfig.ReadonlyRootfs", "false"),
        ("--security-opt no-new-privileges", ".HostConfig.SecurityOpt", "[no-new-privileges]"),
        ("--security-opt seccomp=unconfined", ".HostConfig.SecurityOpt", "[seccomp=unconfined]"),
        (
            "--security-opt systempaths=unconfined",
            "printf `%v %v` .HostConfig.SecurityOpt .HostConfig.MaskedPaths",
            "[systempaths=unconfined] []",
        ),
        ("-e B=1", "printf `%s|%s|%v` .Config.User .Config.WorkingDir .NetworkSettings.HairpinMode", "||false"),
        ("-v /tmp:/t:ro", "(index .Mounts 0).Destination", "/t"),
        ("--tmpfs /t:size=1m", "json .HostConfig.Tmpfs", '{"/t":"size=1m"}'),
        ("--stop-signal INT", ".Config.StopSignal", "INT"),
    ],
)
def test_create_keeps_what_it_is_told(shell, small, monkeypatch, options, field, want):
    monkeypatch.setenv("FROM_US", "ours")
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    assert shell("create", "--name", "cc", *options.split(" "), "small:1").err == ""
    assert shell("inspect", "-f", "{{" + field + "}}", "cc").out == want + "\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("-e =x", "invalid environment variable: =x"),
        ("-v no/such:/x", "includes invalid characters for a local volume name"),
        ("-v x", "must be an absolute path"),
        ("-v /x:y", "must be an absolute path"),
        ("-v /x:/y:odd", "invalid volume specification"),
        ("--tmpfs x", "must be an absolute path"),
        ("--security-opt odd", "--security-opt odd is not supported"),
        ("--env-file /nosuch", "open /nosuch: no such file or directory"),
        ("--name x", "Invalid container name (x)"),
        ("--network none --ip 10.0.0.9", "user specified IP address is supported on user defined networks only"),
        ("--network none --link x", "links are only supported for user-defined networks"),
        ("--health-cmd x --health-interval 1us", "Interval in Healthcheck cannot be less than 1ms"),
        ("--cpuset-cpus 99999", "Requested CPUs are not available - requested 99999, available: 0"),
        ("--cpus 1 --cpu-quota 1000", "Nano CPUs and CPU Quota cannot both be set"),
        ("--gpus all", "give the device files by --device"),
        ("--cidfile /no/such/id", "failed to create the container ID file: open /no/such/id: no such file"),
    ],
)
def test_what_cannot_be_is_told_at_create(shell, small, options, message):
    done = shell("create", *options.split(" "), "small:1")
    assert (done.code, done.out) == (125, "")
    assert message in done.err
    assert shell("ps", "-aq").out == ""


@pytest.mark.parametrize(
    ("text", "want"),
    [
        (b"A=1\nB=two words \n", ["A=1", "B=two words "]),
        (b"\xef\xbb\xbfA=1\r\n# no\n\n  B=2\n", ["A=1", "B=2"]),
        (b"A=\x0b\xc2\x85x\nBARE\n", ["A=\x0b\x85x", "BARE"]),
        ("Ä=ö\n".encode(), ["Ä=ö"]),
        (b"", []),
    ],
)
def test_env_files(tmp_path, text, want):
    (tmp_path / "env").write_bytes(text)
    assert _pairs(str(tmp_path / "env"), "env") == want


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"A B=1", "variable 'A B' contains whitespaces"),
        (b"=1", "no variable name on line '=1'"),
        (b"A=1\nB=\xff", "contains invalid utf8 bytes at line 2"),
    ],
)
def test_bad_env_files(tmp_path, text, message):
    (tmp_path / "env").write_bytes(text)
    with pytest.raises(InvalidInput, match=message):
        _pairs(str(tmp_path / "env"), "env")


def test_a_cidfile_is_written_once(shell, small, tmp_path):
    place = tmp_path / "cid"
    box = shell("create", "--cidfile", str(place), "small:1").out.strip()
    assert place.read_text() == box
    assert "container ID file found" in shell("create", "--cidfile", str(place), "small:1").err
