"""`layerfs build` and `layerfs builder` as processes: docker's flags, output and exit codes, and what a kill leaves."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import tarfile
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import layerfs
from tests.build.conftest import read, tree, write_files
from tests.looking import eventually, mountinfo, users_of

LAYERFS = [sys.executable, "-c", "import sys; from layerfs.cli import main; sys.exit(main())"]
Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture
def place(tmp_path: Path, base: Path) -> Path:
    """A directory with a store that has the base image."""
    with layerfs.Store(tmp_path / "store") as store:
        store.import_archive(base, tag="box:1")
    return tmp_path


@pytest.fixture
def command(place: Path) -> Iterator[Command]:
    def run(*arguments: str, env: dict[str, str] | None = None, **how: object) -> Done:
        environment = {**os.environ, "LAYERFS_STORE": str(place / "store"), **(env or {})}
        line = [*LAYERFS, *map(str, arguments)]
        done: Done = subprocess.run(line, capture_output=True, text=True, env=environment, check=False, **how)  # type: ignore[call-overload]
        assert "Traceback" not in done.stderr
        return done

    yield run
    with layerfs.Store(place / "store") as store:
        assert store.mounts(dead=True) == []
        assert store.container_table.list() == []


HELLO = {"hello": "hello", "Dockerfile": 'FROM scratch\nADD hello /\nCMD ["/hello"]\n'}


def test_the_articles_first_build(command: Command, place: Path) -> None:
    context = write_files(place / "c", HELLO)
    build = ("build", "--progress", "legacy", "-t", "tongbo/hello_world", context)
    first, second = command(*build).stdout, command(*build).stdout
    image = r"[0-9a-f]{12}"
    assert re.fullmatch(
        r"Sending build context to Docker daemon  \S+B\n"
        r"Step 1/3 : FROM scratch\n ---> \n"
        rf"Step 2/3 : ADD hello /\n ---> {image}\n"
        rf'Step 3/3 : CMD \["/hello"\]\n ---> Running in {image}\nRemoving intermediate container {image}\n'
        rf" ---> {image}\nSuccessfully built {image}\nSuccessfully tagged tongbo/hello_world:latest\n",
        first,
    )
    assert second.count(" ---> Using cache\n") == 2
    ids = [line[6:] for line in second.splitlines() if re.fullmatch(f" ---> {image}", line)]
    rows = command("history", "tongbo/hello_world", "-q").stdout.split()
    assert rows == ids[::-1]
    texts = command("history", "tongbo/hello_world", "--no-trunc", "--format", "{{.CreatedBy}}").stdout.splitlines()
    assert texts[0] == '/bin/sh -c #(nop)  CMD ["/hello"]'
    assert re.fullmatch(r"/bin/sh -c #\(nop\) ADD file:[0-9a-f]{64} in /\s*", texts[1])


@pytest.mark.root
def test_the_articles_application_and_its_mistake(command: Command, place: Path) -> None:
    lines = (
        'FROM box:1\nLABEL maintainer="tongbo<demo.com@126.com>"\nRUN echo flask > /installed\n'
        'COPY app.py /app/\nWORKDIR /app\nEXPOSE 5000\nCMD ["pyhton","app.py"]\n'
    )
    context = write_files(place / "c", {"Dockerfile": lines, "app.py": "print()\n"})
    done = command("build", "--network", "none", "--progress", "legacy", "-t", "yaxiaomu/flask_demo", context)
    assert "Step 7/7 : CMD [" in done.stdout and done.returncode == 0
    done = command("run", "--rm", "yaxiaomu/flask_demo")
    assert done.returncode == 127
    assert 'exec: "pyhton": executable file not found in $PATH' in done.stderr
    (context / "Dockerfile").write_text(lines.replace("pyhton", "cat"))
    done = command("build", "--network", "none", "--progress", "legacy", "-t", "yaxiaomu/flask_demo", context)
    assert done.stdout.count("Using cache") == 5
    assert command("run", "--rm", "yaxiaomu/flask_demo").stdout == "print()\n"


@pytest.mark.root
def test_an_entrypoint_takes_the_arguments_of_run(command: Command, place: Path) -> None:
    """The article's stress image, with its relative path."""
    context = write_files(place / "c", {"Dockerfile": 'FROM box:1\nRUN true\nENTRYPOINT ["bin/echo"]\nCMD []\n'})
    assert command("build", "--network", "none", "-qt", "stress", context).returncode == 0
    assert command("run", "--rm", "stress", "--vm", "1", "--verbose").stdout == "--vm 1 --verbose\n"


