"""Bytes of a Dockerfile into records: directives, continuations, comments, heredocs, exec and shell forms.

The quirks are BuildKit's. Bounded: the file, its lines (BuildKit's 65535 bytes) and the number of instructions.
Comments may hold any bytes, everything else has to be UTF-8 without NUL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from layerfs._record import dataclass
from layerfs.build import heredocs
from layerfs.build.instructions import (
    Add,
    Arg,
    ArgPair,
    Cmd,
    Command,
    Copy,
    Directive,
    Dockerfile,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Heredoc,
    InlineFile,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Pair,
    Run,
    Shell,
    Source,
    Stage,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from layerfs.build.mounts import mount_source, parse_device, parse_mount
from layerfs.build.problems import locate, located, nearest, problem, quote
from layerfs.build.words import SPACES, exec_form, split_blanks, split_flags, split_words
from layerfs.errors import InvalidDockerfile, InvalidInput
from layerfs.image.values import parse_duration
from layerfs.oci import Healthcheck as HealthConfig

FILE_MAX = 4 << 20
LINE_MAX = 65535
INSTRUCTIONS_MAX = 20_000
_DIRECTIVE = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*\Z")
_DIRECTIVES = frozenset(("syntax", "escape", "check"))
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_UNDECODED = re.compile("[\udc80-\udcff]")
_ONBUILD = re.compile(r"[\t\n\f\r ]*ONBUILD[\t\n\f\r ]*", re.IGNORECASE)
_STAGE_NAME = re.compile(r"[a-z][a-z0-9-_.]*\Z")
_MILLISECOND = 10**6
_NANOSECONDS_MAX = 1 << 63
_COMMENTS_MAX = 1000


def parse(data: bytes | str, file: str = "Dockerfile") -> Dockerfile:
    """Parse a Dockerfile.

    Raises:
        InvalidDockerfile: anything BuildKit refuses before it builds, with file, line and word.
    """
    reader = _Reader(data, file)
    global_args: list[Arg] = []
    stages: list[tuple[From, list[Instruction]]] = []
    for request in reader.requests():
        with reader.place(request.at):
            instruction = _build(request)
            if isinstance(instruction, From):
                stages.append((instruction, []))
            elif stages:
                stages[-1][1].append(instruction)
            elif isinstance(instruction, Arg):
                global_args.append(instruction)
            else:
                raise problem("no build stage in current context", word=request.at.keyword)
    if not stages:
        raise reader.whole("dockerfile contains no stages to build")
    return Dockerfile(
        file,
        tuple(global_args),
        tuple(Stage(number, base, tuple(body)) for number, (base, body) in enumerate(stages)),
        reader.escape,
        tuple(reader.directives),
        tuple(reader.empty_continuations),
        tuple(reader.lines),
    )


def parse_trigger(expression: str, *, file: str = "ONBUILD") -> Instruction:
    """One instruction of a base image's OnBuild.

    Raises:
        InvalidDockerfile: it is none, it is several, or it is one that may not be a trigger.
    """
    reader = _Reader(expression, file)
    found = list(reader.requests())
    if len(found) != 1:
        raise reader.whole("onbuild trigger should be a single expression")
    with reader.place(found[0].at):
        _check_trigger(found[0].at.keyword)
        return _instruction(found[0])


@dataclass(frozen=True, slots=True)
class _Request:
    """A logical line before it is understood; `line` still has its blanks."""

    at: Source
    line: str
    flags: tuple[str, ...]
    rest: str
    escape: str
    heredocs: tuple[Heredoc, ...] = ()


class _Reader:
    """Physical lines into logical ones."""

    def __init__(self, data: bytes | str, file: str) -> None:
        raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
        self.file = file
        self.lines: list[str] = []
        self.number = 0  # of lines read
        self.escape = "\\"
        self.directives: list[Directive] = []
        self.empty_continuations: list[int] = []
        self._directives_done = False
        if not raw:
            raise self.whole("the Dockerfile cannot be empty")
        if len(raw) > FILE_MAX:
            raise self.whole(f"file is larger than {FILE_MAX} bytes")
        if raw.startswith(_UTF16):
            raise self.whole("file is UTF-16, not UTF-8")
        text = raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        self.lines = text.removesuffix("\n").split("\n")

    def whole(self, reason: str) -> InvalidDockerfile:
        """An error about the file, not about a line of it."""
        return locate(problem(reason), self.file, (), 1, 1)

    def place(self, at: Source) -> AbstractContextManager[None]:
        return located(self.file, self.lines[at.first - 1 : at.last], at.first, at.last)

    def requests(self) -> Iterator[_Request]:
        count = 0
        comments: list[str] = []
        while self.number < len(self.lines):
            line = self._next(checked=False).rstrip("\r").lstrip(SPACES)
            if line.startswith("#"):
                if not self._directive(line):
                    comment = line[1:].strip(SPACES)
                    if comment and len(comments) < _COMMENTS_MAX:
                        comments.append(comment)
                    elif not comment:
                        comments.clear()
                continue
            self._directives_done = True
            if not line:
                continue
            first = self.number
            self._check(line)
            logical, blank = self._continued(line)
            if not logical and not blank:
                continue
            count += 1
            if count > INSTRUCTIONS_MAX:
                raise self.whole(f"file has more than {INSTRUCTIONS_MAX} instructions")
            yield self._request(logical, first, tuple(comments))
            comments.clear()
        if not count:
            raise self.whole("file with no instructions")

    def _request(self, line: str, first: int, comments: tuple[str, ...]) -> _Request:
        with located(self.file, self.lines[first - 1 : self.number], first, self.number):
            keyword, flags, rest = _split(line, self.escape)
            bodies = self._heredocs(line, keyword, rest, first)
        text = line.strip(SPACES)
        at = Source(keyword, text, first, self.number, comments)
        return _Request(at, line, flags, rest, self.escape, bodies)

    def _next(self, *, checked: bool) -> str:
        line = self.lines[self.number]
        self.number += 1
        if len(line) * 4 > LINE_MAX and len(line.encode("utf-8", "surrogateescape")) > LINE_MAX:
            raise self._here(f"dockerfile line greater than max allowed size of {LINE_MAX}")
        if checked:
            self._check(line)
        return line

    def _check(self, line: str) -> None:
        if _UNDECODED.search(line):
            raise self._here("line is not UTF-8")
        if "\0" in line:
            raise self._here("line has a NUL byte")

    def _here(self, reason: str) -> InvalidDockerfile:
        return locate(problem(reason), self.file, (self.lines[self.number - 1][:1024],), self.number, self.number)

    def _directive(self, line: str) -> bool:
        """Whether the comment is a parser directive, which is then kept."""
        if self._directives_done:
            return False
        match = _DIRECTIVE.match(line[1:].lstrip(SPACES))
        name = match[1].lower() if match else ""
        if match is None or name not in _DIRECTIVES:
            self._directives_done = True
            return False
        self._check(line)
        if any(each.name == name for each in self.directives):
            raise self._here(f"only one {name} parser directive can be used")
        if name == "escape":
            if match[2] not in ("\\", "`"):
                raise self._here(f"invalid escape token '{match[2]}' does not match ` or \\")
            self.escape = match[2]
        self.directives.append(Directive(name, match[2], self.number))
        return True

    def _continued(self, line: str) -> tuple[str, bool]:
        """The logical line that begins with `line`, and whether it was continued at all."""
        parts: list[str] = []
        part, more = self._ends_open(line)
        parts.append(part)
        continued, empty = more, False
        while more and self.number < len(self.lines):
            line = self._next(checked=False).rstrip("\r")
            blank = line.lstrip(SPACES)
            if blank.startswith("#"):
                continue
            if not blank:
                empty = True
                continue
            self._check(line)
            part, more = self._ends_open(line)
            parts.append(part)
        if empty:
            self.empty_continuations.append(self.number)
        return "".join(parts), continued

    def _ends_open(self, line: str) -> tuple[str, bool]:
        body = line.rstrip(" \t")
        if body.endswith(self.escape) and not body[:-1].endswith(self.escape):
            return body[:-1], True
        return line, False

    def _heredocs(self, line: str, keyword: str, rest: str, first: int) -> tuple[Heredoc, ...]:
        name = keyword.upper()
        if name == "ONBUILD":
            keyword, _, rest = _split(rest, self.escape)
            name = keyword.upper()
        if name not in ("ADD", "COPY", "RUN") or "<<" not in line or exec_form(rest) is not None:
            return ()
        return tuple(self._body(heredoc, first) for heredoc in heredocs.opened(line))

    def _body(self, heredoc: Heredoc, first: int) -> Heredoc:
        begin = self.number
        while self.number < len(self.lines):
            line = self._next(checked=True)
            end = line.rstrip("\r")
            if (end.lstrip("\t") if heredoc.chomp else end) == heredoc.name:
                body = "".join(f"{each}\n" for each in self.lines[begin : self.number - 1])
                return Heredoc(heredoc.name, body, heredoc.expand, heredoc.chomp, heredoc.descriptor)
        raise locate(
            problem("unterminated heredoc", word=heredoc.name), self.file, self.lines[first - 1 :], first, begin
        )


def _split(line: str, escape: str) -> tuple[str, tuple[str, ...], str]:
    """Keyword, flags and the rest of a logical line."""
    keyword, *more = split_blanks(line.strip(SPACES), 1)
    if not more:
        return keyword, (), ""
    flags, rest = split_flags(more[0], escape)
    return keyword, tuple(flags), rest


class _Flags:
    """The flags of an instruction against those it has: a kind is `bool`, `text` or `list`."""

    def __init__(self, given: tuple[str, ...], kinds: Mapping[str, str]) -> None:
        self.values: dict[str, list[str]] = {}
        for flag in given:
            written, equals, value = flag.partition("=")
            name = written[2:]
            kind = kinds.get(name)
            if kind is None:
                raise problem(f"unknown flag: {written}", word=written, suggestion=nearest(name, kinds))
            if name in self.values and kind != "list":
                raise problem(f"duplicate flag specified: {written}", word=written)
            if (not equals and kind != "bool") or (equals and not value and kind == "bool"):
                raise problem(f"missing a value on flag: {written}", word=written)
            if kind == "bool" and value.lower() not in ("", "true", "false"):
                raise problem(f"expecting boolean value for flag {written}, not: {value}", word=flag)
            self.values.setdefault(name, []).append(value)

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name, [default])[0]

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, ()))

    def maybe(self, name: str) -> bool | None:
        return self.values[name][0].lower() != "false" if name in self.values else None


def _build(request: _Request) -> Instruction | From:
    return _from(request) if request.at.name == "FROM" else _instruction(request)


def _instruction(request: _Request) -> Instruction:
    build = _BUILDERS.get(request.at.name)
    if build is None:
        keyword = request.at.keyword
        suggestion = nearest(keyword, ("FROM", *_BUILDERS), fold=True, short=0)  # FOO: FROM, as docker
        raise problem(f"unknown instruction: {keyword}", word=keyword, suggestion=suggestion)
    return build(request)


def _no_flags(request: _Request) -> None:
    _Flags(request.flags, {})


def _one(request: _Request) -> str:
    _no_flags(request)
    if not request.rest:
        raise problem(f"{request.at.name} requires exactly one argument", word=request.at.keyword)
    return request.rest


def _some(request: _Request, words: tuple[str, ...]) -> tuple[str, ...]:
    if not words:
        raise problem(f"{request.at.name} requires at least one argument", word=request.at.keyword)
    return words


def _list(request: _Request) -> tuple[str, ...]:
    """Exec form, or words between blanks."""
    words = exec_form(request.rest)
    if words is None:
        return tuple(split_blanks(request.rest)) if request.rest else ()
    return words


def _command(text: str) -> Command:
    words = exec_form(text)
    if words is not None:
        return Command(words, shell=False)
    return Command((text,) if text else (), shell=True)


def _from(request: _Request) -> From:
    words = split_blanks(request.rest) if request.rest else []
    named = len(words) == 3 and words[1].lower() == "as"
    if not named and len(words) != 1:
        raise problem("FROM requires either one or three arguments", word=request.rest or request.at.keyword)
    name = words[2].lower() if named else ""
    if named and not _STAGE_NAME.match(name):
        reason = f"invalid name for build stage: {quote(words[2])}, name can't start with a number or contain symbols"
        raise problem(reason, word=words[2])
    flags = _Flags(request.flags, {"platform": "text"})
    as_word, name_word = (words[1], words[2]) if named else ("", "")
    return From(request.at, words[0], name, flags.text("platform"), as_word, name_word)


def _arg(request: _Request) -> Arg:
    _no_flags(request)
    words = _some(request, tuple(split_words(request.rest, request.escape)))
    pairs = [word.partition("=") for word in words]
    if not all(name for name, _, _ in pairs):
        raise problem("ARG names can not be blank", word=request.rest)
    return Arg(request.at, tuple(ArgPair(name, value if equals else None) for name, equals, value in pairs))


def _pairs(request: _Request) -> tuple[Pair, ...]:
    _no_flags(request)
    name, rest = request.at.name, request.rest
    words = _some(request, tuple(split_words(rest, request.escape)))
    if "=" not in words[0]:
        key, *value = split_blanks(rest, 1)
        if not value:
            raise problem(f"{name} must have two arguments", word=rest)
        return (Pair(key, value[0], legacy=True),)
    for word in words:
        if "=" not in word:
            reason = f"Syntax error - can't find = in {quote(word)}. Must be of the form: name=value"
            raise problem(reason, word=word)
        if word.startswith("="):
            raise problem(f"{name} names can not be blank", word=word)
    return tuple(Pair(key, value) for key, _, value in (word.partition("=") for word in words))


def _run(request: _Request) -> Run:
    kinds = {"mount": "list", "network": "text", "security": "text", "device": "list"}
    flags = _Flags(request.flags, kinds)
    mounts = flags.texts("mount")
    for mount in mounts:
        if not any(char in mount for char in ("$", "'", '"', request.escape)):
            parse_mount(mount, str)  # nothing to expand: told now, not when the step runs
    sources = tuple(mount_source(mount) for mount in mounts)
    network, security = flags.text("network", "default"), flags.text("security", "sandbox")
    if network not in ("default", "none", "host"):
        raise problem(f"invalid network mode {quote(network)}", word=network)
    if security not in ("sandbox", "insecure"):
        raise problem(f"security {quote(security)} is not valid", word=security)
    command = _command(request.rest)
    return Run(
        request.at,
        command,
        request.heredocs,
        bool(request.heredocs) and heredocs.attempt(request.rest) is not None,
        mounts,
        sources,
        (),
        network,
        security,
        tuple(parse_device(device) for device in flags.texts("device")),
    )


def _transfer(request: _Request) -> tuple[tuple[str, ...], str, tuple[InlineFile, ...]]:
    """Sources, destination and heredocs of COPY and ADD."""
    name = request.at.name
    words = _list(request)
    if len(words) < 2:
        reason = (
            f"{name} requires at least two arguments, but only one was provided. Destination could not be determined"
        )
        raise problem(reason, word=request.rest or request.at.keyword)
    if heredocs.attempt(words[-1]) is not None:
        raise problem(f"{name} cannot accept a heredoc as a destination", word=words[-1])
    bodies = {heredoc.name: heredoc for heredoc in request.heredocs}
    sources: list[str] = []
    files: list[InlineFile] = []
    for word in words[:-1]:
        heredoc = heredocs.attempt(word)
        if heredoc is None:
            sources.append(word)
        else:
            found = bodies.get(heredoc.name, heredoc)
            files.append(InlineFile(found.name, found.text, found.expand))
    return tuple(sources), words[-1], tuple(files)


def _copy(request: _Request) -> Copy:
    kinds = {"from": "text", "chown": "text", "chmod": "text", "link": "bool", "parents": "bool", "exclude": "list"}
    flags = _Flags(request.flags, kinds)
    return Copy(
        request.at,
        *_transfer(request),
        flags.text("from"),
        flags.text("chown"),
        flags.text("chmod"),
        flags.maybe("link") or False,
        flags.maybe("parents") or False,
        flags.texts("exclude"),
    )


def _add(request: _Request) -> Add:
    kinds = {"chown": "text", "chmod": "text", "link": "bool", "exclude": "list"}
    flags = _Flags(request.flags, kinds | {"keep-git-dir": "bool", "checksum": "text", "unpack": "bool"})
    return Add(
        request.at,
        *_transfer(request),
        flags.text("chown"),
        flags.text("chmod"),
        flags.maybe("link") or False,
        flags.texts("exclude"),
        flags.maybe("keep-git-dir"),
        flags.text("checksum"),
        flags.maybe("unpack"),
    )


def _volume(request: _Request) -> Volume:
    _no_flags(request)
    paths = tuple(path.strip(SPACES) for path in _some(request, _list(request)))
    if not all(paths):
        raise problem("VOLUME specified can not be an empty string", word=request.rest)
    return Volume(request.at, paths)


def _expose(request: _Request) -> Expose:
    _no_flags(request)
    ports = _some(request, tuple(split_blanks(request.rest)) if request.rest else ())
    return Expose(request.at, tuple(sorted(ports)))


def _shell(request: _Request) -> Shell:
    _no_flags(request)
    words = exec_form(request.rest)
    if words is None and request.rest:
        raise problem(f"SHELL requires the arguments to be in JSON form: {request.at.text}", word=request.rest)
    return Shell(request.at, _some(request, words or ()))


def _with_command(kind: Callable[[Source, Command], Cmd | Entrypoint]) -> Callable[[_Request], Instruction]:
    def build(request: _Request) -> Instruction:
        _no_flags(request)
        return kind(request.at, _command(request.rest))

    return build


def _onbuild(request: _Request) -> OnBuild:
    if not request.rest:
        raise problem("ONBUILD requires at least one argument", word=request.at.keyword)
    _no_flags(request)
    keyword, flags, rest = _split(request.rest, request.escape)
    _check_trigger(keyword)
    expression = _ONBUILD.sub("", request.line, count=1)
    bodies = "".join(f"\n{heredoc.body}{heredoc.name}" for heredoc in request.heredocs)
    at = Source(keyword, expression.strip(SPACES), request.at.first, request.at.last)
    inner = _instruction(_Request(at, expression, flags, rest, request.escape, request.heredocs))
    return OnBuild(request.at, expression + bodies, inner)


def _check_trigger(keyword: str) -> None:
    name = keyword.upper()
    if name == "ONBUILD":
        raise problem("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", word=keyword)
    if name in ("FROM", "MAINTAINER"):
        raise problem(f"{name} isn't allowed as an ONBUILD trigger", word=keyword)


def _healthcheck(request: _Request) -> Healthcheck:
    kind, *more = re.split(f"[{SPACES}]+", request.rest, maxsplit=1)
    argument = more[0] if more else ""
    if not kind:
        raise problem("HEALTHCHECK requires at least one argument", word=request.at.keyword)
    if kind.upper() == "NONE":
        if argument:
            raise problem("HEALTHCHECK NONE takes no arguments", word=argument)
        return Healthcheck(request.at, HealthConfig(("NONE",)))
    durations = ("interval", "timeout", "start-period", "start-interval")
    flags = _Flags(request.flags, dict.fromkeys((*durations, "retries"), "text"))
    if kind.upper() != "CMD":
        suggestion = nearest(kind, ("CMD", "NONE"), fold=True)
        raise problem(f"Unknown type {quote(kind.upper())} in HEALTHCHECK (try CMD)", word=kind, suggestion=suggestion)
    command = _command(argument)
    if not command.words:
        raise problem("Missing command after HEALTHCHECK CMD", word=kind)
    test = ("CMD-SHELL" if command.shell else "CMD", *command.words)
    interval, timeout, start, step = (_duration(name, flags.text(name)) for name in durations)
    retries = _retries(flags.text("retries"))
    return Healthcheck(request.at, HealthConfig(test, interval, timeout, start, step, retries))


def _duration(name: str, text: str) -> int:
    try:
        value = parse_duration(text) if text else 0
    except InvalidInput as error:
        raise problem(error.message, word=text) from None
    except OverflowError:
        value = _NANOSECONDS_MAX
    if value >= _NANOSECONDS_MAX:
        raise problem(f'time: invalid duration "{text}"', word=text)
    if value and value < _MILLISECOND:
        raise problem(f"Interval {quote(name)} cannot be less than 1ms", word=text)
    return value


def _retries(text: str) -> int:
    if not text:
        return 0
    if not re.fullmatch(r"[-+]?[0-9]{1,10}", text) or abs(int(text)) >= 1 << 31:
        raise problem(f"invalid value for --retries: {text}", word=text)
    if int(text) < 0:
        raise problem(f"--retries cannot be negative ({text})", word=text)
    return int(text)


_BUILDERS: dict[str, Callable[[_Request], Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _with_command(Cmd),
    "COPY": _copy,
    "ENTRYPOINT": _with_command(Entrypoint),
    "ENV": lambda request: Env(request.at, _pairs(request)),
    "EXPOSE": _expose,
    "HEALTHCHECK": _healthcheck,
    "LABEL": lambda request: Label(request.at, _pairs(request)),
    "MAINTAINER": lambda request: Maintainer(request.at, _one(request)),
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": lambda request: StopSignal(request.at, _one(request)),
    "USER": lambda request: User(request.at, _one(request)),
    "VOLUME": _volume,
    "WORKDIR": lambda request: Workdir(request.at, _one(request)),
}
