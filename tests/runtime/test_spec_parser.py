"""The helper's reader of specs, built with sanitizers and fed with damaged ones. It only reads: nothing is started."""

import random
import struct
import subprocess
from pathlib import Path

import pytest

from layerfs.runtime import wire
from layerfs.runtime.options import RunOptions
from layerfs.runtime.plan import plan

NATIVE = Path(__file__).resolve().parents[2] / "layerfs_native"
MAIN = """
#include <fcntl.h>
#include <stdio.h>
#include "../runtime/run.h"
int main(int count, char **names)
{
	for (int i = 1; i < count; i++) {
		struct lfs_spec spec;
		struct lfs_failure failure = { 0 };
		int fd = open(names[i], O_RDONLY);
		int rc = lfs_spec_read(fd, &spec, &failure);
		size_t sum = spec.argument_count + spec.step_count;
		for (size_t k = 0; k < spec.step_count; k++)
			sum += (size_t)snprintf(NULL, 0, "%s%s", spec.steps[k].target, spec.steps[k].options);
		for (char **word = spec.arguments; word && *word; word++)
			sum += (size_t)snprintf(NULL, 0, "%s", *word);
		for (size_t k = 0; k < spec.group_count; k++)
			sum += spec.groups[k];
		printf("%d %zu\\n", rc, sum);
		lfs_spec_free(&spec);
		close(fd);
	}
	return 0;
}
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    place = tmp_path_factory.mktemp("reader")
    (place / "main.c").write_text(MAIN)
    command = ["cc", "-std=gnu11", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command += [
        f"-I{NATIVE}/include",
        str(place / "main.c"),
        str(NATIVE / "runtime/spec.c"),
        "-o",
        str(place / "reader"),
    ]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs a C compiler with sanitizers")

    def read(specs):
        names = []
        for number, data in enumerate(specs):
            (place / f"{number}").write_bytes(data)
            names.append(place / f"{number}")
        done = subprocess.run([place / "reader", *names], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return [int(line.split()[0]) for line in done.stdout.splitlines()]

    return read


@pytest.fixture
def good(tmp_path):
    return wire.encode(plan(tmp_path, {}, RunOptions(command=["echo", "x"], seccomp=bytes(16)), None))


def test_a_good_spec_is_read(reader, good):
    assert reader([good]) == [0]


def test_every_truncation_is_refused_or_still_whole(reader, good):
    results = reader([good[:size] for size in range(0, len(good), 7)])
    assert results[:20] == [-74] * 20  # EBADMSG


def test_damaged_specs_are_read_without_a_fault(reader, good):
    dice = random.Random(4)
    specs = []
    for _ in range(400):
        data = bytearray(good)
        for _ in range(dice.randint(1, 8)):
            data[dice.randrange(len(data))] = dice.choice((0, 1, 0x7F, 0xFF, dice.randrange(256)))
        specs.append(bytes(data))
    assert len(reader(specs)) == 400


@pytest.mark.parametrize("namespaces", [0, 0x00020000, 0x20000000, 0x00020000 | 0x20000000, 0x7E020000])
def test_a_spec_that_would_act_on_the_host_is_refused(reader, good, namespaces):
    at = good.index(struct.pack("<HI", wire.NAMESPACES, 4)) + 6
    assert reader([good[:at] + struct.pack("<I", namespaces) + good[at + 4 :]]) == [-74]


def test_the_largest_spec_is_bounded(reader, good):
    assert reader([good + bytes(wire.SPEC_MAX)]) == [-7]  # E2BIG
