"""The three files of /etc."""

from layerfs.runtime import RunOptions
from layerfs.runtime.files import hosts_text, resolv_conf_text, write_files


def test_hosts_is_dockers():
    lines = hosts_text(b"box", ["10.0.0.2"], [("db", "10.0.0.3")]).splitlines()
    assert lines[0] == b"127.0.0.1\tlocalhost"
    assert lines[1] == b"::1\tlocalhost ip6-localhost ip6-loopback"
    assert lines[6:] == [b"10.0.0.2\tbox", b"10.0.0.3\tdb"]


def test_loopback_resolvers_are_dropped():
    text = resolv_conf_text(b"nameserver 127.0.0.53\nnameserver ::1\nnameserver 8.8.8.8\nsearch a\nnameserver junk\n")
    assert text.splitlines()[1:] == [b"nameserver 8.8.8.8", b"search a", b"nameserver junk"]


def test_hostname_ends_with_a_newline(tmp_path):
    files = write_files(tmp_path, b"box", RunOptions())
    assert files.hostname.read_bytes() == b"box\n"
    assert files.hosts.stat().st_mode & 0o777 == 0o644
