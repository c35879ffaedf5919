"""The command as a process: closed streams, full disks, odd stores, odd locales, start-up, completion."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from layerfs.runtime.monitor import Connection, Ended
from tests.cli.conftest import LAYERFS


def _bash(script: str, store: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = " ".join([sys.executable, "-c", "'import sys; from layerfs.cli import main; sys.exit(main())'"])
    text = f'layerfs() {{ {command} "$@"; }}\n{script}'
    given = {**os.environ, "LAYERFS_STORE": str(store), **env}
    done = subprocess.run(["bash", "-c", text], capture_output=True, text=True, env=given, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    return done


UNREAD = "exec 3> >(:); wait $!"  # 3 is a pipe whose reader has gone


@pytest.mark.parametrize(
    ("script", "code", "err"),
    [
        ("layerfs images >/dev/full", 1, "layerfs: no space left on device\n"),
        ("layerfs save box:1 >/dev/full", 1, "layerfs: no space left on device\n"),
        ("layerfs --version >/dev/full", 1, ""),
        ("layerfs images >&-", 0, ""),
        ("layerfs images <&- >&- 2>&-", 0, ""),
        ("layerfs history nosuch 2>/dev/full", 1, ""),
        ("layerfs history nosuch 2>&-", 1, ""),
        (f"{UNREAD}; layerfs debug tree box:1 >&3", 141, ""),
        (f"{UNREAD}; layerfs export box:1 >&3", 141, ""),
        ("layerfs load </dev/null", 1, None),
        ("layerfs load <&-", 1, None),
    ],
)
def test_streams_that_do_not_work(store, script, code, err):
    done = _bash(script, store)
    assert done.returncode == code, done.stderr
    if err is None:
        assert len(done.stderr.splitlines()) == 1
    else:
        assert done.stderr == err


@pytest.mark.root
def test_who_reads_a_run_may_go_and_its_container_is_removed_by_hand(store):
    done = _bash("layerfs run --rm --name yes box:1 yes | head -n 1; echo ${PIPESTATUS[0]}; layerfs rm -f yes", store)
    assert (done.stdout, done.stderr, done.returncode) == ("y\n141\nyes\n", "", 0)


@pytest.mark.root
@pytest.mark.parametrize("command", ["export ex", "cp ex:/ -"])
def test_what_cannot_be_written_leaves_no_mount(store, command):
    done = _bash(
        f"layerfs create --name ex box:1; layerfs {command} >/dev/full; layerfs mount -q; layerfs rm ex", store
    )
    assert done.stderr == "layerfs: no space left on device\n"
    assert done.stdout.splitlines()[1:] == ["ex"]


def test_an_interrupt_while_the_command_is_loaded_is_quiet():
    script = """
import os, signal, sys
class Interrupted:
    def find_spec(self, name, path, target=None):
        if name == "layerfs.cli.quick":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupted())
