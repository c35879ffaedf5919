"""Points in time and durations as docker's options take them."""

import time

import pytest

from layerfs.cli.times import parse_duration, parse_moment
from layerfs.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h2m3.5s", 3723.5), ("250ms", 0.25), ("0", 0), ("-5m", -300), (".5s", 0.5), ("1us", 1e-6)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "1x", "s", "1h 2m", "1.2.3s", "h1"])
def test_what_is_no_duration(text):
    with pytest.raises(InvalidInput, match="invalid duration"):
        parse_duration(text)


def test_moments():
    assert parse_moment("1700000000") == 1_700_000_000_000_000_000
    assert parse_moment("1700000000.5") == 1_700_000_000_500_000_000
    assert parse_moment("2026-01-02T13:23:37.123456789Z") % 10**9 == 123456789
    assert parse_moment("2026-01-02T13:23:37Z") == parse_moment("2026-01-02T14:23:37+01:00")
    assert abs(parse_moment("10m") - (time.time_ns() - 600 * 10**9)) < 10**9
    assert parse_moment("2026-01-02") < parse_moment("2026-01-02T13:23")
    with pytest.raises(InvalidInput, match="invalid value for time"):
        parse_moment("yesterday")
