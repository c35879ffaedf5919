"""The same command lines by docker and by layerfs: what programs see and print, exit codes, and what `inspect` and `ps`
show of them. Needs a dockerd (`tools/docker.sh` fetches one and installs nothing); it runs in namespaces of its own.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

PEER = Path(os.environ.get("LAYERFS_DOCKER", Path(__file__).parents[2] / "build/docker"))
SEARCH = f"{PEER}/usr/sbin:{PEER}/usr/bin:{os.environ.get('PATH', '')}"
BUSYBOX = Path("/bin/busybox")
LAYERFS = [sys.executable, "-c", "import sys; from layerfs.cli import main; sys.exit(main())"]
PROGRAMS = (
    *("sh", "true", "false", "cat", "echo", "ls", "id", "env", "sleep", "kill", "hostname", "grep", "stat", "touch"),
    *("rm", "head", "pwd", "mount", "awk", "test", "chmod"),
)
PASSWD = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/home/web:/bin/sh\n"
DAEMON = (
    "mount --make-rprivate / && mount -t tmpfs tmpfs /run && exec dockerd --data-root {0}/data --exec-root {0}/exec"
    " --pidfile {0}/pid -H unix://{0}/socket --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false"
    " --bridge=none --storage-driver=vfs --cgroup-parent=/{1} --exec-opt native.cgroupdriver=cgroupfs"
)
Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [
    pytest.mark.skipif(shutil.which("dockerd", path=SEARCH) is None, reason="needs dockerd: tools/docker.sh"),
    pytest.mark.skipif(not BUSYBOX.exists(), reason="needs busybox-static"),
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("image")
    for name in ("bin", "etc", "tmp", "root"):
        (place / "top" / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, place / "top/bin")
    for name in PROGRAMS:
        (place / "top/bin" / name).symlink_to("busybox")
    (place / "top/etc/passwd").write_text(PASSWD)
    (place / "top/etc/group").write_text("root:x:0:\nweb:x:34:\nextra:x:50:web\n")
    with tarfile.open(place / "top.tar", "w") as tar:
        tar.add(place / "top", ".", filter=_of_root)
    return place / "top.tar"


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    return member


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Iterator[Run]:
    place, parent = tmp_path_factory.mktemp("d"), f"layerfs-docker-{os.getpid()}"
    words = ["unshare", "-mpnf", "--kill-child", "--mount-proc", "sh", "-c", DAEMON.format(place, parent)]
    with (place / "log").open("w") as log:
        daemon = subprocess.Popen(words, stdout=log, stderr=log, env={**os.environ, "PATH": SEARCH})
    client = [shutil.which("docker", path=SEARCH) or "docker", "-H", f"unix://{place}/socket"]
    try:
        for _ in range(600):
            if daemon.poll() is not None or subprocess.run([*client, "info"], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        assert daemon.poll() is None, (place / "log").read_text()[-2000:]
        run = runner(client, ["--network=none"])
        assert run("import", "-c", 'CMD ["sh"]', "-c", "ENV IMAGE=1", archive, "box:1").returncode == 0
        yield run
    finally:
        daemon.kill()  # and all that is in its namespaces
        daemon.wait()
        for group in glob.glob(f"/sys/fs/cgroup/*/{parent}"):  # noqa: PTH207 (raises for what goes meanwhile)
            for directory, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):  # its processes are just ending
                    Path(directory).rmdir()


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory, archive: Path) -> Run:
    run = runner([*LAYERFS, "--store", str(tmp_path_factory.mktemp("s") / "store")], ["--network=none"])
    assert run("import", "-c", 'CMD ["sh"]', "-c", "ENV IMAGE=1", archive, "box:1").returncode == 0
    return run


def runner(program: list[str], network: list[str]) -> Run:
    def run(verb: str, *words: object) -> subprocess.CompletedProcess[str]:
        line = [verb, *(network if verb in ("run", "create") else []), *map(str, words)]
        return subprocess.run([*program, *line], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)

    return run


def both(docker: Run, ours: Run, *words: object) -> tuple[Any, Any]:
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(docker, *words)
        mine = ours(*words)
        return theirs.result(), mine


RUNS: list[tuple[str, str]] = [  # options, what sh does
    ("", "exit 42"),
    ("", "kill -9 $$; echo alive"),
    ("--init", "kill -TERM $$"),
    ("-h h1 -e A=2 -e B= -e NOT_SET_HERE -e IMAGE=x", "env"),
    ("-u web", "id; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; pwd; echo $HOME"),
    ("-u web:extra --group-add 77", "id"),
    ("-u 1234:99 -w /not/there", "id; pwd; stat -c '%a %u' ."),
    ("-h h1 --domainname d.e", "hostname; cat /etc/hostname"),
    ("", "grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; cat /proc/self/oom_score_adj; umask"),
    ("--cap-drop all --cap-add chown --security-opt no-new-privileges", "grep -E 'Cap|NoNew' /proc/self/status"),
    ("", "ls -l /dev | awk '{print $1,$3,$4,$NF}'"),
    ("", "mount | awk '$3 !~ /^.(sys.fs.cgroup.*)?$/ && $3 !~ /^.(etc|dev|proc)./ {print $3,$5,$6}'"),
    ("--ulimit nofile=100:200 --ulimit core=0", "ulimit -n; ulimit -Hn; ulimit -c"),
    ("--read-only --tmpfs /tmp", "touch /x; touch /tmp/y && touch /dev/shm/z && echo written"),
    ("-m 64m --memory-swap 100m --cpus 0.5 -c 5 --pids-limit 20 --cpuset-cpus 0", "true"),
    (
        "--sysctl net.ipv4.ip_forward=1 --oom-score-adj 500",
        "cat /proc/sys/net/ipv4/ip_forward /proc/self/oom_score_adj",
    ),
    ("--security-opt systempaths=unconfined", "mount | grep -c proc"),
    ("--entrypoint /bin/echo", "true"),
]
WRONG = [  # each is 125, 126 or 127, and leaves nothing
    *("-m 1m", "-m 10m --memory-swap 5m", "--cpus 100", "--cpuset-cpus 9999", "--cpu-quota 1000 --cpus 1"),
    *("-u nobody-here", "--ip 10.0.0.9", "--health-cmd x --health-interval 1us", "--restart always", "--name !"),
    *("-v /tmp:/", "--mount type=bind,src=/not/there,dst=/x", "--ulimit x=1", "--entrypoint /not/there"),
    *("--entrypoint /etc/passwd", "--stop-signal NOPE", "--log-driver nope", "--link nobody-here", "--gpus all"),
]


@pytest.mark.parametrize(("options", "script"), RUNS)
def test_a_program_sees_and_says_the_same(docker: Run, ours: Run, options: str, script: str) -> None:
    line = ["--rm", *options.split(), "box:1", "sh", "-c", script]
    theirs, mine = both(docker, ours, "run", *line)
    assert (mine.returncode, mine.stdout) == (theirs.returncode, theirs.stdout)
    assert mine.stderr.splitlines()[:1] == theirs.stderr.splitlines()[:1]


def test_what_is_wrong_has_the_same_codes_and_leaves_nothing(docker: Run, ours: Run) -> None:
    done = {options: both(docker, ours, "run", "--rm", *options.split(), "box:1", "true") for options in WRONG}
    assert {options: theirs.returncode for options, (theirs, _) in done.items()} == {
        options: mine.returncode for options, (_, mine) in done.items()
    }
    assert ours("ps", "-aq").stdout == ""


LIFE = """\
run -d --name one -h h1 -l k=v -e X=1 -m 64m -v data:/data --restart on-failure:3 box:1 sleep 1000
ps --format {{.Names}}|{{.Image}}|{{.Command}}|{{.State}}|{{.Ports}}|{{.Labels}}|{{.Mounts}}|{{.Networks}}
exec one sh -c exit|7
exec one nobody-here
exec -u nobody-here one id
exec -e Y=2 -w /tmp -u web one sh -c env;|pwd;|id
exec one touch /new
diff one
update one
update --pids-limit 30 --restart no one
inspect -f {{.HostConfig.Memory}}|{{.HostConfig.PidsLimit}}|{{.HostConfig.RestartPolicy.Name}}|{{.State.Status}} one
pause one
ps --format {{.State}}
exec one true
unpause one
rename one two
rename two two
stop -t 0 two
inspect -f {{.State.ExitCode}}|{{.State.OOMKilled}}|{{.State.Running}}|{{.RestartCount}} two
kill two
exec two true
start two
wait nobody-here
rm two
rm -f two
rm -f two
volume inspect -f {{.Name}}|{{.Driver}} data
volume rm data
create --name three box:1 sh -c echo|out;|echo|err|>&2;|exit|3
ps -a --format {{.Names}}|{{.Status}}
start -a three
logs three
commit -m message -c ENV|Q=1 three box:2
history --format {{.CreatedBy}}|{{.Comment}} box:2
run --rm box:2 sh -c echo|$Q|$IMAGE
rm three
rmi box:2
inspect nobody-here"""
_FREE_CODES = {"exec one nobody-here"}  # 126 before docker 21, 127 since


def test_a_life_has_the_same_codes_and_outputs(docker: Run, ours: Run) -> None:
    differ = {}
    for line in LIFE.splitlines():
        words = [word.replace("|", " ") if "{{" not in word else word for word in line.split(" ")]
        theirs, mine = both(docker, ours, *words)
        if line not in _FREE_CODES and theirs.returncode != mine.returncode:
            differ[line] = (theirs.returncode, mine.returncode, mine.stderr)
        elif words[0] not in ("exec", "rmi") or theirs.returncode == 0:
            said = [_same(each.stdout, words[0]) for each in (theirs, mine)]
            if said[0] != said[1] and words[0] != "rmi":
                differ[line] = (*said, mine.stderr)
    assert differ == {}


def _same(text: str, verb: str) -> str:
    """`diff` of docker 20.10 has no order."""
    text = re.sub(r"[0-9a-f]{64}", "<id>", text)
    return "\n".join(sorted(text.splitlines())) if verb == "diff" else text


def shape(value: Any, path: str = "") -> set[str]:
    """The names of all fields, and null ones as any kind."""
    if not isinstance(value, dict):
        return {path}
    return {path}.union(*(shape(each, f"{path}.{name}") for name, each in value.items()))


GONE = {  # of docker 20.10, that later ones have not
    *("HostConfig.KernelMemory", "HostConfig.KernelMemoryTCP"),
}


def test_inspect_has_all_the_fields_and_the_same_values(docker: Run, ours: Run) -> None:
    line = "run -d --name seen -h h1 -m 64m --cpus 0.5 --cap-add NET_ADMIN -v vol:/v -e A=1 box:1 sleep 1000"
    found = []
    for run in (docker, ours):
        assert run(*line.split()).returncode == 0
        found.append(json.loads(run("inspect", "seen").stdout)[0])
        run("rm", "-fv", "seen")
    theirs, mine = found
    lacking = {path[1:] for path in shape(theirs) - shape(mine)}
    assert {path for path in lacking - GONE if not path.startswith("GraphDriver.")} == set()
    for part, leave in (
        ("Config", set()),
        ("HostConfig", {"Runtime", "MaskedPaths", *_names(GONE)}),
        ("State", {"Pid", "StartedAt", "FinishedAt"}),
    ):
        same = {name for name in theirs[part] if name not in leave}
        shown = [{name: each[part][name] or None for name in same} for each in found]  # [] is null for some clients
        assert shown[1] == shown[0]


def _names(paths: set[str]) -> set[str]:
    return {path.rpartition(".")[2] for path in paths}
