"""The article on docker's architecture and techniques that layerfs began with, replayed by layerfs's commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerfs
from tests.looking import eventually
from tests.system.conftest import Host

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc"),
]
GREETING = "hello,world,docker in c"
PAGE = "hello,tb de docker"


@pytest.fixture(autouse=True)
def no_containers_stay(host: Host) -> Iterator[None]:
    yield
    if left := host("ps", "-aq").split():
        host("rm", "-f", "-v", *left)
    assert host.links() == ["lo"]


@pytest.fixture(scope="module")
def hello(host: Host, tmp_path_factory: pytest.TempPathFactory) -> str:
    """FROM scratch, ADD hello /, CMD ["/hello"]; beside one that is not static."""
    for name, options in (("hello_world", ["-static"]), ("dynamic", [])):
        context = tmp_path_factory.mktemp(name)
        source = f'#include <stdio.h>\nint main(void) {{ puts("{GREETING}"); return 0; }}\n'
        command = ["gcc", "-O1", *options, "-x", "c", "-", "-o", context / "hello"]
        subprocess.run(command, input=source, text=True, check=True)
        (context / "Dockerfile").write_text('FROM scratch\nADD hello /\nCMD ["/hello"]\n')
        assert re.fullmatch("sha256:[0-9a-f]{64}\n", host("build", "-q", "-t", f"tongbo/{name}", context))
    return "tongbo/hello_world"


@pytest.fixture(scope="module")
def centos(host: Host, debian: Path) -> str:
    """What the article calls centos."""
    host("import", "-c", 'CMD ["/bin/bash"]', debian, "debian:12")
    return "debian:12"


def fetch(host: Host, url: str) -> str:
    """What a web server says; empty while it does not."""

    def get() -> str:
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    return host.inside(get)


def inspected(host: Host, name: str, template: str) -> str:
    return host("inspect", "-f", template, name).strip()


# images


def test_hello_from_scratch_and_its_history(host: Host, hello: str) -> None:
    assert host("run", "--rm", hello) == f"{GREETING}\n"
    row = next(row for row in host.rows("image", "ls") if row[0] == hello)
    assert row[1] == "latest" and row[4].endswith("kB")
    command, added = host.rows("history", hello)
    assert command[0] == row[2] and 'CMD ["/hello"]' in command[2] and command[3] == "0B"
    assert added[0] == "<missing>" and "ADD hello /" in added[2] and added[3] == row[4]


def test_hello_that_is_not_static_finds_no_loader(host: Host, hello: str) -> None:
    assert "no such file or directory" in host("run", "--rm", "tongbo/dynamic", code=127)


# containers


def test_a_shell_without_a_terminal_ends_at_once(host: Host, small: str) -> None:
    host("run", "--name", "ended", small)
    assert host.rows("container", "ls") == []
    [row] = host.rows("container", "ls", "-a")
    assert row[1:3] == [small, '"/bin/sh"'] and row[4].startswith("Exited (0)") and row[-1] == "ended"


def test_a_shell_on_a_terminal_runs_until_it_is_left(host: Host, centos: str) -> None:
    it = host.session("run", "-it", "--name", "shell", centos)
    it.expect(b"# ")
    it.type(b"cat /etc/debian_version\r")
    it.expect(b"12.")  # the line after what was typed
    [row] = host.rows("container", "ls")
    assert row[4].startswith("Up ") and row[-1] == "shell"
    it.type(b"exit 3\r")
    assert it.end() == 3
    assert host.rows("ps") == []
    assert inspected(host, "shell", "{{.State.Status}} {{.State.ExitCode}}") == "exited 3"


def test_all_ended_containers_are_listed_and_removed(host: Host, small: str) -> None:
    for _ in range(3):
        host("run", small)
    running = host("run", "-d", small, "sleep", "1000").strip()
    everything = host("container", "ls", "-aq").split()
    ended = host("container", "ls", "-f", "status=exited", "-q").split()
    assert len(everything) == 4 and everything == host("ps", "-aq").split()
    assert set(everything) - set(ended) == {running[:12]}
    assert host("rm", *ended).split() == ended
    assert "container is running" in host("rm", running, code=1)
    host("rm", "-f", *host("ps", "-aq").split())
    assert host("ps", "-aq") == ""


# an image of one's own


def test_a_package_is_installed_and_committed_over_shared_layers(host: Host, centos: str, debs: Path) -> None:
    it = host.session("run", "-it", "--name", "pedantic_gagarin", "-v", f"{debs}:/debs:ro", centos)
    it.expect(b"# ")
    it.type(b"dpkg -i /debs/hello_*.deb && hello -t\r")
    it.expect(b"hello, world\r\n")
    it.type(b"exit\r")
    assert it.end() == 0
    assert "C /usr/bin" in host("diff", "pedantic_gagarin")
    name = "yaxiaomu/centos_add_hello:default_yaxiaomu_tag"
    identity = host("container", "commit", "pedantic_gagarin", name).strip()
    assert re.fullmatch("sha256:[0-9a-f]{64}", identity)
    rows = {row[0]: row for row in host.rows("image", "ls")}
    assert rows["yaxiaomu/centos_add_hello"][1:3] == ["default_yaxiaomu_tag", identity[7:19]]
    below, above = host.rows("history", centos), host.rows("history", name)
    assert above[0][0] == identity[7:19] and "/bin/bash" in above[0]
    assert [row[2:] for row in above[1:]] == [row[2:] for row in below] and above[1][0] == rows["debian"][2]
    layers = [json.loads(inspected(host, image, "{{json .RootFS.Layers}}")) for image in (centos, name)]
    assert layers[1][:-1] == layers[0]
    assert host("run", "--rm", name, "hello", "-t") == "hello, world\n"


# an application


@pytest.fixture(scope="module")
def flask_demo(host: Host, small: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that serves one page on port 5000, with its working directory and a port to publish."""
    context = tmp_path_factory.mktemp("flask_demo")
    (context / "index.html").write_text(f"{PAGE}\n")
    for name, program in (("broken", "htpd"), ("flask_demo", "httpd")):
        lines = [f"FROM {small}", 'LABEL maintainer="tongbo<demo.com@126.com>"', "RUN echo installed > /packages"]
        lines += ["COPY index.html /app/", "WORKDIR /app", "EXPOSE 5000"]
        lines += [f'CMD ["{program}", "-f", "-vv", "-p", "5000", "-h", "/app"]']
        (context / "Dockerfile").write_text("\n".join(lines))
        host("build", "-t", f"yaxiaomu/{name}", context)
    return "yaxiaomu/flask_demo"


