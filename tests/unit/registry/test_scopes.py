"""What a token is asked for, when a registry names it in its own way."""

from __future__ import annotations

import pytest

from layerfs.registry.auth import _united


@pytest.mark.parametrize(
    ("scopes", "united"),
    [
        (["repository:a/b:pull,push", "repository:a/b:push,pull"], ["repository:a/b:pull,push"]),
        (
            ["repository:a:pull", "repository:a:push", "repository:b:pull"],
            ["repository:a:pull,push", "repository:b:pull"],
        ),
        (["registry:catalog:*"], ["registry:catalog:*"]),
        (["repository:host:5000/a:pull"], ["repository:host:5000/a:pull"]),
        (["odd"], ["odd"]),
        ([], []),
    ],
)
def test_a_repository_has_one_scope(scopes: list[str], united: list[str]) -> None:
    assert sorted(_united(frozenset(scopes))) == united
