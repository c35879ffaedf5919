"""Public test suites against a layerfs mount. Bring a checkout of the suite, built by its own rules; run as root.

    suites.py pjdfstest CHECKOUT [FILE...]                  pjd/pjdfstest: its .t files, each in a directory of its own
    suites.py unionmount CHECKOUT [--layers N] [TEST...]    amir73il/unionmount-testsuite, one run for each test
                          [-- --verify --ts=1 ...]
    suites.py in -- COMMAND...                              anything else (LTP, fsx, fsstress): COMMAND in a fresh mount

`--engine` chooses the engine; `--off no_passthrough,...` switches features of the native one off (see
layerfs.snapshot.native.SWITCHES). `--lower`: work in a directory that comes from the image. All files are made
below `--scratch`, and go at the end. Exit status 1: something failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from layerfs.digest import DiffID
from layerfs.layer.commit import commit_layer
from layerfs.layer.merged import merged_tree
from layerfs.snapshot.mounting import Writable, mount_tree
from layerfs.snapshot.native import start_native
from layerfs.snapshot.settle import settle
from layerfs.store.root import StoreRoot


def mount(target: Path, options: dict[str, str], engine: str, off: list[str]) -> None:
    """Options as overlayfs's; the lower directories, in its format, become layers of a store beside `workdir`."""
    upper, work = Path(options["upperdir"]).resolve(), Path(options["workdir"]).resolve()
    with StoreRoot.open(work.parent / ".store") as root:
        layers: list[DiffID] = []
        with root.leases.acquire("suites") as lease:
            for lower in reversed(options["lowerdir"].split(":")):
                layer = commit_layer(root, Path(lower).resolve(), merged_tree(root, layers), lease=lease)
                layers += [layer.diff_id] if layer else []
        tree = merged_tree(root, layers)
        if not off:
            writable = Writable(str(work.parent), upper, work)
            mount_tree(root, tree, engine=engine, target=target, writable=writable, read_only="ro" in options)
            return
        settle(tree, upper, work)
        orders = {name: str(root.path / name) for name in ("packs", "objects")}
        orders |= {"upper": str(upper), "work": str(work), "name": "layerfs"}
        start_native(orders | {"tree": str(tree.path), "target": str(target)}, off)


def mount_command(words: list[str]) -> int:
    """What mount(8) runs for `-t fuse.PROGRAM`."""
    given = [part.partition("=") for at, word in enumerate(words) if word == "-o" for part in words[at + 1].split(",")]
    off = [switch for switch in os.environ["SUITES_OFF"].split(",") if switch]
    mount(Path(words[1]).resolve(), {key: value for key, _, value in given}, os.environ["SUITES_ENGINE"], off)
    return 0


def in_mount(arguments: argparse.Namespace, act: Callable[[argparse.Namespace, Path], bool]) -> bool:
    """`act` in a fresh mount over an image with one directory, `lower`."""
    place = arguments.scratch
    for name in ("low/lower", "upper", "work", "m"):
        (place / name).mkdir(parents=True)
    options = {"lowerdir": str(place / "low"), "upperdir": str(place / "upper"), "workdir": str(place / "work")}
    mount(place / "m", options, arguments.engine, arguments.off)
    try:
        return act(arguments, place / "m" / ("lower" if arguments.lower else "."))
    finally:
        subprocess.run(["umount", place / "m"], check=True)


def pjdfstest(arguments: argparse.Namespace, root: Path) -> bool:
    tests = arguments.checkout.resolve() / "tests"
    files = [tests / name for name in arguments.tests] or sorted(tests.rglob("*.t"))
    good = bad = todo = 0
    for number, path in enumerate(files):
        folder = root / f"pjd{number}"
        folder.mkdir()
        done = subprocess.run(["sh", path], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        lines = re.findall(rb"^(?:not )?ok \d+.*$", done.stdout, re.M)
        failed = [line for line in lines if line.startswith(b"not")]
        excused = [line for line in failed if b"# TODO" in line]
        plan = re.search(rb"^1\.\.(\d+)", done.stdout, re.M)
        broken = not plan or int(plan[1]) != len(lines)
        good, todo = good + len(lines) - len(failed), todo + len(excused)
        bad += len(failed) - len(excused) + broken
        for line in [*(set(failed) - set(excused)), *([b"bad plan"] if broken else [])]:
            print(path.relative_to(tests), line.decode(errors="replace")[:200])
    print(f"pjdfstest: {good} ok, {bad} failed, {todo} failed as Linux does (TODO)")
    return not bad


def run(arguments: argparse.Namespace, root: Path) -> bool:
    return subprocess.run(arguments.tests, cwd=root, check=False).returncode == 0


def unionmount(arguments: argparse.Namespace) -> bool:
    program = arguments.scratch / "mounter"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).resolve()} mount "$@"\n')
    program.chmod(0o755)
    known = re.findall(r'^    "([a-z0-9-]+)"', (arguments.checkout / "run").read_text(), re.M)
    known += ["rename-dir", "rename-empty-dir", "rename-pop-dir", "rename-move-dir"]
    tests = [word for word in arguments.tests if not word.startswith("-")] or list(dict.fromkeys(known))
    flags = ["--ov" + (f"={arguments.layers}" if arguments.layers else ""), f"--fuse={program}", "--samefs"]
    flags += [word for word in arguments.tests if word.startswith("-")]
    base = arguments.scratch / "base"
    environment = os.environ | {"UNIONMOUNT_BASEDIR": str(base), "SUITES_ENGINE": arguments.engine}
    environment |= {"SUITES_OFF": ",".join(arguments.off), "PYTHONDONTWRITEBYTECODE": "1"}
    failed = 0
    for test in tests:
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()
        command = ["unshare", "-m", "--propagation", "private", sys.executable, "./run", *flags, test]
        done = subprocess.run(command, cwd=arguments.checkout, env=environment, capture_output=True, check=False)
        if done.returncode:
            failed += 1
            print("FAIL", test, b" ".join((done.stdout + done.stderr).split(b"\n")[-3:]).decode(errors="replace"))
    print(f"unionmount-testsuite: {len(tests) - failed} of {len(tests)}")
    return not failed


def main() -> int:
    if sys.argv[1:2] == ["mount"]:
        return mount_command(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="native")
    parser.add_argument("--off", default="", help="features of the native engine to do without, by commas")
    parser.add_argument("--lower", action="store_true", help="in a directory of the image, not in the root")
    parser.add_argument("--scratch", type=Path, help="where all files are made (default: a temporary directory)")
    parser.add_argument("--layers", type=int, help="unionmount: rotate the upper down up to so many times")
    parser.add_argument("suite", choices=["pjdfstest", "unionmount", "in"])
    parser.add_argument("tests", nargs="*", metavar="CHECKOUT [TEST...] | COMMAND...")
    arguments = parser.parse_args()
    arguments.off = [switch for switch in arguments.off.split(",") if switch]
    if not arguments.tests:
        parser.error("which checkout or command?")
    if arguments.suite != "in":
        arguments.checkout, arguments.tests = Path(arguments.tests[0]), arguments.tests[1:]
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        arguments.scratch = Path(scratch)
        arguments.scratch.chmod(0o755)
        if arguments.suite == "unionmount":
            return int(not unionmount(arguments))
        return int(not in_mount(arguments, pjdfstest if arguments.suite == "pjdfstest" else run))


if __name__ == "__main__":
    sys.exit(main())
