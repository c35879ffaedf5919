"""What a build tells while it goes on: one record for everything, in the order in which it happens."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

from layerfs._record import asdict, dataclass

Kind = Literal["context", "start", "cached", "output", "done", "failed", "warning", "image", "debug", "note"]


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """`step` numbers the steps in the order they began, from 1; 0 is the build as a whole.

    context: `total` bytes of the context (as its tar would have).
    start: `name` is `[stage 2/5] RUN …`, `text` the instruction as written, `total` the number of all steps.
    cached, done: `layer` has the digest of what it made (empty: nothing), `image` the ID of the image so far when
    intermediate images are kept. failed: `text` says why. `seconds`: since the step began.
    output: `data` of `stream` 1 or 2. `meta`: the step only changes the config. warning: `text`.
    image: the finished `image` and its `name`, one event for each. debug: an `image` of a failed step.
    note: `text` says which cache or source is fetched, or written.
    """

    kind: Kind
    step: int = 0
    name: str = ""
    text: str = ""
    stage: str = ""
    number: int = 0
    total: int = 0
    stream: int = 0
    data: bytes = b""
    layer: str = ""
    image: str = ""
    seconds: float = 0.0
    meta: bool = False

    def document(self) -> dict[str, Any]:
        """For JSON: without what is empty; bytes as text."""
        shown = {name: value for name, value in asdict(self).items() if value}
        if "data" in shown:
            shown["data"] = self.data.decode("utf-8", "replace")
        return shown


Report = Callable[[BuildEvent], object]


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._began