from layerfs.cli import entry
entry()
"""
    done = subprocess.run([sys.executable, "-c", script, "images"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.root
def test_few_descriptors_are_enough(store, opened):
    """poll(2) refuses more entries than descriptors may be open; clients beyond them are turned away."""
    done = _bash("ulimit -n 40; layerfs run --rm box:1 sh -c 'ulimit -n'; layerfs run -d box:1 sleep 100", store)
    assert (done.stdout.splitlines()[0], done.stderr) == ("40", "")
    [box] = opened.containers()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Connection.open(box.directory)) for _ in range(40)]
        assert clients[-1].receive(60) == Ended(137, lost=True)
        assert clients[0].receive(0) is None
    box.stop(0.1)
    assert box.state.code == 137


@pytest.mark.parametrize(
    "env",
    [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"PYTHONIOENCODING": "latin1"}],
)
def test_no_locale_is_needed(store, env):
    done = _bash("layerfs history box:1; layerfs rm $'\\xff\\xe2\\x80\\xa6'", store, **env)
    assert "box" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines in ([r"layerfs: No such container: \xff…"], [r"layerfs: No such container: \xff\xe2\x80\xa6"])


def _store_of(kind: str, tmp_path) -> str:
    place = tmp_path / kind
    place.mkdir()
    if kind == "newer":
        (place / "format").write_text("layerfs store 99\n")
    elif kind == "full":
        (place / "other").touch()
    return {"file": __file__, "nowhere": "/proc/none", "long": "/x" * 2000}.get(kind, str(place))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("newer", "has format version 99, newer than the 2 that this layerfs knows"),
        ("full", "not empty and no layerfs store"),
        ("file", "not a directory"),
        ("nowhere", "no such file or directory"),
        ("long", "may have 3840 bytes at most"),
    ],
)
def test_what_is_no_store_is_told(tmp_path, kind, message):
    done = _bash("layerfs images", _store_of(kind, tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr.lower()
    assert len(done.stderr.splitlines()) == 1


NOBODY = """
import os, sys
from layerfs.cli import main
assert main() == 0  # everything is loaded now: the interpreter's own files may be out of reach for others
os.setgroups([])
os.setuid(65534)
sys.exit(main())
"""


@pytest.mark.root
def test_a_store_of_somebody_else_is_told(store):
    done = subprocess.run(
        [sys.executable, "-c", NOBODY, "--store", str(store), "images", "-q"], capture_output=True, check=False
    )
    assert (done.returncode, b"permission" in done.stderr.lower()) == (1, True), done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_completion_in_bash(store):
    script = """
    eval "$(layerfs completion bash)"
    complete() {
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
        _layerfs_completion layerfs; echo "${COMPREPLY[@]}"
    }
    complete layerfs hi
    complete layerfs images --no
    complete layerfs history b
    complete layerfs image ta
    complete layerfs create --network ""
    """
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # the script asks the command, not a function
    done = _bash(script, store, PATH=path)
    assert done.stdout.splitlines() == ["history", "--no-trunc", "box:1", "tag", "bridge host none"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_for_other_shells(store, shell):
    assert "_LAYERFS_COMPLETE" in _bash(f"layerfs completion {shell}", store).stdout


LAZY = """
import sys
{code}
heavy = {{"rich", "concurrent.futures", "logging", "zstandard", "isal", "fuse", "layerfs._pure.ingest", "layerfs.union",
         "layerfs.layer.changes", "layerfs.snapshot.mounting", "layerfs.runtime", "layerfs.image.load",
         "layerfs.store.gc"}}
print(*sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("line", [["images"], ["history", "box:1"], ["tag", "box:1", "x"]])
def test_short_commands_load_little(store, line):
    code = LAZY.format(code=f"from layerfs.cli.app import run; run({['--store', str(store), *line]!r})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "\n"


def test_run_loads_little(store):
    """What is loaded counts twice: a container starts in less time than some of these take."""
    line = ["--store", str(store), "run", "--rm", "--network", "none", "box:1", "echo", "x"]
    heavy = {"click", "dataclasses", "inspect", "hashlib", "secrets", "shutil", "ctypes", "base64", "csv", "tempfile"}
    heavy |= {"asyncio", "logging", "rich", "urllib3", "zstandard", "layerfs.build", "layerfs.layer.entry"}
    heavy |= {"layerfs.registry", "layerfs.union", "layerfs.image.filters", "layerfs.runtime.seccomp"}
    heavy |= {
        "typing",
        "weakref",
        "binascii",
        "termios",
        "layerfs.store.contents",
        "layerfs.runtime.mountflags",
    }
    code = f"import sys; before = set(sys.modules); sys.argv[1:] = {line!r}; from layerfs.cli import main; main(); "
    code += f"print(*sorted({heavy!r} & set(sys.modules) - before))"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)  # compiles the filter
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "x\n\n"


def test_pushing_loads_little():
    heavy = {"concurrent.futures", "dataclasses", "email", "http.client", "logging", "ssl", "typing"}
    heavy |= {"urllib3", "zstandard"}
    code = "import sys; before = set(sys.modules); import layerfs.cli.transfers, layerfs.registry.push; "
    code += f"print(*sorted({heavy!r} & set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_importing_the_package_loads_next_to_nothing():
    code = "import sys; import layerfs; print(sorted(m for m in sys.modules if m.startswith('layerfs')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [name for name in eval(done.stdout) if name not in ("layerfs", "layerfs._lazy", "layerfs._version")] == []


def test_the_version_is_there_at_once():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*LAYERFS, "--version"], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout.startswith(b"layerfs version ")
    assert after.ru_utime - before.ru_utime < 2  # a guard against loading everything; benchmarks/ measure
