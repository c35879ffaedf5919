"""Restart policies, logs and health checks in docker's forms."""

import pytest

from layerfs.engine.lifesettings import merge_health, parse_bytes, parse_log, parse_restart, probe_of
from layerfs.engine.settings import Settings
from layerfs.errors import InvalidInput
from layerfs.oci import ContainerConfig
from layerfs.oci.config import Healthcheck
from layerfs.runtime.spec import Restart


def test_restart_policies():
    assert parse_restart("on-failure:5") == (Restart.ON_FAILURE, 5)
    assert parse_restart("unless-stopped") == (Restart.UNLESS_STOPPED, 0)
    assert parse_restart("no") == (Restart.NO, 0)


@pytest.mark.parametrize("text", ["sometimes", "always:3", "on-failure:x", "on-failure:-1"])
def test_wrong_restart_policies(text):
    with pytest.raises(InvalidInput, match="invalid restart policy"):
        parse_restart(text)


def test_sizes_and_log_options():
    assert [parse_bytes(text) for text in ("10", "1k", "1.5m", "2gb", "1KiB")] == [10, 1024, 3 << 19, 2 << 30, 1024]
    assert parse_log("json-file", {"max-size": "1m", "max-file": "3"}) == (1 << 20, 3)
    assert parse_log("none", {}) == (0, 1)
    for driver, options in (("syslog", {}), ("json-file", {"odd": "1"}), ("json-file", {"max-size": "x"})):
        with pytest.raises(InvalidInput):
            parse_log(driver, options)


def test_health_checks_are_merged():
    image = Healthcheck(("CMD", "look"), interval=10**9)
    merged = merge_health(Settings(health_retries=7, health_timeout=0.5), image)
    assert merged == Healthcheck(("CMD", "look"), interval=10**9, timeout=5 * 10**8, retries=7)
    assert merge_health(Settings(health_cmd="x"), image).test == ("CMD-SHELL", "x")
    assert merge_health(Settings(no_healthcheck=True), image).test == ("NONE",)
    assert merge_health(Settings(), None) is None
    with pytest.raises(InvalidInput, match="conflicts"):
        merge_health(Settings(no_healthcheck=True, health_cmd="x"), image)


def test_probes():
    assert probe_of(ContainerConfig()) is None
    assert probe_of(ContainerConfig(healthcheck=Healthcheck(("NONE",)))) is None
    probe = probe_of(ContainerConfig(healthcheck=Healthcheck(("CMD-SHELL", "a b"), interval=2 * 10**9)))
    assert (probe.argv, probe.interval, probe.retries) == ((b"/bin/sh", b"-c", b"a b"), 2000, 3)
    shell = ContainerConfig(healthcheck=Healthcheck(("CMD-SHELL", "a")), shell=("/bin/ash", "-e", "-c"))
    assert probe_of(shell).argv == (b"/bin/ash", b"-e", b"-c", b"a")
