"""What long work tells its caller."""

from __future__ import annotations

from collections.abc import Callable

from layerfs._record import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """One step. `kind`: what is done ("read", "write", "pack", ...); `id`: to what; bytes unless said otherwise."""

    kind: str
    id: str
    current: int
    total: int | None = None


Report = Callable[[Progress], object]
