"""The helper's failure packets as errors, in docker's words and with its exit codes."""

from __future__ import annotations

import errno
import os
import re

from layerfs._lazy import pattern
from layerfs.errors import CommandNotExecutable, CommandNotFound, RunError

_PREFIX = "unable to start container process: "
LOOKUP, EXEC, RUNTIME = 10, 11, 12  # enum lfs_stage
EXIT_CODE = 125


def _reason(number: int) -> str:
    text = os.strerror(number)
    return text[:1].lower() + text[1:]


def _command_error(stage: int, number: int, name: str) -> RunError:
    if stage == EXEC:
        text = f"{_PREFIX}exec {name}: {_reason(number)}"
    elif number == errno.ENOENT and "/" not in name:
        text = f'{_PREFIX}exec: "{name}": executable file not found in $PATH'
    elif number in (errno.ENOENT, errno.ENOTDIR):
        text = f'{_PREFIX}exec: "{name}": stat {name}: {_reason(number)}'
    else:
        text = f'{_PREFIX}exec: "{name}": {_reason(number)}'
    if number in (errno.ENOENT, errno.ENOTDIR):
        return CommandNotFound(text)
    if number in (errno.EACCES, errno.EISDIR, errno.ENOEXEC, errno.EPERM, errno.ETXTBSY):
        return CommandNotExecutable(text)
    return RunError(text)


_NOT_FOUND = pattern(r"executable file .*not found|no such file or directory\W*\Z|not a directory\W*\Z", re.IGNORECASE)
_NOT_RUN = pattern(
    r"permission denied\W*\Z|operation not permitted\W*\Z|is a directory\W*\Z|exec format error\W*\Z|not executable",
    re.IGNORECASE,
)


def _runtime_error(number: int, text: str) -> RunError:
    """What another runtime said; which code docker gives for it, is in its words only."""
    said = re.split(r'"[,}]', text.replace('\\"', "\1"))[0].replace("\1", '"')
    said = "".join(c if c.isprintable() else "?" for c in said).removeprefix("runc create failed: ")
    said += "" if number == errno.ECANCELED else f": {_reason(number)}"
    command = "exec" in said or "executable" in said
    if command and _NOT_FOUND.search(said):
        return CommandNotFound(said)
    if command and _NOT_RUN.search(said):
        return CommandNotExecutable(said)
    return RunError(said)


def error_of(stage: int, number: int, text: bytes) -> RunError:
    """CommandNotFound (127), CommandNotExecutable (126) or RunError (125)."""
    shown = text.decode(errors="replace")
    if stage == RUNTIME:
        return _runtime_error(number, shown)
    if stage in (LOOKUP, EXEC):
        return _command_error(stage, number, shown)
    return RunError(f"{_PREFIX}{shown}: {_reason(number)}")
