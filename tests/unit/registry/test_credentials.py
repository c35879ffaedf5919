"""Files of credentials, and helpers."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from layerfs.errors import InvalidInput, RegistryError
from layerfs.registry.credentials import AuthFiles, Credential

ANN = Credential("ann", "a:secret")


def _auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "docker/config.json"


@pytest.fixture
def files(file: Path) -> AuthFiles:
    return AuthFiles((file,), file)


def _write(file: Path, document: object) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document))


@pytest.mark.parametrize(
    "key", ["r.example:5000", "https://r.example:5000", "http://r.example:5000/v1/", "r.example:5000/v2/"]
)
def test_dockers_keys_in_all_their_forms(file: Path, files: AuthFiles, key: str) -> None:
    _write(file, {"auths": {key: _auth("ann:a:secret")}})
    assert files.find("r.example:5000") == ANN
    assert files.find("r.example") is None


@pytest.mark.parametrize("key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io"])
def test_docker_io_has_an_old_address(file: Path, files: AuthFiles, key: str) -> None:
    _write(file, {"auths": {key: _auth("ann:a:secret")}})
    assert files.find("docker.io") == ANN


def test_podmans_keys_may_be_for_a_part_of_a_registry(file: Path, files: AuthFiles) -> None:
    _write(file, {"auths": {"r.example/team": _auth("team:1"), "r.example": _auth("all:2")}})
    found = {name: files.find("r.example", name) for name in ("team/app", "team", "teams/app", "")}
    assert {name: one and one.user for name, one in found.items()} == {
        "team/app": "team",
        "team": "team",
        "teams/app": "all",
        "": "all",
    }


def test_files_are_asked_in_their_order(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    _write(second, {"auths": {"r.example": _auth("second:2")}})
    files = AuthFiles((first, second), first)
    assert (files.find("r.example") or ANN).user == "second"
    files.store("r.example", ANN)
    assert files.find("r.example") == ANN


def test_places_are_dockers_and_podmans() -> None:
    files = AuthFiles.of({"XDG_RUNTIME_DIR": "/run/me"}, Path("/home/me"))
    assert files.target == Path("/home/me/.docker/config.json")
    assert Path("/run/me/containers/auth.json") in files.paths
    assert Path("/home/me/.config/containers/auth.json") in files.paths
    assert AuthFiles.of({"DOCKER_CONFIG": "/x"}, Path("/home/me")).target == Path("/x/config.json")
    assert AuthFiles.of({"REGISTRY_AUTH_FILE": "/y"}, Path("/home/me")).paths == (Path("/y"),)


def test_storing_keeps_what_others_have_in_the_file(file: Path, files: AuthFiles) -> None:
    _write(file, {"auths": {"other": _auth("x:y")}, "psFormat": "table"})
    assert files.store("r.example", ANN) == file
    document = json.loads(file.read_text())
    assert (document["psFormat"], set(document["auths"])) == ("table", {"other", "r.example"})
    assert (files.find("r.example"), file.stat().st_mode & 0o777) == (ANN, 0o600)


def test_a_new_file_is_for_its_owner_alone(file: Path, files: AuthFiles) -> None:
    files.store("docker.io", ANN)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(json.loads(file.read_text())["auths"]) == ["https://index.docker.io/v1/"]


def test_forgetting_takes_all_forms_of_the_key(file: Path, files: AuthFiles) -> None:
    _write(file, {"auths": {"https://r.example/v1/": _auth("a:b"), "r.example": _auth("a:b"), "other": {}}})
    assert files.erase("r.example")
    assert list(json.loads(file.read_text())["auths"]) == ["other"]
    assert not files.erase("r.example")


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"r.example": {"auth": "%%%"}}}', '"x"'])
def test_bad_files_are_said_with_their_name(file: Path, files: AuthFiles, text: str) -> None:
    file.parent.mkdir()
    file.write_text(text)
    with pytest.raises(InvalidInput, match=r"config\.json"):
        files.find("r.example")


def test_a_file_of_other_shapes_has_nothing(file: Path, files: AuthFiles) -> None:
    _write(file, {"auths": {"r.example": 1, "x": None}, "credHelpers": [], "credsStore": 3})
    assert files.find("r.example") is None


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(ANN)


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """docker-credential-box: keeps one registry's credential in a file."""
    place = tmp_path / "bin"
    place.mkdir()
    program = place / "docker-credential-box"
    program.write_text(
        f"#!/bin/sh\ncd {place}\nread -r line || true\ncase $1 in\n"
        'store) echo "$line" >kept;;\nerase) rm kept;;\n'
        'get) cat kept 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; };;\nesac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    return place


@pytest.mark.parametrize("settings", [{"credsStore": "box"}, {"credHelpers": {"r.example": "box"}}])
def test_helpers_keep_the_secret(file: Path, files: AuthFiles, helper: Path, settings: dict[str, object]) -> None:
    _write(file, settings)
    assert files.find("r.example") is None
    assert files.store("r.example", ANN) is None
    assert "secret" not in file.read_text()
    assert files.find("r.example") == ANN
    assert files.erase("r.example")
    assert files.find("r.example") is None


def test_a_helper_may_give_an_identity_token(file: Path, files: AuthFiles, helper: Path) -> None:
    _write(file, {"credsStore": "box"})
    (helper / "kept").write_text('{"Username": "<token>", "Secret": "refresh"}')
    assert files.find("r.example") == Credential("", "", "refresh")


@pytest.mark.parametrize("name", ["none", "../x", "a b", ""])
def test_a_helper_that_is_not_there_is_said(file: Path, files: AuthFiles, name: str) -> None:
    _write(file, {"credHelpers": {"r.example": name or "-"}})
    with pytest.raises((RegistryError, InvalidInput), match=r"helper|executable file not found"):
        files.find("r.example")


def test_a_helper_that_talks_nonsense_is_said(file: Path, files: AuthFiles, helper: Path) -> None:
    _write(file, {"credsStore": "box"})
    (helper / "kept").write_text("[]")
    with pytest.raises(RegistryError, match="gave no user and secret"):
        files.find("r.example")
