"""Fuzzes the C readers of tars and trees, and the FUSE server's requests, with libFuzzer under address and undefined
sanitizers.

    fuzz.py [SECONDS [TARGET...]]      60 seconds each unless said otherwise; two at a time

Corpora grow in build/fuzz/TARGET/corpus, from the tests' layers as seeds; an input that fails is put beside and named.
The exit status is 1 when one was found.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
NATIVE = PROJECT / "layerfs_native"
PLACE = PROJECT / "build" / "fuzz"
TARGETS = {  # name -> longest input
    "fuzz_tar": 200_000,  # layers into the tar reader
    "fuzz_layers": 4096,  # any layers written, verified, remapped and merged
    "fuzz_image": 4096,  # damaged trees into all that reads trees
    "fuzz_requests": 4096,  # any requests into the native engine's server
}
TREE_READER = ("error", "erofs_directory", "erofs_read", "erofs_xattr")  # as setup.py
SMALL = ["-DLFS_BATCH_BYTES=16384u", "-DLFS_MEDIUM_MAX=163840u"]
COMPILE = ["clang", *SMALL, "-std=gnu11", "-g", "-O1", "-pthread", f"-I{NATIVE / 'include'}"]
SANITIZE = "address,undefined"


def processors() -> int:
    return len(os.sched_getaffinity(0))


def compile_part(part: str) -> list[str]:
    """The object files of a part of the C sources, instrumented; without its main program."""
    folder = PLACE / part
    folder.mkdir(parents=True, exist_ok=True)
    sources = sorted(source for source in NATIVE.glob(f"{part}/*.c") if source.name != "main.c")

    def one(source: Path) -> str:
        out = folder / f"{source.stem}.o"
        command = [*COMPILE, f"-fsanitize=fuzzer-no-link,{SANITIZE}", "-fno-sanitize-recover=undefined"]
        subprocess.run([*command, "-c", source, "-o", out], check=True)
        return str(out)

    with ThreadPoolExecutor(processors()) as pool:
        return list(pool.map(one, sources))


def link(target: str, core: list[str]) -> Path:
    objects = core
    if target == "fuzz_requests":  # the server has a part of core, and names of its own for the rest
        objects = [*compile_part("fuse"), *(name for name in core if Path(name).stem in TREE_READER)]
    out = PLACE / target / target
    out.parent.mkdir(exist_ok=True)
    flags = [f"-fsanitize=fuzzer,{SANITIZE}", "-fno-sanitize-recover=undefined"]
    subprocess.run([*COMPILE, *flags, NATIVE / "fuzz" / f"{target}.c", *objects, "-o", out], check=True)
    return out


def seed(target: str) -> Path:
    """The target's corpus, with the tests' layers when it reads tars: two bytes that choose a mode come first."""
    corpus = PLACE / target / "corpus"
    corpus.mkdir(exist_ok=True)
    if target == "fuzz_tar":
        sys.path.insert(0, str(PROJECT))
        from tests.golden.layers import REFUSED, TREES

        layers = [layer for stack in (*TREES.values(), *REFUSED.values()) for layer in stack]
        for number, layer in enumerate(layers):
            (corpus / f"seed-{number}").write_bytes(
                bytes([number * 37 % 256, number % 2]) + layer[: TARGETS[target] - 2]
            )
    elif target == "fuzz_requests":
        sys.path.insert(0, str(PROJECT))
        from tests.native.fuse_requests import make_store, sequences

        make_store(PLACE / target / "store")
        for number, sequence in enumerate(sequences()):
            (corpus / f"seed-{number}").write_bytes(sequence)
    elif not any(corpus.iterdir()):
        for number in range(16):
            (corpus / f"seed-{number}").write_bytes(bytes((number * i * 7 + i) % 256 for i in range(40 * number + 20)))
    return corpus


def fuzz(program: Path, corpus: Path, seconds: int) -> bool:
    """Runs one fuzzer; whether it found nothing."""
    target = program.name
    options = [f"-max_total_time={seconds}", f"-max_len={TARGETS[target]}", "-timeout=25", "-rss_limit_mb=1500"]
    log = program.parent / "log"
    with log.open("wb") as file:
        command = [program, corpus, *options, f"-artifact_prefix={program.parent}/", "-print_final_stats=1"]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=program.parent)
    lines = log.read_text(errors="replace").splitlines()
    if done.returncode:
        print(f"{target}: FAILED", *lines[-60:], sep="\n", flush=True)
    else:
        runs = next((line.split()[-1] for line in lines if "number_of_executed_units" in line), "?")
        print(f"{target}: {runs} inputs in {seconds} s, nothing found", flush=True)
    return done.returncode == 0


def main() -> int:
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    core = compile_part("core")
    programs = [link(target, core) for target in sys.argv[2:] or TARGETS]
    corpora = [seed(program.name) for program in programs]  # before there are threads: it imports
    with ThreadPoolExecutor(min(2, processors())) as pool:
        results = list(pool.map(lambda program, corpus: fuzz(program, corpus, seconds), programs, corpora))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
