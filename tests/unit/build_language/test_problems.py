"""Suggestions and quoting."""

from __future__ import annotations

import pickle

import pytest

from layerfs.build.parse import parse
from layerfs.build.problems import nearest, quote
from layerfs.errors import InvalidDockerfile


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("runn", "run"),
        ("RNU", "RUN"),
        ("Copi", "COPY"),
        ("entrypiont", "entrypoint"),
        ("XY", ""),
        ("RUN", ""),
        ("", ""),
    ],
)
def test_the_nearest_word_is_meant(word: str, meant: str) -> None:
    assert nearest(word, ("RUN", "COPY", "ENTRYPOINT"), fold=True) == meant


def test_very_long_words_are_not_compared() -> None:
    assert nearest("a" * 10**6, ("a" * 10**6 + "b",)) == ""


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ('a"b\\', '"a\\"b\\\\"'),
        ("\n\t\x01", '"\\n\\t\\x01"'),
        ("é日", '"é日"'),
        ("\u200b\U000e0001", '"\\u200b\\U000e0001"'),
    ],
)
def test_text_is_quoted_as_go_does(text: str, quoted: str) -> None:
    assert quote(text) == quoted


def test_an_error_keeps_its_place_between_processes() -> None:
    with pytest.raises(InvalidDockerfile) as caught:
        parse("FROM a\nNOPE\n")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (str(error), error.line, error.excerpt) == (str(caught.value), 2, caught.value.excerpt)
