"""The root of a container while programs run in it, in whatever threads and processes: the first run mounts it, the
last one unmounts it. A mount that a user made is used as it is, and stays.

`containers/<id>/run/lock` is held shared by every run; who has it exclusively is alone. `run/mount` says that the mount
is the runs' own, `run/points` what they made in it, `run/<token>/` has the files of one run. All of it may go when
nobody holds the lock: a killed run leaves nothing that the next one, or `diff`, `commit` or `rm`, does not clear away.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.engine.mounts import mount_container, mounted_at, unmount_all, writable_mounts
from layerfs.engine.points import clear_points, make_points
from layerfs.engine.state import KILLED, State
from layerfs.engine.surroundings import clear, leftovers
from layerfs.errors import ContainerNotFound, InUse, LayerfsError, MountError, RunError
from layerfs.store.durable import write_all, writing
from layerfs.store.reserve import make_directory, reading
from layerfs.store.trash import remove_tree

if TYPE_CHECKING:
    from layerfs.engine.container import Container
    from layerfs.runtime import Process

_MOUNT_SECONDS, _RUN = 30, "run"
_OWN_FILES = {"lock", "mount", "points"}
_locks: set[int] = set()  # descriptors that a forked child must not keep: a lock lasts as long as any copy of it


def _forget_locks() -> None:
    for fd in _locks:
        os.close(fd)
    _locks.clear()


os.register_at_fork(after_in_child=_forget_locks)


@dataclass(frozen=True, slots=True)
class Place:
    """Where one run happens: the mounted `root`, and a directory for its files."""

    root: Path
    files: Path


@contextlib.contextmanager
def place_of(box: Container, engine: str | None) -> Iterator[Place]:
    """A run's place, for as long as the block lasts. Raises what mounting raises."""
    with _entered(box, engine) as (home, lock, place):
        try:
            yield place
        finally:
            _give_back(box, home, lock, place)


@contextlib.contextmanager
def borrowed_place(box: Container, engine: str | None) -> Iterator[tuple[Place, int]]:
    """A place, and the lock that keeps it, for a monitor: who holds a copy of the descriptor when the block ends well
    keeps the place. After an exception it is given back."""
    with _entered(box, engine) as (home, lock, place):
        try:
            yield place, lock
        except BaseException:
            _give_back(box, home, lock, place)
            raise


@contextlib.contextmanager
def _entered(box: Container, engine: str | None) -> Iterator[tuple[Path, int, Place]]:
    home = box.store.container_table.home(box.id) / _RUN
    make_directory(box.store.path, home, "the files of a run")
    with _lock(home) as lock:
        root = _enter(box, home, lock, engine)
        files = home / os.urandom(8).hex()
        make_directory(box.store.path, files, "the files of a run")
        place = Place(root, files)
        try:
            if made := make_points(root):
                reading(box.store.path, lambda: _note(home, made))
        except BaseException:
            _give_back(box, home, lock, place)
            raise
        yield home, lock, place


