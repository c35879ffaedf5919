"""RUN: in a container of its own, with its mounts; only real changes become a layer."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

import layerfs
from layerfs.build.steps import StepFailed
from layerfs.errors import ImageNotFound, InvalidInput, NotFound
from tests.build.conftest import Build, Events, read, tree

pytestmark = pytest.mark.root


def test_shell_and_exec_form_with_environment_user_and_directory(build: Build) -> None:
    image = build(
        "FROM box:1\nARG V=2\nENV A=one\nWORKDIR /w\nRUN chown bob .\nUSER bob\n"
        'RUN echo "$A $V $(id -un) $(pwd) $HOME" > shell\nRUN ["sh", "-c", "echo $A > exec"]\n',
        network="none",
    )
    assert read(image, "w/shell") == b"one 2 bob /w /home/bob\n"
    assert read(image, "w/exec") == b"one\n"
    assert tree(image)["w/shell"][1:] == (1000, 1001)


def test_an_image_has_a_path(build: Build, store: layerfs.Store) -> None:
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert store.image("box:1").config.config.env == ()
    assert build("FROM box:1\nENV A=1\n").config.config.env == (path, "A=1")
    assert build("FROM box:1\nENV PATH=/bin\n").config.config.env == ("PATH=/bin",)


def test_each_run_begins_in_the_working_directory(build: Build) -> None:
    assert read(build("FROM box:1\nRUN cd /tmp && pwd\nRUN pwd > /where\n", network="none"), "where") == b"/\n"


def test_shell_changes_how_commands_run(build: Build) -> None:
    image = build('FROM box:1\nSHELL ["/bin/sh", "-ec"]\nRUN echo $- > /flags\n', network="none")
    assert b"e" in read(image, "flags")
    assert image.config.history[-1].created_by == "RUN /bin/sh -ec echo $- > /flags # buildkit"


def test_a_layer_holds_only_what_changed(build: Build, store: layerfs.Store) -> None:
    image = build("FROM box:1\nRUN cat /etc/passwd; touch /new; rm /etc/group\n", network="none")
    changes = store.diff("box:1", image)
    assert [(change.kind, change.path) for change in changes] == [("D", "/etc/group"), ("A", "/new")]


def test_a_run_that_changes_nothing_makes_no_layer(build: Build, store: layerfs.Store) -> None:
    image = build("FROM box:1\nRUN true only\n", network="none")
    assert image.record.diff_ids == store.image("box:1").record.diff_ids
    assert image.config.history[-1].empty_layer


def test_chmod_of_a_big_file_costs_no_second_copy(build: Build, store: layerfs.Store) -> None:
    build("FROM box:1\nCOPY big /big\nRUN chmod 711 /big\n", {"big": os.urandom(1 << 20)}, network="none")
    image = build("FROM box:1\nCOPY big /big\nRUN chmod 700 /big && echo once\n", network="none")
    pack_bytes = sum(file.stat().st_size for file in (store.path / "objects").rglob("*") if file.is_file())
    assert tree(image)["big"][0] & 0o777 == 0o700
    assert pack_bytes < 6 << 20  # busybox and one big file


def test_a_failing_program_is_told_with_line_and_code_and_what_was_finished_is_used(build: Build) -> None:
    lines = "FROM box:1\nRUN echo finished > /first\nRUN echo said; exit 3\n"
    with pytest.raises(StepFailed, match=r'Dockerfile:3: process "/bin/sh -c echo said; exit 3" did not') as caught:
        build(lines, network="none")
    events = Events()
    build(lines.replace("exit 3", "exit 0"), network="none", progress=events)
    assert caught.value.returncode == 3
    assert events.kinds("cached") == ["RUN echo finished > /first"]


def test_a_program_that_is_not_there_is_127_in_dockers_words(build: Build) -> None:
    with pytest.raises(StepFailed, match=r'exec: "pyhton": executable file not found in \$PATH') as caught:
        build('FROM box:1\nRUN ["pyhton", "app.py"]\n', network="none")
    assert caught.value.returncode == 127


def test_a_program_that_is_nearly_there_is_suggested(build: Build) -> None:
    with pytest.raises(StepFailed, match=r"\$PATH \(did you mean touch\?\)"):
        build('FROM box:1\nRUN ["tuoch", "/f"]\n', network="none")
    with pytest.raises(StepFailed, match=r"exit code: 127: did you mean mkdir\?"):
        build("FROM box:1\nRUN echo first >&2; mkidr /d\n", network="none")
    with pytest.raises(StepFailed, match=r"exit code: 127\Z"):
        build("FROM box:1\nRUN touhc /f; echo other >&2; exit 127\n", network="none")


def test_an_image_that_is_not_there_may_have_been_a_stage(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(store: object, name: str, **how: object) -> object:
        raise ImageNotFound(f"No such image: {name}")

    monkeypatch.setattr(layerfs.Store, "pull", unreachable)
    with pytest.raises(ImageNotFound, match=r"Dockerfile:2: No such image: buidler.*\(did you mean builder\?\)"):
        build("FROM box:1 AS builder\nFROM buidler\n")
    with pytest.raises(ImageNotFound, match=r"box:1 was found but its platform \(.*\) does not match .*linux/s390x"):
        build("FROM --platform=linux/s390x box:1\n")
    with pytest.raises(ImageNotFound, match=r"debain.*\(did you mean debian\?\)"):
        build("FROM scratch\nCOPY --from=debain /etc /etc\n")


def test_debug_keeps_an_image_of_the_failed_step(build: Build, store: layerfs.Store) -> None:
    with pytest.raises(StepFailed) as caught:
        build("FROM box:1\nENV A=1\nRUN echo half > /half; false\n", network="none", debug=True)
    image = store.image(caught.value.image)
    assert read(image, "half") == b"half\n"
    assert "A=1" in image.config.config.env


def test_heredocs(build: Build) -> None:
    image = build(
        "FROM box:1\nENV A=x\nRUN <<EOF\necho $A > /one\necho two > /two\nEOF\n"
        "RUN <<EOF\n#!/bin/cat\nscript\nEOF\nRUN cat <<-EOF > /three\n\tdeep\n\tEOF\n",
        network="none",
    )
    assert [read(image, name) for name in ("one", "two", "three")] == [b"x\n", b"two\n", b"deep\n"]


def test_bind_mounts_show_contexts_stages_and_images(build: Build) -> None:
    image = build(
        "FROM box:1 AS other\nRUN echo stage > /made\nFROM box:1\n"
        "RUN --mount=type=bind,target=/ctx --mount=from=other,source=/made,target=/stage "
        "--mount=from=box:1,source=etc,target=/image,rw "
        "cat /ctx/f /stage /image/passwd > /out; echo x > /image/thrown; ls /ctx >> /out; "
        "touch /ctx/f || echo ro >> /out\n",
        {"f": "bound\n", "ignored": "i", ".dockerignore": "ignored\n"},
        network="none",
    )
    out = read(image, "out").decode()
    assert out.startswith("bound\nstage\nroot:x:0:0") and out.endswith("ro\n")
    assert "ignored" not in out
    assert not {"ctx", "stage", "image"} & set(tree(image))


def test_cache_mounts_stay_and_are_not_in_the_image(build: Build) -> None:
    line = "RUN --mount=type=cache,target=/c,id=kept,mode=0700,uid=1000 "
    line += "echo {} >> /c/log; cat /c/log > /seen; stat -c %a:%u /c >> /seen\n"
    build("FROM box:1\n" + line.format(1), network="none")
    image = build("FROM box:1\n" + line.format(2), network="none")
    assert read(image, "seen") == b"1\n2\n700:1000\n"
    assert "c" not in tree(image)


def test_a_cache_mount_begins_with_what_from_has(build: Build) -> None:
    line = "RUN --mount=type=cache,target=/c,from=box:1,source=/etc cat /c/group > /seen\n"
    assert read(build("FROM box:1\n" + line, network="none"), "seen").startswith(b"root:")


def test_secrets_are_files_and_variables_and_nowhere_else(build: Build, store: layerfs.Store) -> None:
    secret = os.urandom(12).hex()
    image = build(
        "FROM box:1\nRUN --mount=type=secret,id=s --mount=type=secret,id=s,env=WORD "
        'test "$(cat /run/secrets/s)" = "$WORD" && stat -c %a:%u /run/secrets/s > /mode\n',
        network="none",
        secrets={"s": secret.encode()},
    )
    assert read(image, "mode") == b"400:0\n"
    assert "run" not in tree(image)
    for file in store.path.rglob("*"):
        if file.is_file() and file.name != "data.mdb":
            assert secret.encode() not in file.read_bytes(), file


def test_a_required_secret_that_is_missing_is_an_error(build: Build) -> None:
    with pytest.raises(NotFound, match="Dockerfile:2: secret s: not found"):
        build("FROM box:1\nRUN --mount=type=secret,id=s,required cat /run/secrets/s\n")


def test_tmpfs_and_ssh(build: Build, tmp_path: Path) -> None:
    agent = str(tmp_path / "agent")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(agent)
        image = build(
            "FROM box:1\nRUN --mount=type=ssh --mount=type=tmpfs,target=/t "
            'test -S "$SSH_AUTH_SOCK" && touch /t/gone && echo ok > /ok\n',
            network="none",
            ssh={"default": agent},
        )
    assert read(image, "ok") == b"ok\n"
    assert not {"t", "run"} & set(tree(image))


def test_what_needs_permission_is_refused(build: Build) -> None:
    for flag in ("--security=insecure", "--network=host"):
        with pytest.raises(InvalidInput, match="is not allowed"):
            build(f"FROM box:1\nRUN {flag} true\n")


def test_network_none_has_only_a_loopback(build: Build) -> None:
    image = build("FROM box:1\nRUN --network=none ls /sys/class/net > /net\n")
    assert read(image, "net") == b"lo\n"


def test_onbuild_triggers_run_in_the_child_and_are_gone_there(build: Build, store: layerfs.Store) -> None:
    build("FROM box:1\nONBUILD COPY f /from-child\nONBUILD RUN cat /from-child > /ran\n", tag="parent:1")
    image = build("FROM parent:1\nENV B=1\n", {"f": "child"}, network="none")
    assert read(image, "ran") == b"child"
    assert image.config.config.on_build == ()


def test_a_trigger_may_need_a_stage_that_the_file_does_not(build: Build) -> None:
    build("FROM box:1\nONBUILD COPY --from=made /m /m\n", tag="needy:1")
    image = build("FROM box:1 AS made\nRUN echo made > /m\nFROM needy:1\nENV B=1\n", network="none")
    assert read(image, "m") == b"made\n"


def test_stages_run_at_once_and_unused_ones_not_at_all(build: Build) -> None:
    """Each waits for the other."""
    events, met = Events(), "--mount=type=cache,id=met,target=/met"
    image = build(
        f"FROM box:1 AS a\nRUN {met} touch /met/a; while ! test -e /met/b; do sleep 0.05; done; echo a > /a\n"
        f"FROM box:1 AS b\nRUN {met} touch /met/b; while ! test -e /met/a; do sleep 0.05; done; echo b > /b\n"
        "FROM box:1 AS unused\nRUN false\n"
        "FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
        network="none",
        progress=events,
    )
    assert (read(image, "a"), read(image, "b")) == (b"a\n", b"b\n")
    assert not any("false" in text for text in events.kinds("start"))


def test_when_one_stage_fails_the_others_stop(build: Build) -> None:
    events = Events()
    with pytest.raises(StepFailed, match="exit 9"):
        build(
            "FROM box:1 AS a\nRUN sleep 1000\nFROM box:1 AS b\nRUN sleep 0.3; exit 9\n"
            "FROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n",
            network="none",
            progress=events,
        )
    assert all(event.seconds < 200 for event in events)