def test_a_misspelled_program_is_told_and_looked_for_by_a_shell(host: Host, flask_demo: str) -> None:
    assert 'exec: "htpd": executable file not found in $PATH' in host("run", "--rm", "yaxiaomu/broken", code=127)
    it = host.session("run", "--rm", "-it", "yaxiaomu/broken", "/bin/sh")
    it.expect(b"/app # ")
    it.type(b"ls /bin/ht*; exit\r")
    it.expect(b"/bin/httpd\r\n")
    assert it.end() == 0


def test_an_application_in_the_background(host: Host, flask_demo: str) -> None:
    identity = host("run", "-d", "--name", "tb_demo", flask_demo).strip()
    address = inspected(host, "tb_demo", "{{.NetworkSettings.IPAddress}}")
    url = f"http://{address}:5000/"
    assert eventually(lambda: fetch(host, url) == f"{PAGE}\n")
    [row] = host.rows("ps")
    assert row[0] == identity[:12] and "5000/tcp" in row
    it = host.session("exec", "-it", "tb_demo", "/bin/sh")
    it.expect(b"/app # ")
    it.type(b"hostname; exit\r")
    it.expect(identity[:12].encode() + b"\r\n")
    assert it.end() == 0
    assert f"inet {address}/" in host("exec", "tb_demo", "ip", "a")
    assert "url:/" in host("container", "logs", "tb_demo") + host.ask("logs", "tb_demo").stderr
    assert json.loads(host("inspect", identity[:6]))[0]["Config"]["WorkingDir"] == "/app"
    assert host("container", "stop", "-t", "1", identity[:12]).strip() == identity[:12]  # it has no ear for TERM
    assert inspected(host, "tb_demo", "{{.State.ExitCode}}") == "137"
    assert fetch(host, url) == ""
    host("start", "tb_demo")
    assert eventually(
        lambda: fetch(host, f"http://{inspected(host, 'tb_demo', '{{.NetworkSettings.IPAddress}}')}:5000/")
    )
    host("stop", "-t", "0", "tb_demo")


# limits


@pytest.fixture(scope="module")
def stress(host: Host, centos: str, debs: Path) -> str:
    host("run", "--name", "stress", "-v", f"{debs}:/debs:ro", centos, "sh", "-c", "dpkg -i /debs/stress_*.deb")
    host("commit", "-c", 'ENTRYPOINT ["/usr/bin/stress"]', "-c", "CMD []", "stress", "yaxiaomu/ubuntu_stress")
    host("rm", "stress")
    return "yaxiaomu/ubuntu_stress"


