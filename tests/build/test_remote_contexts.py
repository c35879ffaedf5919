"""Contexts and sources that are git repositories, and URLs."""

from __future__ import annotations

import http.server
import os
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerfs
from layerfs.build.gitsources import Git, GitFailed, GitSource
from layerfs.errors import InvalidInput, NotFound
from tests.build.conftest import Build, Events, read, tree, write_files

WHEN = 1_500_000_000
DOCKERFILE = "FROM scratch\nCOPY . /all/\n"


def git(place: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "t@t" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    dates = {f"GIT_{role}_DATE": f"{WHEN} +0000" for role in ("AUTHOR", "COMMITTER")}
    line = ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *arguments]
    environment = {**os.environ, **who, **dates, "HOME": str(place)}
    return subprocess.run(line, cwd=place, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits, the first with the tag `one` (annotated); a branch `side`."""
    place = write_files(tmp_path / "work", {"Dockerfile": DOCKERFILE, "version": "1", "d/Dockerfile": DOCKERFILE})
    write_files(place, {"d/f": "deep", "d/out ->": "../version", "away ->": "/etc"})
    git(place, "init", "-q")
    (place / "version").chmod(0o755)
    git(place, "add", ".")
    git(place, "commit", "-qm", "1")
    git(place, "tag", "-am", "first", "one")
    git(place, "branch", "side")
    (place / "version").write_text("2")
    git(place, "commit", "-qam", "2")
    git(place, "update-server-info")
    return place


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The temporary directory over http."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def version(store: layerfs.Store, context: str, path: str = "all/version") -> bytes:
    return read(store.build(context), path)


def test_a_repository_is_a_context_at_its_branch_tag_or_commit(store: layerfs.Store, repository: Path) -> None:
    url = f"file://{repository}"
    first, second = git(repository, "rev-parse", "one^{commit}"), git(repository, "rev-parse", "HEAD")
    assert version(store, url) == b"2"
    for ref in ("side", "one", "refs/heads/side", "refs/tags/one", first, first[:9]):
        assert version(store, f"{url}#{ref}") == b"1", ref
    assert version(store, f"{url}#{second}") == b"2"
    assert version(store, f"{url}?branch=side") == b"1"
    assert version(store, f"{url}?tag=one&checksum={first}") == b"1"


def test_a_checkout_has_the_commits_time_modes_and_no_git_directory(store: layerfs.Store, repository: Path) -> None:
    image = store.build(f"file://{repository}")
    found = tree(image)
    assert ".git" not in "".join(found)
    assert found["all/version"][0] & 0o7777 == 0o755
    assert found["all/d/f"][0] & 0o7777 == 0o644
    times = {inode.mtime_ns for path, inode in image.tree().walk() if path.startswith(b"all/")}
    assert times == {WHEN * 10**9}


def test_a_directory_of_a_repository_is_a_context_of_its_own(store: layerfs.Store, repository: Path) -> None:
    image = store.build(f"file://{repository}#main:d")
    assert read(image, "all/f") == b"deep"
    with pytest.raises(NotFound, match='"/out": not found'):
        store.build(f"file://{repository}#main:d", write_dockerfile(repository, "FROM scratch\nCOPY out /x\n"))
    for missing in ("nowhere", "version", "away"):
        with pytest.raises(NotFound, match=f"no directory {missing} in the repository"):
            store.build(f"file://{repository}#main:{missing}")


def write_dockerfile(repository: Path, text: str) -> str:
    """One more in the branch `main`; its name."""
    (repository / "d/Other").write_text(text)
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "other")
    return "Other"


def test_dockerfiles_of_this_machine_do_not_come_into_a_remote_context(store: layerfs.Store, repository: Path) -> None:
    with pytest.raises(NotFound, match=f"open {repository}/d/Dockerfile: no such file"):
        store.build(f"file://{repository}", repository / "d/Dockerfile")


def test_what_is_not_there_is_told(store: layerfs.Store, repository: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not contain ref nothing"):
        store.build(f"file://{repository}#nothing")
    with pytest.raises(NotFound, match="does not contain ref 123456789"):
        store.build(f"file://{repository}#123456789")
    with pytest.raises(GitFailed, match=r"failed to load file://.*/no: git ls-remote: .*"):
        store.build(f"file://{tmp_path}/no")
    with pytest.raises(InvalidInput, match="expected checksum to match"):
        store.build(f"file://{repository}?ref=main&checksum={git(repository, 'rev-parse', 'side')}")


def test_add_of_a_repository(build: Build, repository: Path, served: str) -> None:
    """Over http without git's own server, which can neither be shallow nor give single commits."""
    url = f"{served}/work/.git"
    events = Events()
    image = build(f"FROM scratch\nADD {url}#one /one\nADD --keep-git-dir {url}#main:d /d/\n")
    assert (read(image, "one/version"), read(image, "d/f")) == (b"1", b"deep")
    build(f"FROM scratch\nADD {url}#side /one\n", progress=events)
    assert events.kinds("cached") == [f"ADD {url}#side /one"]  # the same commit
    kept = build(f"FROM scratch\nADD --keep-git-dir --exclude=d {url}#one /\n")
    assert read(kept, ".git/HEAD").decode().strip() == git(repository, "rev-parse", "one^{commit}")
    assert served.encode() in read(kept, ".git/config") and "d/f" not in tree(kept)
    with pytest.raises(InvalidInput, match="expected checksum to match"):
        build(f"FROM scratch\nADD --checksum={'0' * 40} {url}#one /\n")


def test_a_dockerfile_cannot_name_a_repository_of_this_machine(build: Build, repository: Path) -> None:
    with pytest.raises(NotFound, match="not found"):
        build(f"FROM scratch\nADD file://{repository} /x\n")
    source = GitSource.parse(f"file://{repository}", context=True)
    assert source is not None
    with pytest.raises(GitFailed, match="transport 'file' not allowed"):
        Git().resolve(source)


def test_submodules_come_along(store: layerfs.Store, repository: Path, served: str) -> None:
    inner = write_files(repository.parent / "inner", {"part": "of another"})
    for line in (["init", "-q"], ["add", "."], ["commit", "-qm", "1"], ["update-server-info"]):
        git(inner, *line)
    git(repository, "submodule", "--quiet", "add", f"{served}/inner/.git", "sub")
    git(repository, "commit", "-qm", "sub")
    image = store.build(f"file://{repository}")
    assert read(image, "all/sub/part") == b"of another" and "all/sub/.git" not in tree(image)
    assert "all/sub/part" not in tree(store.build(f"file://{repository}?submodules=false"))


def test_named_contexts_may_be_repositories_and_tars(
    build: Build, repository: Path, served: str, tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.add(repository / "version", "inside")
    image = build(
        "FROM scratch\nCOPY --from=repo f /f\nCOPY --from=tar inside /t\n",
        build_contexts={"repo": f"file://{repository}#one:d", "tar": f"{served}/x.tar.gz"},
    )
    assert (read(image, "f"), read(image, "t")) == (b"deep", b"2")


def test_a_url_is_a_tar_or_a_dockerfile(store: layerfs.Store, served: str, tmp_path: Path) -> None:
    write_files(tmp_path / "c", {"Dockerfile": DOCKERFILE, "f": "packed"})
    with tarfile.open(tmp_path / "c.tar.xz", "w:xz") as tar:
        tar.add(tmp_path / "c", ".")
    assert read(store.build(f"{served}/c.tar.xz"), "all/f") == b"packed"
    (tmp_path / "single").write_text("FROM scratch\nLABEL a=single\n")
    assert dict(store.build(f"{served}/single").config.config.labels) == {"a": "single"}
    with pytest.raises(NotFound, match="404"):
        store.build(f"{served}/nothing")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://h/a/b.git#r:s/t", GitSource("https://h/a/b.git", "r", "s/t")),
        ("git@h:a/b.git#r", GitSource("git@h:a/b.git", "r")),
        ("ssh://git@h:22/a", GitSource("ssh://git@h:22/a")),
        ("github.com/a/b#r", GitSource("https://github.com/a/b.git", "r")),
        ("https://h/b.git?branch=x&subdir=y", GitSource("https://h/b.git", "refs/heads/x", "y")),
        ("https://h/b.tar.gz", None),
        ("https://h/b.git.html", None),
        ("git@h", None),
        ("./git@h:x", None),
    ],
)
def test_what_is_a_repository(text: str, wanted: GitSource | None) -> None:
    assert GitSource.parse(text, context=True) == wanted


@pytest.mark.parametrize(
    "text", ["git://h/a#--upload-pack=x", "git://h/a#a b", "https://h/b.git?what=1", "git://h/\x1b#a"]
)
def test_what_is_none_that_can_be_asked_for(text: str) -> None:
    with pytest.raises(InvalidInput):
        GitSource.parse(text)


def test_tokens_go_to_the_repositorys_own_host_and_passwords_are_not_shown() -> None:
    source = GitSource.parse("https://user:pass@h/b.git")
    assert source is not None and source.shown == "https://h/b.git"
    env = Git({"GIT_AUTH_TOKEN.h": b"t\n", "GIT_AUTH_TOKEN": b"other"}, trusted=False)._environment(source)
    assert env["GIT_CONFIG_KEY_0"] == "http.https://h/.extraheader"
    assert env["GIT_CONFIG_VALUE_0"] == "Authorization: basic eC1hY2Nlc3MtdG9rZW46dA=="
    assert env["GIT_CONFIG_GLOBAL"] == "/dev/null"
