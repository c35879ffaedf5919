"""How the long random lives are run by hypothesis."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings


def lives(steps: int, in_each: int) -> settings:
    """About `steps` steps, so many in each life. `LAYERFS_NO_SHRINK`: a failure is told as it was found."""
    return settings(
        max_examples=max(2, steps // in_each),
        stateful_step_count=in_each,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, *([] if os.environ.get("LAYERFS_NO_SHRINK") else [Phase.shrink])],
    )
