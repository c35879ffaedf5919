"""Running containers; private part of layerfs, see docs/architecture.md.

    run(rootfs, config, options)  ->  RunResult

`plan` turns an image's config and the options into a RunSpec (plain data), the helper program `layerfs-run` makes it
true, `Process` is what runs. Layer by layer: options, plan, spec, wire, helper, process, communicate, run.
"""

from layerfs.runtime.options import Bind, RunOptions, Tmpfs
from layerfs.runtime.process import Process, RunResult, start
from layerfs.runtime.run import DEVNULL, PIPE, run
from layerfs.runtime.spec import RunSpec

__all__ = ["DEVNULL", "PIPE", "Bind", "Process", "RunOptions", "RunResult", "RunSpec", "Tmpfs", "run", "start"]