def test_plain_progress_quiet_and_json(command: Command, place: Path) -> None:
    context = write_files(place / "c", HELLO)
    plain = command("build", "--progress", "plain", "-t", "a", "-t", "b:2", context)
    assert "#2 [2/2] ADD hello /\n#2 DONE" in plain.stderr and plain.stdout == ""
    assert "#2 CACHED" in command("build", "--progress", "plain", context).stderr
    quiet = command("build", "-q", context)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}\n", quiet.stdout) and quiet.stderr == ""
    events = [json.loads(line) for line in command("build", "--progress", "json", context).stderr.splitlines()]
    assert [event["kind"] for event in events if event.get("step") == 2] == ["start", "cached"]
    names = command("images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    assert {"a:latest", "b:2"} <= set(names)


def on_a_terminal(line: list[str], place: Path, columns: int, typed: bytes = b"") -> tuple[int, str]:
    """Runs a command with a terminal for its standard error; its exit code, and what came there. `typed` comes when a
    prompt does."""
    terminal, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "LAYERFS_STORE": str(place / "store"), "TERM": "xterm"}
    environment.pop("COLUMNS", None)  # workers of pytest-xdist have it
    with subprocess.Popen(line, stdin=inner, stdout=inner, stderr=inner, env=environment) as process:
        os.close(inner)
        said = b""
        with contextlib.suppress(OSError):  # EIO: the program has ended
            while data := os.read(terminal, 1 << 16):
                said += data
                if typed and said.endswith((b"# ", b"\x1b[6n")):
                    os.write(terminal, typed)
                    typed = b""
    os.close(terminal)
    return process.returncode, said.decode(errors="replace")


_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


@pytest.mark.root
def test_a_terminal_shows_what_runs_and_keeps_what_is_over(command: Command, place: Path) -> None:
    lines = (
        "FROM box:1 AS first\nRUN seq 1 9; sleep 1; printf 'rest\\033[2J'\n"
        "FROM box:1\nCOPY --from=first /etc/passwd /etc/a/rather/long/path/that/does/not/fit\nLABEL a=b\n"
    )
    context = write_files(place / "c", {"Dockerfile": lines})
    build = [*LAYERFS, "build", "--network", "none", "-t", "named", str(context)]
    code, said = on_a_terminal(build, place, 60)
    shown = _CONTROL.sub("", said)
    assert code == 0
    assert "\x1b[2J" not in said and "\x1b[?25h" in said  # a program's codes never, the cursor again
    assert " => => 9\n" in shown and " => => 3\n" not in shown  # while it runs its last lines are seen
    kept = [line for line in shown.splitlines() if line.startswith(" => [")]
    assert [line for line in shown.splitlines() if len(line) > 60] == [], said
    assert re.match(r" => \[first 2/2\] RUN seq 1 9; .*… +[1-9]\d*\.\ds$", [line for line in kept if "RUN" in line][-1])
    assert shown.rstrip().splitlines()[-1] == " => named:latest"
    assert " => CACHED [first 2/2]" in _CONTROL.sub("", on_a_terminal(build, place, 80)[1])


@pytest.mark.root
def test_a_terminal_shows_why_a_step_failed(command: Command, place: Path) -> None:
    context = write_files(place / "c", {"Dockerfile": "FROM box:1\nRUN seq 1 9; echo why >&2; exit 3\n"})
    code, said = on_a_terminal([*LAYERFS, "build", "--network", "none", str(context)], place, 80)
    shown = _CONTROL.sub("", said)
    assert code == 1
    assert " => ERROR [2/2] RUN seq" in shown and " > 1\n" in shown and " > why\n" in shown
    assert "exit code: 3" in shown.rstrip().splitlines()[-1]


