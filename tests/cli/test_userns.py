"""User namespaces: the container's root is somebody else on the host, and the image's files are shown as its own."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerfs.errors import InvalidInput
from layerfs.runtime import idmaps
from tests.looking import eventually

pytestmark = pytest.mark.root
MAPS = {"uidmap": ["0:100000:65536"], "gidmap": ["0:200000:65536"]}
FOREVER = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"


@pytest.fixture
def ids(tmp_path, monkeypatch):
    """/etc/subuid and /etc/subgid with these lines."""

    def write(users: str, groups: str) -> None:
        for name, text in (("SUBUID", users), ("SUBGID", groups)):
            (tmp_path / name).write_text(text)
            monkeypatch.setattr(idmaps, name, tmp_path / name)

    write("me:5:9\ncontainers:300000:200000\n", "containers:500000:200000\n")
    return write


def out(box, script):
    done = box.run(["sh", "-c", script], timeout=30)
    assert done.returncode == 0, done
    return done.stdout.decode()


def started(box):
    box.start()
    assert eventually(lambda: b"ready" in b"".join(entry.data for entry in box.logs()))
    return box


def test_root_inside_is_nobody_outside(shell):
    box = started(shell(FOREVER, **MAPS))
    assert Path(f"/proc/{box.state.pid}/uid_map").read_text().split() == ["0", "100000", "65536"]
    assert Path(f"/proc/{box.state.pid}/gid_map").read_text().split() == ["0", "200000", "65536"]
    status = Path(f"/proc/{box.state.pid}").stat()
    assert (status.st_uid, status.st_gid) == (100000, 200000)


def test_the_images_files_are_its_own_and_nothing_is_chowned(shell):
    box = shell("true", **MAPS)
    assert out(box, "ls -ldn /bin /etc /etc/passwd | while read a b c d e; do echo $c $d; done") == "0 0\n" * 3
    assert box.diff() == []


def test_what_it_makes_is_stored_as_in_an_image(shell):
    box = shell("true", **MAPS)
    out(box, "touch /new; mkdir /d; dd if=/dev/zero of=/d/f bs=1 count=1; chmod 4755 /d/f; echo x >>/etc/passwd")
    for name, mode in (("new", 0o644), ("d", 0o755), ("d/f", 0o4755), ("etc/passwd", 0o644)):
        found = (box.upper / name).stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, mode)


def test_a_user_of_the_image_owns_what_he_makes(shell):
    box = shell("true", **MAPS)
    out(box, "mkdir -m 777 /t")
    assert box.run(["sh", "-c", "id -u; id -g; touch /t/mine"], user="bob").stdout == b"1000\n1001\n"
    assert ((box.upper / "t/mine").stat().st_uid, (box.upper / "t/mine").stat().st_gid) == (1000, 1001)


def test_all_namespaces_are_its_own(shell):
    def seen(root):
        return {name: str(Path(f"{root}/ns/{name}").readlink()) for name in ("user", "mnt", "pid", "net", "uts", "ipc")}

    box = started(shell(FOREVER, **MAPS))
    inside, outside = seen(f"/proc/{box.state.pid}"), seen("/proc/self")
    assert not set(inside.values()) & set(outside.values())


def test_its_root_has_no_power_over_the_host(shell, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s")
    secret.chmod(0o600)
    tmp_path.chmod(0o755)
    box = shell("true", **MAPS, volumes=[f"{tmp_path}:/host"], cap_add=["ALL"], seccomp="unconfined")
    script = """
    cat /host/secret && echo READ; chmod 777 /host/secret && echo CHANGED; touch /host/new && echo MADE
    mknod /tmp/sda b 8 0 && echo NODE; echo 1 >/proc/sys/kernel/panic && echo SYSCTL
    echo x >/proc/sysrq-trigger && echo SYSRQ; :"""
    assert out(box, script) == ""
    assert secret.read_text() == "s"


def read_to_end(terminal: int) -> Iterator[bytes]:
    """A kernel thread brings what was written, perhaps in pieces; EIO is the end."""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 4096):
            yield data


@pytest.mark.parametrize("how", ["exec", "tty"])
def test_exec_enters_the_user_namespace(shell, how):
    box = started(shell(FOREVER, **MAPS))
    words = ["sh", "-c", "cat /proc/self/uid_map; id -u; touch /made; test -c /dev/null && echo null"]
    if how == "exec":
        said = box.exec(words).stdout.split()
    else:
        with box.exec_terminal(words) as process:
            assert process.wait() == 0
            said = b"".join(read_to_end(process.terminal)).split()
    assert said == [b"0", b"100000", b"65536", b"0", b"null"]
    assert (box.upper / "made").stat().st_uid == 0


def test_a_container_on_a_terminal(shell):
    box = shell("tty; id -u; echo hi >/dev/console", tty=True, **MAPS)
    box.start()
    box.wait()
    assert b"".join(entry.data for entry in box.logs()).split() == [b"/dev/pts/0", b"0", b"hi"]


def test_streams_can_be_opened_again(shell):
    box = shell("echo out >/dev/stdout; echo err >/proc/self/fd/2; id -u", user="bob", **MAPS)
    box.start()
    assert box.wait() == 0
    assert sorted(b"".join(entry.data for entry in box.logs()).split()) == [b"1000", b"err", b"out"]


def test_volumes_keep_the_ids_that_containers_see(shell, opened):
    for first in (100000, 400000):
        box = shell("true", uidmap=[f"0:{first}:65536"], volumes=["data:/data"])
        out(box, f"test -e /data/f{first - 1} || touch /data/f{first}; ls -ln /data | grep -c ' 0 *0 '")
    place = opened.path / "volumes/data/_data"
    assert {each.stat().st_uid for each in place.iterdir()} == {0}


def test_a_bind_shows_the_hosts_ids_unless_it_is_mapped(shell, tmp_path):
    (tmp_path / "d").mkdir()
    for option, owner in (("", "65534"), (":idmap", "0")):
        box = shell("true", **MAPS, volumes=[f"{tmp_path}/d:/v{option}"])
        assert out(box, "ls -ldn /v | while read a b c d; do echo $c; done") == f"{owner}\n"
    out(shell("true", **MAPS, mounts=[f"type=bind,source={tmp_path}/d,target=/v,idmap"]), "touch /v/new")
    assert (tmp_path / "d/new").stat().st_uid == 0


def test_devices_are_there_and_no_others(shell):
    box = shell("true", **MAPS, devices=["/dev/full:/dev/mine"])
    script = "echo x >/dev/null; head -c 3 /dev/zero | wc -c; echo x >/dev/mine; ls /dev"
    done = box.run(["sh", "-c", script])
    assert b"No space left" in done.stderr
    assert {b"null", b"zero", b"mine", b"tty", b"pts", b"shm"} <= set(done.stdout.split())
    assert b"kmsg" not in done.stdout


def test_limits_and_groups_hold(shell):
    box = shell(FOREVER, **MAPS, memory="64m", pids_limit=50, ulimits=["nofile=2000:3000"], oom_score_adj=500)
    process = started(box).state.pid
    assert box.stats().memory_limit == 64 << 20
    assert "2000                 3000" in Path(f"/proc/{process}/limits").read_text()
    assert Path(f"/proc/{process}/oom_score_adj").read_text() == "500\n"
    box.pause()
    box.unpause()
    box.stop()
    assert box.wait() == 3


def test_masks_and_seccomp_hold(shell):
    box = shell("true", **MAPS)
    said = out(
        box, "cat /proc/keys; head -c 1 /proc/kcore; grep Seccomp: /proc/self/status; find /sys/firmware -type f"
    )
    assert said.split() == ["Seccomp:", "2"]


def test_a_network_of_its_own_belongs_to_it(shell, opened):
    box = started(shell(FOREVER, **MAPS, network="bridge", cap_add=["NET_ADMIN"]))
    done = box.exec(
        ["sh", "-c", "cat /proc/net/dev | grep -c eth0; ls /sys/class/net; cat /proc/sys/net/ipv4/ping_group_range"]
    )
    assert done.stdout.split()[:3] == [b"1", b"eth0", b"lo"]
    assert Path(f"/proc/{box.state.pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
    assert box.exec(["/bin/busybox", "ifconfig", "eth0", "mtu", "1400"]).returncode == 0


def test_it_restarts_and_outlives_its_starter(shell):
    box = shell("cat /proc/self/uid_map; exit 1", **MAPS, restart="on-failure:2")
    box.start()
    assert box.wait() == 1
    assert [entry.data.split() for entry in box.logs()] == [[b"0", b"100000", b"65536"]] * 3


def test_auto_gives_each_container_ids_of_its_own(shell, ids):
    one, two = (shell("true", userns="auto:size=1000") for _ in range(2))
    assert out(one, "cat /proc/self/uid_map").split() == ["0", "300000", "1000"]
    assert out(two, "cat /proc/self/uid_map; cat /proc/self/gid_map").split()[1::3] == ["301000", "501000"]
    one.remove()
    assert out(shell("true", userns="auto:size=900"), "cat /proc/self/uid_map").split()[1] == "300000"


def test_a_fork_gets_ids_of_its_own(shell, ids):
    box = shell("true", userns="auto:size=1000")
    out(box, "touch /f")
    child = box.fork()
    assert out(child, "cat /proc/self/uid_map; ls -ln /f | grep -c ' 0 *0 '").split() == ["0", "301000", "1000", "1"]


def test_auto_tells_when_nothing_is_left(shell, ids):
    ids("containers:300000:1500\n", "containers:300000:1500\n")
    shell("true", userns="auto:size=1000")
    with pytest.raises(InvalidInput, match="not enough unused subordinate uid"):
        shell("true", userns="auto:size=1000")


def test_private_takes_the_whole_range(shell, ids):
    ids("layerfs:300000:100\nlayerfs:400000:100\n", "layerfs:600000:70\n")
    assert out(shell("true", userns="private"), "cat /proc/self/uid_map").split() == [
        "0",
        "300000",
        "100",
        "100",
        "400000",
        "100",
    ]
    assert out(shell("true", subuidname="layerfs"), "cat /proc/self/gid_map").split() == ["0", "600000", "70"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"userns": "keep-id"}, "rootless"),
        ({"userns": "container:x"}, "not supported"),
        ({"userns": "sometimes"}, "invalid USER mode"),
        ({"userns": "auto:colour=red"}, "invalid option"),
        ({"userns": "host", "uidmap": ["0:1:1"]}, "goes with no"),
        ({"uidmap": ["0:1"] * 2}, "overlap"),
        ({"uidmap": ["5:1000:10"]}, "root"),
        ({"uidmap": ["0:4294967290:10"]}, "out of range"),
        ({"uidmap": ["@0:1:1"]}, "invalid --uidmap"),
        ({"uidmap": ["0:1000:10"], "privileged": True}, "privileged mode is incompatible"),
        ({"uidmap": ["0:1000:10"], "network": "host"}, "host's network namespace"),
        ({"uidmap": ["0:1000:10"], "pid": "host"}, "PID namespace"),
        ({"userns": "auto"}, "no subordinate ids"),
    ],
)
def test_what_cannot_be_is_told(shell, ids, settings, words):
    ids("", "")
    with pytest.raises(InvalidInput, match=words):
        shell("true", **settings)


def test_an_engine_that_cannot_is_told(shell):
    box = shell("true", **MAPS)
    with pytest.raises(OSError, match=r"the engine native|ids of the user namespace"):
        box.run(engine="kernel")


def test_copies_in_belong_to_its_root(shell, tmp_path):
    (tmp_path / "f").write_text("x")
    box = started(shell(FOREVER, **MAPS))
    box.copy_in(str(tmp_path / "f"), "/f")
    assert box.exec(["sh", "-c", "ls -ln /f | while read a b c d e; do echo $c $d; done"]).stdout == b"0 0\n"
    box.copy_out("/f", str(tmp_path / "g"))
    assert (tmp_path / "g").read_text() == "x"


def test_the_command_line(layerfs_command):
    done = layerfs_command("run", "--rm", "--uidmap", "0:100000:1000", "box:1", "cat", "/proc/self/gid_map")
    assert done.stdout.split() == [b"0", b"100000", b"1000"]


def test_clocks_and_the_network_of_another(shell):
    other = started(shell(FOREVER, hostname="other"))
    box = shell("true", **MAPS, network=f"container:{other.name}", time_offsets=["monotonic=86400"])
    script = (
        "readlink /proc/self/ns/net; cat /proc/uptime; ls /sys/class >/dev/null && echo sys; touch /sys/x || echo kept"
    )
    said = out(box, script).split()
    assert said[0] == str(Path(f"/proc/{other.state.pid}/ns/net").readlink())
    assert said[-2:] == ["sys", "kept"]
