"""Running containers; private part of layerfs, see docs/architecture.md.

    run(rootfs, config, options)  ->  RunResult

`plan` turns an image's config and the options into a RunSpec (plain data), the helper program `layerfs-run` makes it
true, `Process` is what runs. Layer by layer: options, plan, spec, wire, helper, process, communicate, foreground.
Names are loaded when they are first used.
"""

from __future__ import annotations

from layerfs._lazy import TYPE_CHECKING, loader

if TYPE_CHECKING:
    from layerfs.runtime.foreground import run
    from layerfs.runtime.options import Bind, RunOptions, Tmpfs
    from layerfs.runtime.process import Process, RunResult, start
    from layerfs.runtime.spec import RunSpec

PIPE, DEVNULL = -1, -3  # subprocess's numbers: a stream to be captured; one that is empty, or thrown away

__getattr__ = loader(
    __name__,
    {
        "Bind": "options",
        "Process": "process",
        "RunOptions": "options",
        "RunResult": "process",
        "RunSpec": "spec",
        "Tmpfs": "options",
        "run": "foreground",
        "start": "process",
    },
)


def __dir__() -> list[str]:
    return __all__


__all__ = ["Bind", "Process", "RunOptions", "RunResult", "RunSpec", "Tmpfs", "run", "start"]
