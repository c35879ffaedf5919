"""Errors carry an errno, read as one line, and survive pickling."""

from __future__ import annotations

import errno
import inspect
import pickle

import pytest

from layerfs import errors

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.LayerfsError)]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_an_errno_and_one_line(kind: type[errors.LayerfsError]) -> None:
    error = kind("it failed", path=b"/a/\xff")
    assert error.errno in errno.errorcode
    assert str(error).startswith("it failed: /a/")
    assert "\n" not in str(error)


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_survives_a_trip_between_processes(kind: type[errors.LayerfsError]) -> None:
    error = pickle.loads(pickle.dumps(kind("no", path="/x")))
    assert (type(error), error.message, error.filename) == (kind, "no", "/x")


def test_not_found_is_the_builtin_too() -> None:
    assert issubclass(errors.ImageNotFound, FileNotFoundError)


def test_the_tree_in_the_docstring_is_complete() -> None:
    assert all(c.__name__ in (errors.__doc__ or "") for c in CLASSES)