@pytest.mark.root
def test_debug_on_a_terminal_enters_the_failed_step(command: Command, place: Path) -> None:
    lines = 'FROM box:1\nENTRYPOINT ["nothing"]\nARG WHO=argument\nRUN echo half > /half; exit 3\n'
    context = write_files(place / "c", {"Dockerfile": lines})
    build = [*LAYERFS, "build", "--network", "none", "--debug", str(context)]
    code, said = on_a_terminal(build, place, 80, b"cat /half; echo is-$WHO; exit\n")
    assert code == 1 and "\nis-argument" in said.replace("\r", "") and "\nhalf" in said.replace("\r", "")
    assert command("ps", "-aq").stdout == ""


def test_a_wrong_dockerfile_is_shown_with_a_caret(command: Command, place: Path) -> None:
    context = write_files(place / "c", {"Dockerfile": "FROM scratch\nCOPPY a b\n"})
    done = command("build", context)
    assert done.returncode == 1
    assert re.search(r"2 \| COPPY a b\n.*\^+\nlayerfs: Dockerfile:2: .*did you mean COPY\?", done.stderr)


@pytest.mark.root
def test_a_failed_step_can_be_entered(command: Command, place: Path) -> None:
    context = write_files(place / "c", {"Dockerfile": "FROM box:1\nRUN echo in > /half; echo why >&2; exit 5\n"})
    done = command("build", "--network", "none", "--debug", "--progress", "plain", context)
    assert done.returncode == 1 and " why\n" in done.stderr
    found = re.search(r"layerfs run -it (\w+) sh", done.stderr)
    assert found and command("run", "--rm", found[1], "cat", "/half").stdout == "in\n"
    legacy = command("build", "--network", "none", "--progress", "legacy", context)
    assert legacy.returncode == 5


