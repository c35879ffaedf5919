"""Running containers; private part of layerfs, see docs/architecture.md.

    run(rootfs, config, options)  ->  RunResult

`plan` turns an image's config and the options into a RunSpec (plain data), the helper program `layerfs-run` makes it
true, `Process` is what runs. Layer by layer: options, plan, spec, wire, helper, process, communicate, run.
"""

import subprocess

from layerfs.runtime.options import Bind, RunOptions, Tmpfs
from layerfs.runtime.process import Process, RunResult, start
from layerfs.runtime.run import run
from layerfs.runtime.spec import RunSpec

PIPE = subprocess.PIPE  # a stream to be captured
DEVNULL = subprocess.DEVNULL  # one that is empty, or thrown away

__all__ = ["Bind", "Process", "RunOptions", "RunResult", "RunSpec", "Tmpfs", "run", "start"]
