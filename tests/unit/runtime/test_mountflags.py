"""`-v` and `--mount`: docker's forms and words."""

from __future__ import annotations

import pytest

from layerfs.errors import InvalidInput
from layerfs.runtime.mountflags import Wanted, parse_mount, parse_volume


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("/a:/b", Wanted("bind", b"/b", "/a", make_source=True)),
        ("/a:/b:ro,rslave", Wanted("bind", b"/b", "/a", True, "rslave", make_source=True)),
        ("data:/b/../c:z", Wanted("volume", b"/c", "data")),
        ("data:/b:nocopy", Wanted("volume", b"/b", "data", copy=False)),
        ("/b", Wanted("volume", b"/b")),
    ],
)
def test_forms_of_v(text, wanted):
    assert parse_volume(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid volume specification"),
        (":/b", "invalid volume specification"),
        ("/a:", "invalid volume specification"),
        ("/a:/b:ro:x", "invalid volume specification"),
        ("/a:/b:sideways", "invalid mode: sideways"),
        ("a/b:/c", "includes invalid characters for a local volume name"),
        ("data:b", "must be an absolute path"),
        ("data:/b:rshared", "has no propagation"),
    ],
)
def test_what_is_no_v(text, message):
    with pytest.raises(InvalidInput, match=message):
        parse_volume(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("type=bind,src=/a,dst=/b,ro", Wanted("bind", b"/b", "/a", True)),
        ("type=bind,source=/a,target=/b,bind-propagation=rshared", Wanted("bind", b"/b", "/a", False, "rshared")),
        ("type=bind,src=/a,dst=/b,bind-nonrecursive", Wanted("bind", b"/b", "/a", recursive=False)),
        ("source=v,target=/b,volume-nocopy=true", Wanted("volume", b"/b", "v", copy=False)),
        ("dst=/b", Wanted("volume", b"/b")),
        (
            "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700",
            Wanted("tmpfs", b"/t", options=("size=1048576", "mode=700")),
        ),
        ('type=bind,"src=/a,b",dst=/c', Wanted("bind", b"/c", "/a,b")),
    ],
)
def test_forms_of_mount(text, wanted):
    assert parse_mount(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "target is required"),
        ("type=bind,src=/a", "target is required"),
        ("type=nfs,dst=/b", "invalid mount type: nfs"),
        ("colour=red,dst=/b", "unexpected key 'colour' in 'colour=red'"),
        ("dst", "must be a key=value pair"),
        ("type=bind,src=a,dst=/b", "mount path must be absolute"),
        ("type=bind,src=/a,dst=/b,tmpfs-size=1m", "cannot mix 'tmpfs-"),
        ("type=tmpfs,src=/a,dst=/b", "cannot have a source"),
        ("src=a/b,dst=/b", "invalid characters"),
        ("src=v,dst=/b,volume-subpath=../x", "invalid volume subpath"),
        ("type=bind,src=/a,dst=/b,bind-propagation=up", "invalid propagation mode: up"),
        ("dst=/b,ro=perhaps", "invalid value for readonly"),
    ],
)
def test_what_is_no_mount(text, message):
    with pytest.raises(InvalidInput, match=message):
        parse_mount(text)
