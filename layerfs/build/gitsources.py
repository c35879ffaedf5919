"""Git repositories as sources: what a URL means, which commit that is now, and its files.

git(1) does the work, without hooks and without asking. For a context that the user names it has his configuration
(credentials, proxies, keys); for what a Dockerfile names only the build's secrets and ssh agent, and no local path.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from layerfs._record import dataclass, field, replace
from layerfs.errors import InvalidInput, LayerfsError, NotFound, Unsupported

_SCP = re.compile(r"[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+:(?!//).")
_HTTP = re.compile(r"https?://[^?#]*\.git/?(?:[?#].*)?\Z")
_SCHEMES = ("git://", "ssh://")
_SHORT = "github.com/"
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")
_HEX = re.compile(r"[0-9a-f]{7,64}\Z")
_KEYS = ("ref", "branch", "tag", "subdir", "checksum", "commit", "keep-git-dir", "submodules")
_KEPT = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_PROXY_COMMAND", "GIT_ASKPASS", "GIT_SSL_", "GIT_CONFIG_", "GIT_TRACE")
_SETTINGS = ("core.hooksPath=/dev/null", "advice.detachedHead=false", "http.lowSpeedLimit=1", "http.lowSpeedTime=60")
_ALONE = {
    "HOME": "/nonexistent",
    "XDG_CONFIG_HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_SSH_COMMAND": "ssh -F none -o BatchMode=yes -o IdentityFile=none",
    "GIT_ALLOW_PROTOCOL": "git:http:https:ssh",
}
_WANTED = "refs/layerfs/wanted"
_SAID_MAX = 500  # characters of what git says


class GitFailed(LayerfsError):
    """git ended with an error; the message has what it said."""


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository, what is wanted of it (a branch, a tag, a commit; "" is its default), and a directory in it."""

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool = False
    submodules: bool = True

    @classmethod
    def parse(cls, text: str, *, context: bool = False) -> GitSource | None:
        """`URL[?KEY=VALUE&…][#REF[:SUBDIR]]`; None for what is no repository. `context`: `github.com/…` and `file://…`
        are one.

        Raises:
            InvalidInput: it is one, but not understood.
        """
        if context and text.startswith(_SHORT):
            text = f"https://{text}"
            text = text if _HTTP.match(text) else re.sub(r"(?=[?#]|\Z)", ".git", text, count=1)
        rest, _, fragment = text.partition("#")
        ref, _, subdir = fragment.partition(":")
        if _SCP.match(text):
            return cls(rest, ref, subdir)._checked(text)
        if not text.startswith(_SCHEMES) and not _HTTP.match(text) and not (context and text.startswith("file://")):
            return None
        parts = urlsplit(rest)
        source = cls(urlunsplit(parts._replace(query="")), ref, subdir)
        return source._with(parts.query)._checked(text)

    def _with(self, query: str) -> GitSource:
        source = self
        for key, value in parse_qsl(query, keep_blank_values=True):
            if key not in _KEYS:
                raise InvalidInput(f"unexpected query {key!r} in {self.remote} (there are {', '.join(_KEYS)})")
            if key in ("ref", "branch", "tag") and source.ref:
                raise InvalidInput(f"{self.remote} has several refs")
            ref = {"ref": value, "branch": f"refs/heads/{value}", "tag": f"refs/tags/{value}"}.get(key, source.ref)
            source = replace(source, ref=ref)
            if key in ("checksum", "commit"):
                source = replace(source, checksum=value)
            elif key == "subdir":
                source = replace(source, subdir=value)
            elif key == "keep-git-dir":
                source = replace(source, keep_git_dir=value != "false")
            elif key == "submodules":
                source = replace(source, submodules=value != "false")
        return source

    def flagged(self, checksum: str, keep_git_dir: bool | None) -> GitSource:
        """With the flags of an ADD."""
        keep = self.keep_git_dir if keep_git_dir is None else keep_git_dir
        return replace(self, checksum=checksum or self.checksum, keep_git_dir=keep)._checked(self.remote)

    def _checked(self, text: str) -> GitSource:
        if self.remote.startswith("-") or self.ref.startswith("-") or not self.remote.isprintable():
            raise InvalidInput(f"invalid git URL {text!r}")
        if self.ref and (re.search(r"[\s~^:?*\[\\\x00-\x1f\x7f]|\.\.|@\{", self.ref) or not self.ref.isprintable()):
            raise InvalidInput(f"invalid git ref {self.ref!r}")
        if self.checksum and not _HEX.match(self.checksum):
            raise InvalidInput(f"invalid checksum {self.checksum!r}: that of a git repository is a commit")
        return self

    @property
    def shown(self) -> str:
        """Without a password."""
        return re.sub(r"//[^/@]*@", "//", self.remote)

    def check(self, commit: str) -> None:
        """Raises InvalidInput when a checksum was given, and it is another commit's."""
        if self.checksum and not commit.startswith(self.checksum):
            raise InvalidInput(f"expected checksum to match {self.checksum}, got {commit} ({self.shown})")