@pytest.mark.root
def test_secrets_arguments_and_labels(command: Command, place: Path) -> None:
    lines = "FROM box:1\nARG A\nARG B\nRUN --mount=type=secret,id=s cat /run/secrets/s > /s && echo $A $B >> /s\n"
    context = write_files(place / "c", {"Dockerfile": lines, "key": "from file\n"})
    flags = ("--secret", f"id=s,src={context / 'key'}", "--build-arg", "A=1", "--build-arg", "B", "--label", "l=m")
    assert command("build", "--network", "none", "-t", "x", *flags, context, env={"B": "2"}).returncode == 0
    assert command("run", "--rm", "x", "cat", "/s").stdout == "from file\n1 2\n"
    assert command("inspect", "--format", "{{.Config.Labels.l}}", "x").stdout == "m\n"
    done = command(
        "build", "--no-cache", "--network", "none", "-t", "y", "--secret", "id=s,env=S", context, env={"S": "w"}
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.root
def test_quiet_shows_what_a_failed_step_said_and_no_more(command: Command, place: Path) -> None:
    context = write_files(
        place / "c", {"Dockerfile": "FROM box:1\nRUN echo fine\nRUN echo out; echo why >&2; exit 3\n"}
    )
    done = command("build", "--network", "none", "-q", context)
    assert (done.returncode, done.stdout) == (1, "")
    assert sorted(done.stderr.splitlines()[:2]) == ["out", "why"] and done.stderr.count("\n") == 3


@pytest.mark.root
def test_the_old_form_has_the_old_words(command: Command, place: Path) -> None:
    context = write_files(place / "c", {"Dockerfile": "FROM box:1\nARG A\nRUN exit 9\n"})
    flags = ("--network", "none", "--progress", "legacy", "--build-arg", "A=1", "--build-arg", "B=2")
    done = command("build", *flags, context)
    assert done.returncode == 9
    assert done.stderr == "layerfs: The command '/bin/sh -c exit 9' returned a non-zero code: 9\n"
    write_files(context, {"Dockerfile": "FROM box:1\nARG A\n"})
    assert (
        "[Warning] One or more build-args [B] were not consumed\nSuccessfully"
        in command("build", *flags, context).stdout
    )


@pytest.mark.root
def test_hosts_are_added_for_run(command: Command, place: Path) -> None:
    context = write_files(place / "c", {"Dockerfile": "FROM box:1\nRUN grep -c 'added' /etc/hosts > /hosts || true\n"})
    build = ("build", "--network", "none", "-t", "h", context)
    for flags, count in (((), "0\n"), (("--add-host", "added:10.1.2.3"), "1\n"), ((), "0\n")):
        assert command(*build, *flags).returncode == 0
        assert command("run", "--rm", "--network", "none", "h", "cat", "/hosts").stdout == count
    assert "invalid IP address in add-host" in command(*build, "--add-host", "added:nothing").stderr


@pytest.mark.root
def test_runs_are_limited_as_asked(command: Command, place: Path) -> None:
    look = (
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null;"
        "ulimit -n; grep -o 'shm.*size=[0-9]*k' /proc/mounts; grep NoNewPrivs /proc/self/status;"
        "grep CapBnd /proc/self/status; cat /etc/resolv.conf"
    )
    context = write_files(place / "c", {"Dockerfile": f"FROM box:1\nRUN ({look}) > /seen || true\n"})
    limits = "-m 64m --memory-swap 64m --ulimit nofile=77:88 --shm-size 8m --security-opt no-new-privileges"
    more = "--cap-drop ALL --cap-add CHOWN --dns 10.9.8.7 -c 512 --cpu-period 50000 --cgroup-parent /b"
    done = command("build", "--network", "none", "-t", "limited", *limits.split(), *more.split(), context)
    assert done.returncode == 0, done.stderr
    seen = command("run", "--rm", "--network", "none", "limited", "cat", "/seen").stdout.split()
    assert seen[:2] == ["67108864", "77"] and any(word.endswith("size=8192k") for word in seen)
    assert seen[seen.index("NoNewPrivs:") + 1] == "1" and int(seen[seen.index("CapBnd:") + 1], 16) == 1
    assert "10.9.8.7" in seen


@pytest.mark.root
def test_a_run_over_its_limit_is_killed_and_told(command: Command, place: Path) -> None:
    context = write_files(place / "c", {"Dockerfile": "FROM box:1\nRUN x=$(cat /dev/zero | tail -c 64m)\n"})
    done = command("build", "--network", "none", "-m", "16m", "--memory-swap", "16m", context)
    assert done.returncode == 1 and "killed for want of memory" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-m", "1k"), "Minimum memory limit allowed is 6MB"),
        (("--ulimit", "nothing=1"), "invalid ulimit type: nothing"),
        (("--security-opt", "unheard"), "--security-opt unheard is not supported"),
        (("--allow", "everything"), "invalid entitlement: everything"),
        (("--platform", "linux/amd64,linux/arm64"), "one platform a build"),
        (("--build-context", "x"), "invalid build context: 'x'"),
        (("--push",), "tag is needed when pushing to registry"),
        (("--cache-to", "type=local"), "dest is required"),
    ],
)
def test_what_is_not_understood_is_one_line(command: Command, place: Path, flags: tuple[str, ...], words: str) -> None:
    context = write_files(place / "c", {"Dockerfile": "FROM scratch\nLABEL a=b\n"})
    done = command("build", *flags, context)
    assert done.returncode == 1 and done.stderr.startswith(f"layerfs: {words}") and done.stderr.count("\n") == 1


def test_outputs(command: Command, place: Path) -> None:
    context = write_files(place / "c", {"d/f": "out", "d/l ->": "f", "Dockerfile": "FROM scratch\nCOPY d /d\n"})
    assert command("build", "-o", place / "dir", context).returncode == 0
    assert (place / "dir/d/f").read_text() == "out" and (place / "dir/d/l").is_symlink()
    assert command("build", "-o", f"type=tar,dest={place / 'x.tar'}", context).returncode == 0
    with tarfile.open(place / "x.tar") as tar:
        assert "d/f" in tar.getnames()
    assert command("build", "-t", "n", "-o", f"type=oci,dest={place / 'oci.tar'}", context).returncode == 0
    with tarfile.open(place / "oci.tar") as tar:
        assert "oci-layout" in tar.getnames()
    assert command("images", "-q", "-a").stdout == command("images", "-q", "box:1").stdout
    flags = ("--iidfile", place / "iid", "--metadata-file", place / "meta", "-t", "named")
    assert command("build", *flags, context).returncode == 0
    image = (place / "iid").read_text()
    assert json.loads((place / "meta").read_text())["containerimage.config.digest"] == image
    done = command("build", "-o", "type=nothing", context)
    assert done.returncode == 1 and "unknown output type 'nothing'" in done.stderr


