"""The helper's failure packets as errors, in docker's words and with its exit codes."""

from __future__ import annotations

import errno
import os

from layerfs.errors import CommandNotExecutable, CommandNotFound, RunError

_PREFIX = "unable to start container process: "
LOOKUP, EXEC = 10, 11  # enum lfs_stage
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


def error_of(stage: int, number: int, text: bytes) -> RunError:
    """CommandNotFound (127), CommandNotExecutable (126) or RunError (125)."""
    shown = text.decode(errors="replace")
    if stage in (LOOKUP, EXEC):
        return _command_error(stage, number, shown)
    return RunError(f"{_PREFIX}{shown}: {_reason(number)}")