@dataclass(frozen=True, slots=True)
class Git:
    """git(1). `secrets`: GIT_AUTH_TOKEN and GIT_AUTH_HEADER (also `….HOST`) of the build; `agent`: an ssh socket;
    `trusted`: the user himself named the repository."""

    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    agent: str = ""
    trusted: bool = False

    def resolve(self, source: GitSource) -> str:
        """The commit that is meant now.

        Raises:
            NotFound: no such ref. GitFailed, Unsupported: there is no git. InvalidInput: not that of the checksum.
        """
        commit = source.ref if _COMMIT.match(source.ref) else self._listed(source)
        if commit:
            source.check(commit)
        return commit

    def _listed(self, source: GitSource) -> str:
        """What the repository says of a ref; "" when it may be the beginning of a commit."""
        ref = source.ref or "HEAD"
        names = [ref, f"{ref}^{{}}"] if ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}^{{}}"]
        names += [] if ref.startswith("refs/") else [f"refs/tags/{ref}", ref]
        said = self._run(source, ["ls-remote", "--", source.remote, ref, f"{ref}^{{}}"])
        found = {name: commit for commit, _, name in (line.partition("\t") for line in said.splitlines())}
        if ref.startswith("refs/"):
            names.reverse()  # the commit of an annotated tag, not the tag
        commit = next((found[name] for name in names if _COMMIT.match(found.get(name, ""))), "")
        if not commit and not _HEX.match(ref):
            raise NotFound(f"repository {source.shown} does not contain ref {ref}")
        return commit

    def checkout(self, source: GitSource, commit: str, place: Path) -> str:
        """Its files, in a new directory, all of the commit's time; the commit."""
        place.mkdir(mode=0o755)
        self._run(source, ["init", "-q", "--template=", "--", str(place)])
        commit = self._fetched(source, commit, place)
        source.check(commit)
        self._run(source, ["checkout", "-q", "--force", "--detach", commit, "--"], place)
        if source.submodules and (place / ".gitmodules").is_file():
            self._update_submodules(source, place)
        seconds = int(self._run(source, ["show", "-s", "--format=%ct", commit, "--"], place).split()[-1])
        if source.keep_git_dir:
            self._tidy(source, place)
        else:
            _without_git(place)
        _dated(place, seconds * 10**9)
        return commit

    def _fetched(self, source: GitSource, commit: str, place: Path) -> str:
        wanted = commit or source.ref
        if _COMMIT.match(wanted):
            for depth in (["--depth=1"], []):  # servers that cannot, give all
                try:
                    self._run(
                        source, ["fetch", "-q", "--no-tags", *depth, "--", source.remote, f"{wanted}:{_WANTED}"], place
                    )
                    return wanted
                except GitFailed:
                    continue
        self._run(source, ["fetch", "-q", "--tags", "--", source.remote, "+refs/heads/*:refs/remotes/origin/*"], place)
        try:
            return self._run(
                source, ["rev-parse", "--verify", "-q", "--end-of-options", f"{wanted}^{{commit}}"], place
            ).strip()
        except GitFailed:
            raise NotFound(f"repository {source.shown} does not contain ref {wanted}") from None

    def _update_submodules(self, source: GitSource, place: Path) -> None:
        command = ["submodule", "--quiet", "update", "--init", "--recursive"]
        try:
            self._run(source, [*command, "--depth=1"], place)
        except GitFailed:
            self._run(source, command, place)

    def _tidy(self, source: GitSource, place: Path) -> None:
        """A kept .git tells neither of passwords nor of this fetch."""
        self._run(source, ["update-ref", "-d", _WANTED], place)
        self._run(source, ["remote", "add", "origin", source.shown], place)
        for name in ("FETCH_HEAD", "ORIG_HEAD"):
            (place / ".git" / name).unlink(missing_ok=True)
        shutil.rmtree(place / ".git" / "logs", ignore_errors=True)

    def _run(self, source: GitSource, arguments: Sequence[str], place: Path | None = None) -> str:
        program = shutil.which("git")
        if program is None:
            raise Unsupported(f"git is not installed, which {source.shown} needs")
        guard = shutil.which("setpriv")  # ends with us, also when we are killed
        line = [*([guard, "--pdeathsig", "KILL"] if guard else []), program]
        for setting in _SETTINGS:
            line += ["-c", setting]
        done = subprocess.run(
            [*line, *arguments],
            cwd=place or "/",
            env=self._environment(source),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            umask=0o022,
            check=False,
        )
        said = done.stdout.decode(errors="replace")
        if done.returncode:
            told = _reason(done.stderr.decode(errors="replace")) or f"exit code {done.returncode}"
            raise GitFailed(f"failed to load {source.shown}: git {arguments[0]}: {told}")
        return said

    def _environment(self, source: GitSource) -> dict[str, str]:
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("GIT_") or (name.startswith(_KEPT) and self.trusted)
        }
        env |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        if not self.trusted:
            env.pop("SSH_AUTH_SOCK", None)
            env |= _ALONE
        if self.agent:
            env["SSH_AUTH_SOCK"] = self.agent
        header = self._header(source)
        if header:
            count = int(env.get("GIT_CONFIG_COUNT", "0") or "0")
            parts = urlsplit(source.remote)
            env[f"GIT_CONFIG_KEY_{count}"] = f"http.{parts.scheme}://{parts.netloc.rpartition('@')[2]}/.extraheader"
            env[f"GIT_CONFIG_VALUE_{count}"] = f"Authorization: {header}"
            env["GIT_CONFIG_COUNT"] = str(count + 1)
        return env

    def _header(self, source: GitSource) -> str:
        """For http, and only for the repository's own host."""
        if not source.remote.startswith(("http://", "https://")):
            return ""
        host = urlsplit(source.remote).hostname or ""
        for name in (f"GIT_AUTH_HEADER.{host}", "GIT_AUTH_HEADER"):
            if name in self.secrets:
                return self.secrets[name].decode(errors="replace").strip()
        for name in (f"GIT_AUTH_TOKEN.{host}", "GIT_AUTH_TOKEN"):
            if name in self.secrets:
                token = b"x-access-token:" + self.secrets[name].strip()
                return f"basic {base64.b64encode(token).decode()}"
        return ""


def _reason(said: str) -> str:
    """The first line that is an error, else the last; without passwords."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    line = next((line for line in lines if line.startswith(("fatal: ", "error: "))), lines[-1] if lines else "")
    line = re.sub(r"//[^/@\s]*@", "//", line)
    return "".join(char if char.isprintable() else "?" for char in line)[:_SAID_MAX]


def _without_git(place: Path) -> None:
    """Also those of submodules; git itself keeps no file of that name."""
    for where, directories, files in os.walk(place):
        if ".git" in directories:
            directories.remove(".git")
            shutil.rmtree(Path(where, ".git"))
        elif ".git" in files:
            Path(where, ".git").unlink()


def _dated(place: Path, time_ns: int) -> None:
    for where, directories, files in os.walk(place, topdown=False):
        for name in (*files, *directories):
            os.utime(Path(where, name), ns=(time_ns, time_ns), follow_symlinks=False)
    os.utime(place, ns=(time_ns, time_ns))