def test_a_link_in_an_output_directory_is_not_followed(command: Command, place: Path) -> None:
    context = write_files(place / "c", {"d/f": "out", "Dockerfile": "FROM scratch\nCOPY d /d\n"})
    outside = write_files(place / "outside", {"f": "mine"})
    write_files(place / "dir", {"d ->": str(outside)})
    assert command("build", "-o", place / "dir", context).returncode == 1
    assert (outside / "f").read_text() == "mine"


def test_standard_input(command: Command, place: Path) -> None:
    done = command("build", "-t", "s", "-", input="FROM scratch\nLABEL from=stdin\n")
    assert done.returncode == 0
    context = write_files(place / "c", {"f": "f"})
    done = command("build", "-q", "-f", "-", context, input="FROM scratch\nCOPY f /\n")
    assert done.returncode == 0


def test_check_tells_rules_by_name(command: Command, place: Path) -> None:
    context = write_files(place / "c", {"Dockerfile": "from scratch\nMAINTAINER me\nCOPY --from=scratch /a /\n"})
    done = command("build", "--check", context)
    assert done.returncode == 1
    assert "MaintainerDeprecated" in done.stdout and "FromAsCasing" not in done.stdout


@pytest.mark.root
def test_builder_df_and_prune(command: Command, place: Path) -> None:
    lines = "FROM box:1\nRUN --mount=type=cache,target=/c,id=mine echo > /c/x; echo text > /f\n"
    context = write_files(place / "c", {"Dockerfile": lines})
    command("build", "--network", "none", "-t", "x", context)
    listed = command("builder", "df").stdout
    assert "RUN --mount=type=cache" in listed and "mine" in listed
    command("rmi", "x")
    done = command("builder", "prune", "-f")
    assert done.stdout.startswith("Deleted build cache objects:\n")
    assert "mine" not in command("builder", "df").stdout


def test_system_df_counts_the_build_cache_and_system_prune_removes_it(command: Command, place: Path) -> None:
    context = write_files(place / "c", {"f": "12345678", "Dockerfile": "FROM scratch\nCOPY f /f\n"})
    command("build", "-t", "x", context)
    row = "{{.Type}}|{{.TotalCount}}|{{.Active}}|{{.Reclaimable}}"
    used = command("system", "df", "--format", row).stdout.splitlines()[-1]
    command("rmi", "x")
    unused = command("system", "df", "--format", row).stdout.splitlines()[-1]
    assert used.startswith("Build Cache|2|1|") and unused.startswith("Build Cache|2|0|")  # a layer, and digests
    assert unused.endswith("B (100%)") and used != unused
    assert "COPY f /f" in command("system", "df", "-v").stdout
    command("volume", "create", "v")
    assert "Local Volumes|1|0|0B" in command("system", "df", "--format", row).stdout
    done = command("system", "prune", "-f", "--volumes")
    assert re.search(r"Deleted build cache objects:\n[0-9a-f\n]+\nTotal reclaimed space: [1-9]", done.stdout)
    assert command("builder", "df", "--format", "{{.Kind}}").stdout.split() == []


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_build_leaves_nothing_and_the_next_uses_what_was_finished(
    command: Command, place: Path, number: signal.Signals
) -> None:
    lines = "FROM box:1\nRUN echo finished > /first\nRUN --mount=target=/src echo began; sleep 300\n"
    context = write_files(place / "c", {"Dockerfile": lines})
    environment = {**os.environ, "LAYERFS_STORE": str(place / "store")}
    line = [*LAYERFS, "build", "--network", "none", "--progress", "plain", str(context)]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stderr is not None
        while "began" not in process.stderr.readline():
            pass
        process.send_signal(number)
        process.wait(60)
    assert process.returncode != 0

    def clean() -> bool:
        with layerfs.Store(place / "store") as store:
            return not store.mounts(dead=True) and not store.container_table.list()

    assert eventually(clean)
    assert str(place) not in mountinfo()
    assert eventually(lambda: not users_of(place / "store"))
    (context / "Dockerfile").write_text(lines.replace("sleep 300", "true"))
    done = command("build", "--network", "none", "--progress", "plain", "-t", "k", context)
    assert "RUN echo finished > /first\n" in done.stderr and done.stderr.count("CACHED") == 1
    with layerfs.Store(place / "store") as store:
        assert store.fsck() == []
        assert read(store.image("k"), "first") == b"finished\n"
        assert "src" not in tree(store.image("k"))
