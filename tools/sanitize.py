"""Builds the C parts with gcc's sanitizers below build/, and runs the tests that use them there.

    sanitize.py [PART...]      all parts unless named; the exit status is 1 when a test fails or a sanitizer reports

    address   the extension with address and undefined
    thread    the extension with thread: the tests that use threads
    helper    layerfs-run with address and undefined
    server    layerfs-fuse with address and undefined: all that tests the native engine
    races     layerfs-fuse with thread: the same
    quick     a short piece of address, helper, server and races, for the test suite

The normal build stays untouched: each workspace has the package as symbolic links beside binaries of its own. Python
itself is built without sanitizers, so their library is loaded first, and leaks (CPython's own) are not looked for.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
LINKED = ("layerfs_native", "tests", "tools", "docs", "setup.py", "pyproject.toml", "README.md", "LICENSE")


@dataclass(frozen=True)
class Part:
    workspace: str
    sanitizers: str
    library: str  # preloaded into the tests' Python; none where only executables are sanitized
    tests: tuple[str, ...]


MONITORED = ("life", "kill", "userns", "oci", "events", "escape")
ADDRESS, THREAD = "address,undefined", "thread"
ENGINE = (
    "tests/conformance",
    "tests/fuse",
    "tests/property/test_union_stateful.py",
    "tests/property/test_native_stateful.py",
    "tests/property/test_native_blocks.py",
)
SHORT = ("tests/conformance/test_copyup.py", "tests/fuse/test_native.py")
PARTS = {
    "address": (Part("address", ADDRESS, "libasan.so", ("tests/native", "tests/unit/layer", "tests/property")),),
    "thread": (
        Part(
            "thread",
            THREAD,
            "libtsan.so",
            (
                "tests/native/test_layer_reader.py",
                "tests/native/test_hashes.py",
                "tests/unit/layer/test_read.py",
                "tests/unit/image/test_load.py",
            ),
        ),
    ),
    "helper": (Part("address", ADDRESS, "", ("tests/runtime", *(f"tests/cli/test_{name}.py" for name in MONITORED))),),
    "server": (
        Part(
            "address",
            ADDRESS,
            "",
            (*ENGINE, "-k", "native or uring or bytes or load or blocks or deltas or (live and not ordinary)"),
        ),
    ),
    "races": (
        Part(
            "thread",
            THREAD,
            "",
            (*ENGINE, "-k", "native or uring or bytes or load or blocks or deltas or (live and not ordinary)"),
        ),
    ),
    "quick": (
        Part("address", ADDRESS, "libasan.so", ("tests/native/test_layer_reader.py",)),
        Part("address", ADDRESS, "", ("tests/runtime/test_spec_parser.py", "tests/runtime/test_exit.py")),
        Part("address", ADDRESS, "", (*SHORT, "-k", "native and not strict and not plain")),
        Part("thread", THREAD, "", ("tests/fuse/test_native.py", "-k", "clients and (default or uring)")),
    ),
}
ALL = ("address", "thread", "helper", "server", "races")


def build(part: Part, place: Path) -> None:
    """Fresh links and binaries in the part's workspace; object files are kept."""
    package = place / "layerfs"
    shutil.rmtree(package, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__", "*.so", "libexec")
    shutil.copytree(PROJECT / "layerfs", package, ignore=ignored, copy_function=os.symlink)
    for name in LINKED:
        if not (place / name).exists():
            (place / name).symlink_to(PROJECT / name)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=place, env={**os.environ, "LAYERFS_SANITIZE": part.sanitizers}, check=True)


def options(target: str) -> dict[str, str]:
    return {
        "ASAN_OPTIONS": f"{target}detect_leaks=0:detect_stack_use_after_return=1:allocator_may_return_null=1",
        "UBSAN_OPTIONS": f"{target}print_stacktrace=1",
        "TSAN_OPTIONS": f"{target}ignore_noninstrumented_modules=1:second_deadlock_stack=1",
    }


def wrap_server(place: Path) -> Path:
    """A script that starts the server with its options. What it reports goes to descriptor 2: it leaves the file system
    behind, and is given no environment by those who start it."""
    words = " ".join(f"{name}={shlex.quote(value)}" for name, value in options("").items())
    program = shlex.quote(str(place / "layerfs/libexec/layerfs-fuse"))
    script = place / "server"
    script.write_text(f"#!/bin/sh\n{words} exec {program} 2>{shlex.quote(str(place))}/reports/server.$$\n")
    script.chmod(0o755)
    return script


def environment(part: Part, place: Path) -> dict[str, str]:
    variables = {
        **options(f"log_path={place}/reports/report:"),
        "PYTHONMALLOC": "malloc",
        "LAYERFS_SANITIZED": part.sanitizers,
        "LAYERFS_TEST_HELPER": str(place / "layerfs/libexec/layerfs-run"),
        "LAYERFS_TEST_SERVER": str(wrap_server(place)),
    }
    if part.library:
        found = subprocess.run(["gcc", f"-print-file-name={part.library}"], capture_output=True, text=True, check=True)
        variables["LD_PRELOAD"] = found.stdout.strip()
    return os.environ | variables


def check(part: Part) -> bool:
    """Builds and tests a part, alone in its workspace; whether all was well."""
    place = PROJECT / "build" / part.workspace
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        build(part, place)
        return run_tests(part, place)


def is_report(file: Path) -> bool:
    """The server's own last words are none."""
    text = file.read_bytes()
    return b"Sanitizer" in text or b"runtime error" in text


def run_tests(part: Part, place: Path) -> bool:
    reports = place / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir()
    # the undefined sanitizer writes to the error stream whatever log_path says, and ends the process: not captured
    pytest = ["pytest", "-q", "-p", "no:benchmark", "--capture=sys"]
    command = ["setarch", "-R", sys.executable, "-m", *pytest, *part.tests]
    where = place if part.library else PROJECT  # a sanitized extension needs the library
    done = subprocess.run(command, cwd=where, env=environment(part, place), stdin=subprocess.DEVNULL)
    found = [report for report in sorted(reports.iterdir()) if is_report(report)]
    for report in found:
        print(f"== {report.relative_to(PROJECT)}\n{report.read_text(errors='replace')}", file=sys.stderr)
    return done.returncode == 0 and not found


def main() -> int:
    parts = [part for name in sys.argv[1:] or ALL for part in PARTS[name]]
    failed = [part for part in parts if not check(part)]
    for part in failed:
        print(f"sanitizers: {part.sanitizers} over {' '.join(part.tests)} failed", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
