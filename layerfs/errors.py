"""The errors layerfs raises on purpose.

    LayerfsError (OSError)
    ├── NotFound (FileNotFoundError)
    │   ├── ImageNotFound
    │   └── ContainerNotFound
    ├── AlreadyExists (FileExistsError)
    ├── Ambiguous                      a short ID with several candidates
    ├── InUse                          rmi of a used image, second mount of a container, rm of a running container
    ├── InvalidInput                   bad arguments, names, references, instructions
    │   ├── InvalidArchive             an archive, layer or layout that breaks its rules
    │   └── InvalidDockerfile          a Dockerfile that cannot be read; knows the line and the word
    ├── Corrupt                        stored or streamed bytes are not what their digest says
    ├── StoreError                     the store cannot be used
    │   ├── StoreReadOnly              a write to a store on a read-only file system
    │   └── StoreVersionError          made by a newer layerfs
    ├── NoSpace                        ENOSPC / EDQUOT while writing
    ├── Unsupported                    this kernel, user or build cannot do it
    ├── MountError                     mount or unmount failed
    ├── RegistryError                  a registry refused, or said what its protocol does not know
    │   ├── RegistryUnreachable (ConnectionError)   no connection, or it broke off
    │   ├── RegistryDenied (PermissionError)        not logged in there, or not allowed
    │   └── RegistryNotFound (NotFound)             no such repository, manifest or blob there
    ├── RunTimeout (TimeoutError)      the container ran longer than it was allowed, and was killed
    └── RunError                       the container could not be started (exit code 125)
        ├── CommandNotExecutable       exit code 126
        └── CommandNotFound            exit code 127

Every one carries an errno, so a FUSE engine can answer the kernel without translation.
The command line prints `str(error)` as one line.
"""

from __future__ import annotations

import errno
import functools
import os

from layerfs._lazy import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any


class LayerfsError(OSError):
    """Base of every error raised on purpose; `code` is the default errno."""

    code: int = errno.EIO
    exit_code: int = 1

    def __init__(self, message: str, *, path: str | bytes | None = None) -> None:
        super().__init__(self.code, message, os.fsdecode(path) if path is not None else None)
        self.message = message

    def __str__(self) -> str:
        return f"{self.message}: {self.filename}" if self.filename is not None else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        state = {**self.__dict__, "errno": self.errno}
        return functools.partial(type(self), self.message, path=self.filename), (), state


class NotFound(LayerfsError, FileNotFoundError):
    code = errno.ENOENT


class ImageNotFound(NotFound):
    """No image of that name or ID; docker's words: `No such image: NAME:TAG`."""


class ContainerNotFound(NotFound):
    """No container of that name or ID; docker's words: `No such container: NAME`."""


class AlreadyExists(LayerfsError, FileExistsError):
    code = errno.EEXIST


class Ambiguous(LayerfsError):
    """A short ID that several images or containers share; `candidates` lists them."""

    code = errno.EINVAL

    def __init__(self, message: str, *, candidates: tuple[str, ...] = (), path: str | bytes | None = None) -> None:
        super().__init__(message, path=path)
        self.candidates = candidates


class InUse(LayerfsError):
    code = errno.EBUSY


class InvalidInput(LayerfsError):
    code = errno.EINVAL


class InvalidArchive(InvalidInput):
    code = errno.EBADMSG


class InvalidDockerfile(InvalidInput):
    """A Dockerfile that cannot be read or planned; `str()` is one line, `excerpt` shows the place with a caret.

    `line` is that of the wrong word, in an instruction from `first_line` to `last_line`; 0 when no place is known.
    """

    file: str = ""
    line: int = 0
    first_line: int = 0
    last_line: int = 0
    word: str = ""
    excerpt: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else super().__str__()


class Corrupt(LayerfsError):
    code = errno.EIO


class StoreError(LayerfsError):
    code = errno.EIO


class StoreReadOnly(StoreError):
    code = errno.EROFS


class StoreVersionError(StoreError):
    code = errno.EPROTONOSUPPORT


class NoSpace(LayerfsError):
    code = errno.ENOSPC


class Unsupported(LayerfsError):
    code = errno.ENOTSUP


class MountError(LayerfsError):
    code = errno.EIO


class RegistryError(LayerfsError):
    """A registry refused, or said what its protocol does not know; `status` is HTTP's, 0 when there is none.

    `retry_after`: the seconds that it asks to wait for.
    """

    code = errno.EREMOTEIO
    status: int = 0
    retry_after: float | None = None


class RegistryUnreachable(RegistryError, ConnectionError):
    """No connection, or it broke off; `again`: another attempt may do better."""

    code = errno.ECONNABORTED
    again: bool = True


class RegistryDenied(RegistryError, PermissionError):
    code = errno.EACCES


class RegistryNotFound(RegistryError, NotFound):
    code = errno.ENOENT


class RunError(LayerfsError):
    """The container could not be started; `exit_code` is docker's (125, 126, 127)."""

    code = errno.ENOEXEC
    exit_code = 125


class CommandNotExecutable(RunError):
    code = errno.EACCES
    exit_code = 126


class CommandNotFound(RunError):
    code = errno.ENOENT
    exit_code = 127


class RunTimeout(LayerfsError, TimeoutError):
    """The container was killed because its time was over; `result` holds what it had written by then."""

    code = errno.ETIMEDOUT
    exit_code = 124
    result: Any = None
