"""What all tests share: the root marker, places, and a check that nothing stays mounted."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from layerfs.snapshot import native
from tests import workplace

PROJECT = Path(__file__).resolve().parents[1]

settings.register_profile(  # what fails, fails each time; who asks for more steps gets other examples each time
    "layerfs",
    derandomize="LAYERFS_STEPS" not in os.environ,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("layerfs")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # by a shell in the background; children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # by nohup: a handler, which programs do not inherit
        signal.signal(signal.SIGHUP, lambda number, frame: None)
    os.environ.setdefault("LAYERFS_NETWORK", "none")  # of containers whose network is not what is tested
    if server := os.environ.get("LAYERFS_TEST_SERVER"):  # a sanitizer build
        native.SERVER = Path(server)
    if not config.option.basetemp and not hasattr(config, "workerinput"):
        place = workplace.fresh()
        config.option.basetemp = str(workplace.use(place))
        config.add_cleanup(lambda: workplace.clear(place))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: mounts, devices and namespaces"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared suites and archives beside the project."""
    place = PROJECT.parent / "shared"
    if not place.is_dir():
        pytest.skip("no shared/ beside the project: public suites and archives are not here")
    return place


@pytest.fixture(autouse=True)
def nothing_stays(tmp_path: Path) -> Iterator[None]:
    """A test that leaves a mount below its tmp_path fails; the mount is detached. What it wrote is removed."""
    yield
    if left := workplace.remove(tmp_path):
        pytest.fail(f"left mounted: {left}")
