"""The filter at work: single system calls, of 64 and of 32 bits, in containers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess

import pytest

from layerfs.runtime import seccomp, seccomp_default
from layerfs.runtime.capabilities import NAMES, choose
from layerfs.runtime.seccomp_compile import compile_filter

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers of x86-64")
# prints the error number (0: none) of each `number,arguments...`; `i` before it: by the 32-bit door
PROGRAM = r"""
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
static long old(long n, long a, long b, long c) {
  long r;
  __asm__ volatile("int $0x80" : "=a"(r) : "a"(n), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
  return r;
}
int main(int count, char **words) {
  for (int i = 1; i < count; i++) {
    long v[7] = {0}; int n = 0, narrow = *words[i] == 'i';
    for (char *t = strtok(words[i] + narrow, ","); t && n < 7; t = strtok(NULL, ",")) v[n++] = strtol(t, NULL, 0);
    long r = narrow ? old(v[0], v[1], v[2], v[3]) : syscall(v[0], v[1], v[2], v[3], v[4], v[5], v[6]);
    printf("%ld ", narrow ? (r < 0 ? -r : 0) : (r < 0 ? (long)errno : 0L));
  }
  return 0;
}
"""
EPERM, EFAULT, EINVAL, ENOSYS, EBADF, ENOTSOCK = 1, 14, 22, 38, 9, 88


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if not shutil.which("cc"):
        pytest.skip("needs a C compiler")
    place = tmp_path_factory.mktemp("calls")
    (place / "calls.c").write_text(PROGRAM)
    subprocess.run(["cc", "-static", "-O1", "-o", place / "calls", place / "calls.c"], check=True)
    return place / "calls"


@pytest.fixture
def calls(box, root, program):
    shutil.copy(program, root / "bin/calls")

    def calls(*which, document=None, cap_add=(), **options):
        held = choose(cap_add)
        caps = {f"CAP_{name}" for number, name in enumerate(NAMES) if held >> number & 1}
        document = document or seccomp_default.document()
        code = compile_filter(seccomp.resolve(document, "x86_64", os.uname().release, caps))
        result = box(["/bin/calls", *which], seccomp=code, cap_add=cap_add, **options)
        assert (result.returncode, result.stderr) == (0, b"")
        return [int(word) for word in result.stdout.split()]

    return calls


def test_what_docker_denies_is_eperm(calls):
    denied = {
        "mount": "165,0,0,0,0,0",
        "unshare a user namespace": "272,0x10000000",
        "setns": "308,0,0",
        "clone a user namespace": "56,0x10000011,0,0,0,0",
        "keyctl": "250,0,0,0",
        "bpf": "321,0,0,0",
        "io_uring_setup": "425,1,0",
        "userfaultfd": "323,0",
        "open_by_handle_at": "304,0,0,0",
        "personality": "135,0x400000",
        "socket AF_VSOCK": "41,40,1,0",
        "socket AF_ALG": "41,38,5,0",
        "pivot_root": "155,0,0",
        "lsm_list_modules, newer than the library": "461,0,0,0",
    }
    assert calls(*denied.values()) == [EPERM] * len(denied)


def test_clone3_and_calls_of_tomorrow_are_enosys(calls):
    assert calls("435,0,0", "500", "1000000000") == [ENOSYS] * 3


def test_what_docker_allows_reaches_the_kernel(calls):
    assert calls("0,99,0,1", "41,1,1,0", "135,0xffffffff", "452,-1,0,0,0", "457,0,0,0,0") == [
        EBADF,
        0,
        0,
        EFAULT,
        EFAULT,
    ]


def test_a_capability_opens_its_calls(calls):
    assert calls("165,0,0,0,0,0", "272,0x20000", "435,0,0", cap_add=["SYS_ADMIN"]) == [EFAULT, 0, EINVAL]
    assert calls("165,0,0,0,0,0", "246,0,0,0", cap_add=["SYS_ADMIN"])[1] == EPERM


def test_the_32_bit_door_is_watched(calls):
    if calls("i20", document={"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"]})[0] == ENOSYS:
        pytest.skip("this kernel has no 32-bit calls")
    # getpid, mount, unshare, keyctl, clone3, io_uring_setup, one that is newer than all
    assert calls("i20", "i21,0,0,0", "i310,0x10000000", "i288,0,0,0", "i435,0,0", "i425,1,0", "i500") == [
        *(0, EPERM, EPERM, EPERM, ENOSYS, EPERM, ENOSYS)
    ]


def test_the_x32_door_is_shut(calls):
    assert calls(str(0x40000000 + 165) + ",0,0,0,0,0")[0] in (EPERM, ENOSYS)


def test_no_new_privileges_installs_it_last(calls):
    assert calls("165,0,0,0,0,0", "0,99,0,1", no_new_privileges=True) == [EPERM, EBADF]
    assert calls("272,0x10000000", no_new_privileges=True, user="1000") == [EPERM]


def test_a_profile_of_ones_own(calls):
    document = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["getppid", "mseal"], "action": "SCMP_ACT_ERRNO", "errnoRet": 77},
            {
                "names": ["dup2"],
                "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 1, "value": 0xF0, "valueTwo": 0x10, "op": "SCMP_CMP_MASKED_EQ"}],
            },
        ],
    }
    assert calls("110", "462,0,0,0", "33,99,0x15", "33,99,0x25", document=document) == [77, 77, EPERM, EBADF]


def test_a_killing_profile_kills(box, root, program):
    shutil.copy(program, root / "bin/calls")
    document = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_KILL_PROCESS"}],
    }
    code = compile_filter(seccomp.resolve(document, "x86_64", "6.1", ()))
    assert box(["/bin/calls", "110"], seccomp=code).returncode == 128 + 31