def test_stress_within_its_memory_and_beyond(host: Host, stress: str) -> None:
    fits = ["--vm", "1", "--vm-bytes", "32M", "--timeout", "1", "--verbose"]
    assert "successful run completed" in host("run", "--rm", "-m", "128m", stress, *fits)
    beyond = ["--vm", "1", "--vm-bytes", "256M", "--vm-hang", "0", "--timeout", "60"]
    limits = ["-m", "64m", "--memory-swap", "64m"]
    assert "got signal 9" in host("run", "--name", "greedy", *limits, stress, *beyond, code=1)
    assert inspected(host, "greedy", "{{.State.OOMKilled}}") == "true"


def test_cpu_shares_divide_one_processor(host: Host, stress: str) -> None:
    shares = {"test2": 5, "test3": 10}
    for name, weight in shares.items():
        host("run", "-d", "--name", name, "--cpu-shares", f"{weight}", "--cpuset-cpus", "0", stress, "--cpu", "1")
    with layerfs.Store(host.store) as store:
        boxes = [store.container(name) for name in shares]
        before = [box.stats().cpu_ns or 0 for box in boxes]
        # until both have had enough: how long that takes is a matter of who else wants the processor
        assert eventually(lambda: (boxes[0].stats().cpu_ns or 0) - before[0] > 1.2e9, 120)
        used = [(box.stats().cpu_ns or 0) - start for box, start in zip(boxes, before, strict=True)]
    assert used[1] / used[0] == pytest.approx(2, rel=0.15)


# a registry of one's own


@pytest.fixture(scope="module")
def registry(host: Host, centos: str, debs: Path) -> str:
    unpack = "dpkg-deb --fsys-tarfile /debs/docker-registry_*.deb | tar --keep-directory-symlink -xf - -C /"
    without_passwords = "sed -i '/^auth:/,/path:/d' /etc/docker/registry/config.yml"
    script = f"{unpack} && mkdir -p /var/lib/docker-registry && {without_passwords}"
    host("run", "--name", "registry", "-v", f"{debs}:/debs:ro", centos, "sh", "-c", script)
    command = 'CMD ["/usr/bin/docker-registry", "serve", "/etc/docker/registry/config.yml"]'
    host(
        "commit", "-c", command, "-c", "EXPOSE 5000", "-c", "VOLUME /var/lib/docker-registry", "registry", "registry:2"
    )
    host("rm", "registry")
    return "registry:2"


def test_a_registry_is_pushed_to_and_pulled_from(host: Host, registry: str, hello: str) -> None:
    host("run", "-d", "-p", "5000:5000", "--restart", "always", "--name", "registry", registry)
    assert host("port", "registry") == "5000/tcp -> 0.0.0.0:5000\n"
    assert eventually(lambda: fetch(host, "http://127.0.0.1:5000/v2/") == "{}")
    name = "127.0.0.1:5000/tongbo/hello_world:latest"
    host("tag", hello, name)
    digest = inspected(host, name, "{{.Id}}")
    pushed = host("push", name)
    assert "latest: digest: sha256:" in pushed
    assert json.loads(fetch(host, "http://127.0.0.1:5000/v2/_catalog")) == {"repositories": ["tongbo/hello_world"]}
    host("rmi", hello, name)
    assert host("images", "-q", "tongbo/hello_world") == ""
    restart(host)
    run = host.ask("run", "--rm", name)
    assert run.stdout == f"{GREETING}\n"
    for line in (
        f"Unable to find image '{name}' locally",
        "latest: Pulling from tongbo/hello_world",
        "Status: Downloaded",
    ):
        assert line in run.stderr
    assert inspected(host, name, "{{.Id}}") == digest
    host("tag", name, hello)
    host("stop", "registry")
    assert fetch(host, "http://127.0.0.1:5000/v2/") == ""


def restart(host: Host) -> None:
    """Killed behind our back, it comes again, and has what it had."""
    first = inspected(host, "registry", "{{.State.Pid}}")
    subprocess.run(["kill", "-9", first], check=True)
    assert eventually(lambda: inspected(host, "registry", "{{.State.Pid}}") not in (first, "0"))
    assert eventually(lambda: "tongbo/hello_world" in fetch(host, "http://127.0.0.1:5000/v2/_catalog"))
