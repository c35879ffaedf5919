"""Something that a thread of its own does meanwhile, mostly waiting for the kernel."""

from __future__ import annotations

import threading
from collections.abc import Callable

from layerfs._lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeVar

    Result = TypeVar("Result")


def begin(action: Callable[[], Result]) -> Callable[[], Result]:
    """Starts it; what is returned waits for its end, and returns or raises as it does."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            results.append(action())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, daemon=True)
    thread.start()

    def wait() -> Result:
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    return wait


__all__ = ["begin"]