def _note(home: Path, made: list[bytes]) -> None:
    """Several runs at once may each have made some."""
    with writing("the files of a run"):
        fd = os.open(f"{home}/points", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            write_all(fd, b"".join(path + b"\n" for path in made))
        finally:
            os.close(fd)


def _give_back(box: Container, home: Path, lock: int, place: Place) -> None:
    remove_tree(place.files)
    try:
        if _alone(lock):
            _leave(box, home)
    except OSError:
        if home.exists():
            raise  # else it was removed by force meanwhile, with all that it had


def _is_clear(box: Container, home: Path) -> bool:
    if not home.exists():
        return True  # no program was ever run in it
    return not (home / "mount").exists() and not (home / "points").exists() and not leftovers(box)


def release(box: Container) -> None:
    """Take away what killed runs left behind; nothing happens while one goes on."""
    home = _home(box)
    if _is_clear(box, home):
        return
    with contextlib.suppress(FileNotFoundError), _lock(home) as lock:
        if _alone(lock):
            _leave(box, home)


def release_root(box: Container) -> None:
    """The same, as far as it is seen in the container's files: cheap, when nothing has run. Who is clearing up after a
    program that has ended is waited for."""
    home = f"{box.directory}/{_RUN}"
    if os.path.exists(f"{home}/mount") or os.path.exists(f"{home}/points"):
        if box.state.running:
            release(box)
        else:
            with no_runs(box):
                pass


def inherit_points(box: Container, points: Sequence[str]) -> None:
    """Of a container that stands on a state in which a run went on, and on nothing else: what that run had made is
    taken away as if it had been one of its own."""
    if points:
        home = box.store.container_table.home(box.id) / _RUN
        home.mkdir(0o700, exist_ok=True)
        (home / "points").write_bytes(b"".join(os.fsencode(path) + b"\n" for path in points))


@contextlib.contextmanager
def no_runs(box: Container, patience: float = 5.0) -> Iterator[bool]:
    """`release`, and nobody enters the container meanwhile. Who enters or leaves it is waited for (the latter would
    mount it once more to clear up); but not longer than `patience` seconds: False when somebody is there still."""
    home, deadline, alone = _home(box), time.monotonic() + patience, True
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(FileNotFoundError):
            lock = stack.enter_context(_lock(home))
            while not (alone := _alone(lock)) and time.monotonic() < deadline:
                time.sleep(0.005)
            if alone and not _is_clear(box, home):
                _leave(box, home)
        yield alone


def _home(box: Container) -> Path:
    return box.directory / _RUN


@contextlib.contextmanager
def _lock(home: Path) -> Iterator[int]:
    with writing("the lock of a container"):
        fd = os.open(f"{home}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    _locks.add(fd)
    try:
        yield fd
    finally:
        if fd in _locks:  # not in a forked child, where it is closed already
            _locks.discard(fd)
            os.close(fd)


def _alone(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _enter(box: Container, home: Path, lock: int, engine: str | None) -> Path:
    """The mounted root, with the lock held shared."""
    deadline = time.monotonic() + _MOUNT_SECONDS
    while True:
        first = _alone(lock)
        if not first:
            fcntl.flock(lock, fcntl.LOCK_SH)
        root = mounted_at(box.store, box.id)
        if root is None and first:
            root = _mount(box, home, engine)
        if root is not None:
            fcntl.flock(lock, fcntl.LOCK_SH)
            return root
        fcntl.flock(lock, fcntl.LOCK_UN)
        if time.monotonic() > deadline:
            raise MountError(f"container {box.name} is mounted and unmounted all the time")
        time.sleep(0.01)


def _mount(box: Container, home: Path, engine: str | None) -> Path | None:
    """Mounted for the runs; None when a user was quicker."""
    mark = home / "mount"
    mark.touch()
    try:
        return mount_container(box.store, box.record, None, engine, read_only=False, tree=box.given_tree).path
    except InUse:
        mark.unlink(missing_ok=True)
        if mounted_at(box.store, box.id) is None:
            raise
        return None
    except BaseException:
        mark.unlink(missing_ok=True)
        raise


def _leave(box: Container, home: Path) -> None:
    """By the last one."""
    clear(box)
    points, mark, there = home / "points", home / "mount", os.listdir(home)
    pointed, marked = points.name in there, mark.name in there
    mounts = writable_mounts(box.store, box.id) if pointed or marked else []
    if pointed:
        root = Path(mounts[0].target) if mounts else None
        if root is None:  # somebody unmounted it, or the machine was started anew
            root = _mount(box, home, None)
            mounts = writable_mounts(box.store, box.id)
        if root is not None:
            clear_points(root, points.read_bytes().splitlines())
        points.unlink()
    if marked or mark.exists():  # mounted again just now
        try:
            unmount_all(box.store, mounts, lazy=False)
        except InUse:  # a shell stands in it: the next run, or rm, tries again
            return
        mark.unlink(missing_ok=True)
    for name in set(there) - _OWN_FILES:
        if os.path.isdir(f"{home}/{name}"):  # of a run that was killed
            remove_tree(home / name)


class Record:
    """Writes into the container's row what its program does; a container that is removed meanwhile has none."""

    def __init__(self, box: Container) -> None:
        self._box, self._pid = box, 0

    def started(self, process: Process) -> None:
        self._pid = process.pid
        self._change(lambda state: state.started(process.pid, time.time_ns()))

    def ended(self, code: int) -> None:
        self._change(lambda state: state.ended(self._pid, code, time.time_ns()))

    def _change(self, change: Callable[[State], State]) -> None:
        with contextlib.suppress(ContainerNotFound):
            self._box.change_state(change)

    def failed(self, error: BaseException) -> None:
        """However it ended: not at all started, or killed because of a time limit or a Ctrl-C."""
        if self._pid:
            self.ended(KILLED)
        elif isinstance(error, RunError):
            self._change(lambda state: state.failed(error.exit_code, str(error)))


@contextlib.contextmanager
def recorded(box: Container) -> Iterator[Record]:
    """The container's state tells of this run from its start to its end, whichever way it ends."""
    record = Record(box)
    try:
        yield record
    except BaseException as error:
        with contextlib.suppress(LayerfsError):
            record.failed(error)
        raise


__all__ = ["Place", "Record", "borrowed_place", "no_runs", "place_of", "recorded", "release", "release_root"]
