"""The instructions of a Dockerfile as frozen records: what `parse` returns and `Scope.expand` expands.

Texts are as written until they went through `Scope.expand`, which gives the same record with variables and quotes
resolved (and, for RUN, with `mounts`). Every record has `at`, where it stands in the file.

    Dockerfile      global_args, stages, directives, escape
      Stage         its From and the instructions up to the next FROM
        From Arg Env Label Run Copy Add Workdir User Cmd Entrypoint Expose Volume StopSignal Shell Healthcheck
        OnBuild Maintainer
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TypeAlias

from layerfs._record import dataclass, replace
from layerfs.build.problems import located
from layerfs.oci import Healthcheck as HealthConfig

DEFAULT_SHELL = ("/bin/sh", "-c")
PIPES = "/dev/pipes/"  # where BuildKit mounts the script of `RUN <<EOF` that begins with #!
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an instruction stands: lines from `first` to `last` (from 1), heredocs included.

    `text` is the logical line: continuations joined, comments dropped, blanks around trimmed, heredoc bodies not in it.
    `comments` are those right above, without `#`.
    """

    keyword: str  # as written: `run`, `RUN`
    text: str
    first: int
    last: int
    comments: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.keyword.upper()


@dataclass(frozen=True, slots=True)
class Heredoc:
    """`<<EOF`: `body` is as in the file; `expand` is false when the delimiter has quotes; `chomp` is `<<-`."""

    name: str
    body: str = ""
    expand: bool = True
    chomp: bool = False
    descriptor: int = 0

    @property
    def text(self) -> str:
        """The body as a file gets it: `<<-` takes away leading tabs."""
        return _LEADING_TABS.sub("", self.body) if self.chomp else self.body


@dataclass(frozen=True, slots=True)
class Command:
    """The argument of RUN, CMD and ENTRYPOINT: exec form, or one text for the shell (no words: nothing was written)."""

    words: tuple[str, ...]
    shell: bool

    def argv(self, shell: Sequence[str] = DEFAULT_SHELL) -> tuple[str, ...]:
        return (*(shell or DEFAULT_SHELL), " ".join(self.words)) if self.shell else self.words


