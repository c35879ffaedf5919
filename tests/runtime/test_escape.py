"""What an image or a command could try to reach the host; each report's number is in the test's name or text."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from layerfs.errors import RunError
from layerfs.runtime import helper
from layerfs.runtime.options import Bind


@pytest.fixture
def many_host_descriptors():
    """Directories of the host, open and inheritable, on as many numbers as a leak could have."""
    fds = [os.open("/", os.O_RDONLY | os.O_DIRECTORY) for _ in range(40)]
    for fd in fds:
        os.set_inheritable(fd, True)
    yield
    for fd in fds:
        os.close(fd)


def test_only_the_standard_streams_are_open(box, many_host_descriptors):
    assert box("ls /proc/self/fd").stdout.split() == [b"0", b"1", b"2", b"3"]  # 3: ls reading the directory
    assert box("exec ls /proc/1/fd").stdout.split() == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("number", range(65))
def test_cve_2024_21626_a_descriptor_as_workdir_is_an_error(box, many_host_descriptors, number):
    with pytest.raises(RunError):
        box("pwd; ls", workdir=f"/proc/self/fd/{number}")


@pytest.mark.parametrize(
    "workdir",
    ["/proc/self/fd/7/../..", "/proc/1/root", "/proc/self/cwd", "/proc/thread-self/fd/8", "/link", "/etc/passwd"],
)
def test_magic_links_and_files_are_no_workdir(box, root, many_host_descriptors, workdir):
    (root / "link").symlink_to("/proc/self/fd/9")
    if ".." in workdir:  # cleaned to /proc/self before anything is opened, as docker does
        assert b"host" not in box("pwd", workdir=workdir).stdout
        return
    with pytest.raises(RunError, match=r"cwd|mkdir"):
        box("pwd", workdir=workdir)


def test_a_workdir_behind_links_stays_inside(box, root):
    (root / "out").symlink_to("../" * 30 + "tmp")
    assert box("pwd", workdir="/out").stdout == b"/tmp\n"


def test_a_missing_workdir_is_made_inside(box, root, tmp_path):
    (root / "deep").symlink_to(tmp_path / "not-on-the-host")
    assert box("pwd", workdir="/deep/a/b").stdout.endswith(b"/a/b\n")
    assert not (tmp_path / "not-on-the-host").exists()
    assert box("pwd", workdir="/nodir/x").stdout == b"/nodir/x\n"


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
@pytest.mark.parametrize("target", ["/etc", "tmp", "/proc/self/fd/0"])
def test_cve_2025_31133_a_link_where_a_mount_goes_is_an_error(box, root, name, target):
    if (root / name).exists():
        (root / name).rmdir()
    (root / name).symlink_to(target)
    with pytest.raises(RunError, match=f'rootfs at "/{name}": too many levels of symbolic links'):
        box("true")


def test_an_images_own_null_is_not_what_masks(box, root):
    (root / "dev").mkdir()
    (root / "dev/null").symlink_to("/etc/passwd")
    result = box("cat /proc/keys; ls -l /dev/null | cut -c 1")
    assert result.stdout == b"c\n"


def test_mount_targets_through_links_stay_inside(box, root, tmp_path):
    (tmp_path / "host").mkdir()
    (tmp_path / "v").mkdir()
    (tmp_path / "v/mark").touch()
    (root / "data").symlink_to(tmp_path / "host")
    assert box(f"ls {tmp_path}/host", binds=[Bind(tmp_path / "v", b"/data")]).stdout == b"mark\n"
    assert list((tmp_path / "host").iterdir()) == []


def test_a_dangling_loop_as_target_is_an_error(box, root, tmp_path):
    (root / "a").symlink_to("/b")
    (root / "b").symlink_to("/a")
    with pytest.raises(RunError, match="too many levels"):
        box("true", binds=[Bind(tmp_path, b"/a/x")])


def test_climbing_from_the_root_stays_inside(box):
    assert box("cd ../../../..; ls -d bin home; cat /../../etc/hostname", hostname="h").stdout == b"bin\nhome\nh\n"


def test_the_root_of_pid_1_is_the_containers(box):
    assert b"busybox" in box("ls /proc/1/root/bin/").stdout
    assert box("readlink /proc/1/exe").stdout == b"/bin/busybox\n"


@pytest.mark.parametrize("how", ["command", "script"])
def test_cve_2019_5736_the_hosts_helper_is_not_reached_through_proc_self_exe(box, root, how):
    before = helper.PATH.read_bytes()
    script = root / "evil"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    command = ["/proc/self/exe"] if how == "command" else ["/evil"]
    with contextlib.suppress(RunError):
        assert box(command).returncode != 0
    assert helper.PATH.read_bytes() == before


def test_the_helper_is_a_sealed_copy(box):
    seen = []

    def look(process):
        seen.append(str(Path(f"/proc/{process._popen.pid}/exe").readlink()))
        process.kill()

    box("sleep 1000", on_started=look)
    assert seen[0].startswith("/memfd:layerfs-run")


def test_a_directory_as_stdin_is_refused(box):
    fd = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(RunError, match="standard stream 0 is a directory"):
            box("ls", stdin=fd)
    finally:
        os.close(fd)


def test_no_terminal_of_the_host_controls_it(box):
    assert b"/dev/tty: No such device or address" in box("cat < /dev/tty").stderr


def test_mounting_and_renaming_the_host_are_not_permitted(box):
    result = box("mount -t tmpfs x /tmp; hostname evil; chroot / true && echo chroot-works; umount /proc")
    assert result.stderr.count(b"ermi") >= 2
    assert result.stdout == b"chroot-works\n"


def test_signals_do_not_reach_the_host(box):
    assert box(f"kill -0 {os.getpid()}").returncode != 0


def test_without_standard_streams_none_of_ours_takes_their_place(root):
    code = (
        "import os, sys; from pathlib import Path; from layerfs.runtime import RunOptions, run\n"
        "for fd in (0, 1, 2): os.close(fd)\n"
        "r = run(Path(sys.argv[1]), {}, RunOptions(command=['ls', '-l', '/proc/self/fd']), stdin=None)\n"
        "Path(sys.argv[2]).write_bytes(r.stdout)"
    )
    out = root.parent / "out"
    project = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, "-c", code, root, out], check=True, cwd=project, env={**os.environ, "PYTHONPATH": str(project)}
    )
    text = out.read_text()
    assert "memfd" not in text
    assert "socket" not in text
