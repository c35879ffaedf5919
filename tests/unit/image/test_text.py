"""Sizes and ages as docker prints them."""

import pytest

from layerfs.image.text import ellipsis, history_ago, human_ago, human_duration, human_size

HOUR, DAY = 3600, 86400


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (5, "5B"),
        (999, "999B"),
        (1000, "1kB"),
        (1_982_612, "1.98MB"),
        (1_230_000_000, "1.23GB"),
        (999_999, "1MB"),
        (12_345, "12.3kB"),
        (10**30, "1e+06YB"),
    ],
)
def test_sizes_have_three_digits_and_decimal_units(size: int, text: str) -> None:
    assert human_size(size) == text


def test_system_df_prints_four_digits() -> None:
    assert (human_size(1_982_612, 4), human_size(10_730, 4)) == ("1.983MB", "10.73kB")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "Less than a second"),
        (-9, "Less than a second"),
        (1.9, "1 second"),
        (59.9, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (59 * 60 + 59, "59 minutes"),
        (HOUR, "About an hour"),
        (1.4 * HOUR, "About an hour"),
        (1.5 * HOUR, "2 hours"),
        (47.4 * HOUR, "47 hours"),
        (48 * HOUR, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (729 * DAY, "24 months"),
        (730 * DAY, "2 years"),
    ],
)
def test_ages_change_their_unit_where_dockers_do(seconds: float, text: str) -> None:
    assert human_duration(seconds) == text


def test_a_time_that_is_not_set_is_not_available() -> None:
    assert human_ago(None) == history_ago(None) == "N/A"
    assert human_ago(10**9, 3 * 10**9) == "2 seconds ago"


def test_history_takes_the_epoch_for_not_set_and_images_do_not() -> None:
    now = 1_795_000_000 * 10**9
    assert history_ago(0) == history_ago(-5) == history_ago(10**9) == "N/A"
    assert human_ago(0, now) == human_ago(10**9, now) == "56 years ago"
    assert history_ago(2 * 10**9, now) == "56 years ago"


def test_a_cut_text_ends_in_an_ellipsis_within_the_width() -> None:
    assert ellipsis("x" * 46, 45) == "x" * 44 + "…" and ellipsis("x" * 45, 45) == "x" * 45