@dataclass(frozen=True, slots=True)
class Script:
    """A file that a RUN needs at `PIPES + name`, mode 0755: a heredoc that begins with `#!`."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Mount:
    """One `--mount` of RUN, checked. `kind` is bind, cache, tmpfs, secret or ssh; None means not given.

    For a secret `id` is what `id=` or `source=` gave. `read_only` has its default: false for cache and tmpfs.
    """

    kind: str = "bind"
    source_from: str = ""  # from=: a stage, an image or a build context; "" is the context (an empty tree for cache)
    source: str = ""
    target: str = ""
    read_only: bool = True
    size: int = 0
    id: str = ""
    sharing: str = ""  # shared, private or locked; "" is shared
    required: bool = False
    env: str | None = None  # of a secret: the variable; "" takes the id
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """One `--device` of RUN."""

    name: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class From:
    """`FROM [--platform=P] IMAGE [AS NAME]`; `name` is in lower case, "" without AS."""

    at: Source
    image: str
    name: str = ""
    platform: str = ""
    as_word: str = ""  # as written, for the checks of casing
    name_word: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """`key=value`; `legacy` is the form `ENV key value`."""

    key: str
    value: str
    legacy: bool = False


@dataclass(frozen=True, slots=True)
class ArgPair:
    """`name` or `name=default`."""

    name: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Arg:
    at: Source
    pairs: tuple[ArgPair, ...]


@dataclass(frozen=True, slots=True)
class Env:
    at: Source
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Label:
    at: Source
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, slots=True)
class Run:
    """`mount_flags` are as written; `mounts` is filled by `Scope.expand` (a flag may hold variables)."""

    at: Source
    command: Command
    heredocs: tuple[Heredoc, ...] = ()
    lone_heredoc: bool = False  # the line is `<<EOF` and nothing else
    mount_flags: tuple[str, ...] = ()
    mount_sources: tuple[str, ...] = ()  # from= of each flag, "" without: known before any expansion
    mounts: tuple[Mount, ...] = ()
    network: str = "default"  # default, none, host
    security: str = "sandbox"  # sandbox, insecure
    devices: tuple[Device, ...] = ()

    def program(self, shell: Sequence[str] = DEFAULT_SHELL) -> tuple[tuple[str, ...], Script | None]:
        """The argument vector, and the script it needs, as BuildKit makes them of heredocs.

        A line that is a heredoc alone runs its body: through the shell, or as a program when it begins with `#!`.
        Any other line goes to the shell with its heredocs behind it.
        """
        if not self.heredocs:
            return self.command.argv(shell), None
        first = self.heredocs[0]
        if not self.lone_heredoc:
            bodies = "".join(f"\n{heredoc.body}{heredoc.name}" for heredoc in self.heredocs)
            return replace(self.command, words=(self.command.words[0] + bodies,)).argv(shell), None
        if first.text.startswith("#!"):
            script = Script(first.name, first.text)
            return replace(self.command, words=(PIPES + script.name,)).argv(shell), script
        return replace(self.command, words=(first.text,)).argv(shell), None


@dataclass(frozen=True, slots=True)
class InlineFile:
    """A heredoc as a source of COPY or ADD: `text` becomes a file `name`, mode 0644."""

    name: str
    text: str
    expand: bool = True  # before `Scope.expand`: whether it has to


@dataclass(frozen=True, slots=True)
class Copy:
    """`source_from` is `--from`: the name or number of a stage, an image or a build context; "" is the context."""

    at: Source
    sources: tuple[str, ...]
    destination: str
    files: tuple[InlineFile, ...] = ()
    source_from: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Add:
    """`keep_git_dir` and `unpack` are None when not given (unpack: local archives are, downloads are not)."""

    at: Source
    sources: tuple[str, ...]
    destination: str
    files: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()
    keep_git_dir: bool | None = None
    checksum: str = ""
    unpack: bool | None = None


@dataclass(frozen=True, slots=True)
class Workdir:
    at: Source
    path: str


@dataclass(frozen=True, slots=True)
class User:
    at: Source
    user: str


@dataclass(frozen=True, slots=True)
class Cmd:
    at: Source
    command: Command


@dataclass(frozen=True, slots=True)
class Entrypoint:
    at: Source
    command: Command


@dataclass(frozen=True, slots=True)
class Expose:
    """Words as written, sorted; after `Scope.expand`: `port/protocol`, ranges written out."""

    at: Source
    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Volume:
    at: Source
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StopSignal:
    at: Source
    signal: str


@dataclass(frozen=True, slots=True)
class Shell:
    at: Source
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Healthcheck:
    """`health.test` begins with NONE, CMD or CMD-SHELL."""

    at: Source
    health: HealthConfig


@dataclass(frozen=True, slots=True)
class OnBuild:
    """`expression` is what the config's OnBuild gets (heredoc bodies included); `inner` is the same, parsed."""

    at: Source
    expression: str
    inner: Instruction


@dataclass(frozen=True, slots=True)
class Maintainer:
    at: Source
    author: str


Instruction: TypeAlias = (
    Arg
    | Env
    | Label
    | Run
    | Copy
    | Add
    | Workdir
    | User
    | Cmd
    | Entrypoint
    | Expose
    | Volume
    | StopSignal
    | Shell
    | Healthcheck
    | OnBuild
    | Maintainer
)


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM and what follows it; `label` is what progress calls it: its name, or `stage-0`."""

    number: int
    base: From
    instructions: tuple[Instruction, ...] = ()

    @property
    def name(self) -> str:
        return self.base.name

    @property
    def label(self) -> str:
        return self.base.name or f"stage-{self.number}"


@dataclass(frozen=True, slots=True)
class Directive:
    """`# name=value` at the top: syntax, escape or check."""

    name: str
    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """A parsed file; `lines` are its physical lines, for messages. There is at least one stage."""

    file: str
    global_args: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    escape: str = "\\"
    directives: tuple[Directive, ...] = ()
    empty_continuations: tuple[int, ...] = ()  # lines whose continuation held an empty line
    lines: tuple[str, ...] = ()

    def directive(self, name: str) -> str:
        """The value of a directive, or ""."""
        return next((each.value for each in self.directives if each.name == name), "")

    def place(self, at: Source) -> AbstractContextManager[None]:
        """Within it, an `InvalidDockerfile` that knows no place is told that of this instruction."""
        return located(self.file, self.lines[at.first - 1 : at.last], at.first, at.last)
