"""Scopes: what the corpus does not say of ARG, ENV and the image's environment."""

from __future__ import annotations

import pytest

from layerfs.build.parse import parse
from layerfs.build.scope import Globals, proxies
from layerfs.build.stages import plan
from layerfs.errors import InvalidDockerfile
from layerfs.oci import Platform

ARM = Platform("linux", "arm", "v7")
AMD = Platform("linux", "amd64")


def test_the_images_environment_is_there_and_path_always() -> None:
    scope = plan(parse("FROM a\n")).globals.enter(["A=1", "B"])
    assert {"A": "1", "B": ""}.items() <= scope.values.items()
    assert scope.values["PATH"].startswith("/usr/local/sbin:")


def test_the_images_own_path_stays() -> None:
    assert plan(parse("FROM a\n")).globals.enter(["PATH=/x"]).environment == ("PATH=/x",)


def test_the_platform_arguments_are_of_the_target_and_the_builder() -> None:
    values = Globals.of(parse("FROM a\n"), {}, target=ARM, build=AMD).values
    assert values["TARGETPLATFORM"] == "linux/arm/v7"
    assert (values["TARGETVARIANT"], values["BUILDPLATFORM"], values["BUILDVARIANT"]) == ("v7", "linux/amd64", "")


def test_a_build_argument_overrides_a_predefined_one() -> None:
    assert Globals.of(parse("FROM a\n"), {"TARGETARCH": "x"}, target=ARM).values["TARGETARCH"] == "x"


def test_proxies_come_in_both_casings() -> None:
    given = proxies({"http_proxy": "p", "NO_PROXY": "n", "OTHER": "o"})
    assert given == (("HTTP_PROXY", "p"), ("NO_PROXY", "n"), ("http_proxy", "p"), ("no_proxy", "n"))


def test_variables_that_grow_line_by_line_are_bounded() -> None:
    text = "FROM scratch\nENV A=" + "a" * 1000 + "\n" + "ENV A=$A$A$A$A\n" * 40
    scope = plan(parse(text)).globals.enter()
    with pytest.raises(InvalidDockerfile, match="larger than"):
        for instruction in plan(parse(text)).stages[0].instructions:
            _, scope = scope.step(instruction)


def test_many_large_variables_are_bounded_together() -> None:
    text = "FROM scratch\nENV A=" + "a" * 60_000 + "\n" + "".join(f"ENV B{n}=$A$A$A$A$A$A$A$A\n" for n in range(60))
    scope = plan(parse(text)).globals.enter()
    with pytest.raises(InvalidDockerfile, match="together"):
        for instruction in plan(parse(text)).stages[0].instructions:
            _, scope = scope.step(instruction)
