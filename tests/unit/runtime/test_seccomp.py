"""Seccomp profiles: docker's form and conditions, the default one, hostile ones, and what is kept."""

from __future__ import annotations

import json

import pytest

from layerfs.errors import InvalidInput
from layerfs.runtime import seccomp, seccomp_compile, seccomp_default


def resolved(document, machine="x86_64", kernel="6.1.0", capabilities=()):
    return seccomp.resolve(document, machine, kernel, capabilities)


def names(document, **how):
    return {rule.name for rule in resolved(document, **how).rules}


def profile(*rules, **more):
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": list(rules), **more}


def allow(*which, **more):
    return {"names": list(which), "action": "SCMP_ACT_ALLOW", **more}


def test_the_default_follows_the_capabilities():
    default = seccomp_default.document()
    plain, powerful = names(default), names(default, capabilities={"CAP_SYS_ADMIN"})
    assert {"mount", "unshare", "setns", "bpf"} & plain == set() and {"mount", "unshare", "setns"} <= powerful
    assert not {"io_uring_setup", "keyctl", "userfaultfd", "add_key", "kexec_load", "pivot_root"} & (plain | powerful)
    clone3 = {
        caps: [r.action for r in resolved(default, capabilities=caps).rules if r.name == "clone3"]
        for caps in ((), ("CAP_SYS_ADMIN",))
    }
    assert list(clone3.values()) == [[seccomp.error(38)], [seccomp.ALLOW]]


def test_conditions():
    document = profile(
        allow("a", includes={"caps": ["CAP_X", "CAP_Y"]}),
        allow("b", excludes={"caps": ["CAP_X", "CAP_Z"]}),
        allow("c", includes={"arches": ["arm64"]}),
        allow("d", includes={"minKernel": "6.2"}),
        allow("e", excludes={"minKernel": "6.1"}),
        {"name": "f", "action": "SCMP_ACT_ALLOW"},
        {"names": ["g"], "action": "SCMP_ACT_ERRNO"},
    )
    assert names(document, capabilities={"CAP_X"}) == {"f"}
    assert names(document, capabilities={"CAP_X", "CAP_Y"}, kernel="6.10.1") == {"a", "d", "f"}
    assert names(document, machine="aarch64", kernel="4.0") == {"b", "c", "e", "f"}


def test_architectures():
    assert resolved(seccomp_default.document()).architectures == ("X86_64", "X86", "X32")
    assert resolved(profile(architectures=["SCMP_ARCH_X86"])).architectures == ("X86_64", "X86")
    assert resolved(profile()).architectures == ("X86_64",)


def test_several_conditions_on_one_argument_are_alternatives():
    conditions = [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"} for value in (1, 2)]
    assert [len(rule.arguments) for rule in resolved(profile(allow("a", args=conditions))).rules] == [1, 1]
    conditions[1]["index"] = 1
    assert [len(rule.arguments) for rule in resolved(profile(allow("a", args=conditions))).rules] == [2]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"defaultAction": 5},
        {"defaultAction": "SCMP_ACT_NOTIFY"},
        {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": -1},
        profile(listenerPath="/x"),
        profile(flags=["NOSUCH"]),
        profile("x"),
        profile({"names": [5], "action": "SCMP_ACT_ALLOW"}),
        profile({"names": "abc", "action": "SCMP_ACT_ALLOW"}),
        profile(allow("a", args=[{"index": 6, "op": "SCMP_CMP_EQ"}])),
        profile(allow("a", args=[{"value": 1 << 64, "op": "SCMP_CMP_EQ"}])),
        profile(allow("a", args=[{"op": "SCMP_CMP_LIKE"}])),
        profile(allow("a", includes={"minKernel": "new"})),
        profile(allow("a", includes=[1])),
        profile(archMap=[], architectures=[3]),
        profile(archMap=[1], architectures=["SCMP_ARCH_X86"]),
    ],
)
def test_what_is_no_profile_is_told(document):
    with pytest.raises(InvalidInput):
        resolved(document)


@pytest.mark.parametrize("text", ["", "[]", "{", "5", "[" * 100000, "\ud800"])
def test_what_is_no_json_object_is_told(text):
    with pytest.raises(InvalidInput, match="Decoding seccomp profile failed"):
        seccomp.parse(text)


def test_unknown_calls_are_passed_over_and_unknown_architectures_are_not():
    assert seccomp_compile.compile_filter(resolved(profile(allow("read", "nosuchcall"))))
    with pytest.raises(InvalidInput, match="unknown architecture SCMP_ARCH_PDP11"):
        seccomp_compile.compile_filter(resolved(profile(architectures=["SCMP_ARCH_PDP11"])))


def test_the_document_is_json():
    assert json.loads(json.dumps(seccomp_default.document())) == seccomp_default.document()
