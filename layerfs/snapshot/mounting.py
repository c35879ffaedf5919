"""Mounting a tree, with or without a writable layer, by one of the engines; and unmounting it."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

from layerfs import mount
from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass, field, replace
from layerfs.errors import InUse, InvalidInput, LayerfsError, MountError, NoSpace, Unsupported
from layerfs.layer.tree import Tree
from layerfs.layer.upper import TRUSTED, prefix_of
from layerfs.snapshot import control
from layerfs.snapshot.holding import PATIENCE, Held, hold_container, open_locks
from layerfs.snapshot.native import SERVER, Server, join_thread, serve_in_thread
from layerfs.snapshot.options import MountOptions, Options
from layerfs.snapshot.pending import await_mounted, pending
from layerfs.snapshot.settle import settle
from layerfs.snapshot.states import discard_unused
from layerfs.snapshot.table import SERVED, MountRecord, MountTable, source_of
from layerfs.store.format import BLOCKS_VERSION
from layerfs.store.leases import process_start
from layerfs.store.reserve import make_directory, with_reserve
from layerfs.store.root import StoreRoot

if TYPE_CHECKING:
    from typing import Any

    from layerfs.store.index import Txn

__all__ = [
    "ENGINES",
    "Begun",
    "MountHandle",
    "Writable",
    "begun",
    "check_rows",
    "container_lock",
    "mount_tree",
    "unmount",
]

ENGINES = ("kernel", "native", "python")
_END_SECONDS, _COPIED_SECONDS = 10, 1.0
Orders = tuple[dict[str, str], list[str], list[tuple[str, str]]]  # what native.start_native is given


@dataclass(frozen=True, slots=True)
class Writable:
    """A container's part of a mount. `frozen`: its upper-format directories below `upper`, newest first. `home`: its
    own directory, which has its lock; by default the one that has the upper."""

    container: str
    upper: Path
    work: Path
    frozen: tuple[Path, ...] = ()
    home: Path | None = None


@dataclass
class MountHandle:
    """A mount that somebody made; as a context manager it gives the path and unmounts at the end."""

    path: Path
    engine: str
    id: str
    _root: StoreRoot = field(repr=False)
    _over: bool = field(default=False, repr=False)

    def unmount(self, *, lazy: bool = False) -> None:
        """Raises InUse when something uses it and `lazy` is false. A second call does nothing."""
        unmount(self._root, self.id, lazy=lazy)
        self._over = True

    def stats(self) -> dict[str, Any]:
        """What its server has counted: requests, latencies, what it keeps; see docs/architecture.md.

        Raises:
            NotFound: it has no server that counts (engines kernel and python), or it has ended.
        """
        return control.request(self._root, self.id, "stats")

    def __enter__(self) -> Path:
        if self._over:  # what is written to its place would be in no container
            raise MountError("this mount has ended; mount again", path=str(self.path))
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unmount()


def mount_tree(
    root: StoreRoot,
    tree: Tree,
    *,
    engine: str,
    target: Path,
    writable: Writable | None = None,
    read_only: bool = False,
    image: str = "",
    shown: str = "",
    places: tuple[str, ...] = (),
    options: Options = (),
    check: Callable[[Txn], object] = lambda txn: None,
    in_process: bool = False,
    early: Begun | None = None,
) -> MountHandle:
    """Mount a merged tree at `target`, an empty directory (made when missing).

    Without `writable` the mount is read-only. With it and `read_only` the container's changes are shown but not
    changed. `options`: see MountOptions.parse; limits (size, inodes) need a writable mount. `image`, `shown`: what the
    tree is of, for those who ask what is in use: an image, and the state above it; `places`: where the frozen uppers of
    `writable` are. `check` is called in the transaction of the mount's row, and may raise.
    `in_process` (engine native, for tests): its server is a thread of this process, and ends with it. `early`: a server
    that was begun for this, if nobody has used it yet.

    Raises:
        InUse: the container has a writable mount already, or something is mounted at the target.
        InvalidInput: the target is no empty directory, or an unknown engine or option.
        Unsupported: the engine does not work here, or has not all of the options.
        MountError: why mounting failed. Nothing stays behind.
    """
    wanted = _wanted(engine, options, writable=writable is not None and not read_only)
    target = Path(os.path.realpath(target))
    record = MountRecord.new(
        target=str(target),
        engine=engine,
        image=image,
        shown=shown,
        places=places,
        container=writable.container if writable else "",
        read_only=read_only or writable is None,
        options=wanted.texts(),
    )
    with contextlib.ExitStack() as stack:
        server = held = None
        if engine == "native":
            server = stack.enter_context(_begun(root, early, writable=writable is not None, in_process=in_process))
        if writable is not None:
            held = stack.enter_context(container_lock(root, writable, server.lock_fd if server else -1))
        record = replace(record, made=_prepare_target(root, target))
        stack.enter_context(root.lock("trees", exclusive=False))  # gc moves packs under it
        stack.enter_context(pending(root, record.id))
        try:
            _mount_and_record(root, tree, record, writable, wanted, held, check, server)
        except BaseException:
            with contextlib.suppress(LayerfsError):
                _unmount(root, record.id, lazy=True)
            _forget(root, record)  # its row may not have been written
            raise
    return MountHandle(target, engine, record.id, root)


def _wanted(engine: str, options: Options, *, writable: bool) -> MountOptions:
    """Raises as mount_tree: these go together."""
    if engine not in ENGINES:
        raise InvalidInput(f"unknown engine {engine!r} (there are {', '.join(ENGINES)})")
    wanted = MountOptions.parse(options)
    wanted.check_engine(engine)
    if wanted.limited and not writable:
        raise InvalidInput("the mount options size and inodes need a writable mount")
    return wanted


def _mount_and_record(
    root: StoreRoot,
    tree: Tree,
    record: MountRecord,
    writable: Writable | None,
    wanted: MountOptions,
    held: Held | None,
    check: Callable[[Txn], object],
    server: Begun | None,
) -> None:
    """The row comes before the mount, so that a kill in between leaves nothing that no one knows of."""

    def begin(pid: int | None = None) -> None:
        MountTable(root).add(record.with_process(os.getpid() if pid is None else pid), check)
        if held is not None and held.outpaced():
            raise InUse("an older layerfs is using the container", path=record.target)

    if server is None or server.in_process:
        begin()
    if writable is not None and (server is None or record.read_only):
        _make_work(root, writable.work)
    if writable is not None and server is None:
        _complete(root, writable, sync="volatile" not in wanted.flags)
    if writable is not None and not root.read_only:
        _settle(tree, writable, record.engine, read_only=record.read_only)
    if server is not None:
        pid = server.serve(root, record.id, _native_orders(root, tree, record, writable, wanted), begin)
    else:
        pid = _mount(root, tree, record, writable, wanted, held.fd if held else None)
    if pid is not None:
        MountTable(root).add(record.with_process(pid))


def _make_work(root: StoreRoot, work: Path) -> None:
    """A new container has none; the native engine's server makes its own."""
    try:
        make_directory(root.path, work, "what a mount needs")
    except NoSpace:
        raise
    except OSError:  # a read-only store
        pass


def _complete(root: StoreRoot, writable: Writable, *, sync: bool) -> None:
    """Block-level files are the native engine's alone: another one gets whole ones."""
    from layerfs.layer.blocks import complete_upper

    for directory in (writable.upper, *writable.frozen):
        complete_upper(directory, root.path / "objects", prefix_of(writable.upper), sync=sync)


def _make_whole(root: StoreRoot, tree: Tree) -> None:
    """The kernel opens objects by itself: what is kept as a delta becomes whole."""
    from layerfs.store.treefile import TreeFile
    from layerfs.store.whole import make_whole

    with root.index.view() as txn:
        if next(txn.scan("deltas"), None) is None:
            return
    make_whole(root, set(TreeFile(Path(tree.path)).identities()))


def _settle(tree: Tree, writable: Writable, engine: str, *, read_only: bool) -> None:
    """Makes of what another engine has left what this one goes on with. Read-only, the kernel has no use for its index:
    the upper is one of the lower directories then."""
    if engine != "native":
        (writable.work / "usage").unlink(missing_ok=True)  # this engine does not count (quota.c)
    keep = engine == "kernel" and not writable.frozen and not read_only
    settle(tree, writable.upper, writable.work, writable.frozen, keep_index=keep)


def _mount(
    root: StoreRoot,
    tree: Tree,
    record: MountRecord,
    writable: Writable | None,
    options: MountOptions,
    lock_fd: int | None,
) -> int | None:
    """Makes the mount, by another engine than the native one; the pid of its server, if it has one."""
    frozen: Sequence[Path] = writable.frozen if writable else ()
    upper: Path | None = writable.upper if writable else None
    if record.engine == "python":
        from layerfs.snapshot.python import start_server

        orders = {
            "tree": tree.path,
            "packs": str(root.path / "packs"),
            "objects": str(root.path / "objects"),
            "target": record.target,
            "name": source_of(record.id),
            "frozen": [str(path) for path in frozen],
            "options": options.attributes,
            "volatile": "volatile" in options.flags,
            "read_only": record.read_only,
        }
        if writable is not None:
            orders |= {"upper": str(writable.upper), "work": str(writable.work)}
        return start_server(orders, lock_fd=lock_fd)
    if writable is not None and prefix_of(writable.upper) != TRUSTED:
        raise Unsupported("the engine kernel cannot mount an ordinary user's container: use another engine")
    from layerfs.snapshot.kernel import mount_kernel

    attributes = 0
    for option in [*options.attributes, *(["ro"] if record.read_only else [])]:
        attributes |= mount.ATTRIBUTES[option]
    with Tree.open(tree.path) as current:
        packs = [root.contents.pack_path(number) for number in current.packs]
        _make_whole(root, tree)
    mount_kernel(
        Path(record.target),
        tree=Path(tree.path),
        packs=packs,
        objects=root.path / "objects",
        frozen=[*([upper] if upper and record.read_only else []), *frozen],
        upper=mount.Upper(writable.upper, writable.work) if writable and not record.read_only else None,
        source=source_of(record.id),
        attributes=attributes,
        volatile="volatile" in options.flags,
    )
    return None


class Begun:
    """A server of a native mount that is to come: it loads while we find out what to mount, and prepare what it needs.
    As a context manager it ends with the block, unless it serves a mount by then; so it may be several times.

    `lock_fd`: what the container's lock is to be taken on, as the server has inherited it; -1 without one.
    `in_process`: there is no process, but a thread of ours when it mounts.
    """

    _server: Server | None = None
    _used = False

    def __init__(self, root: StoreRoot, *, writable: bool, in_process: bool = False) -> None:
        self.in_process = in_process
        with contextlib.ExitStack() as stack:
            self._listener = stack.enter_context(control.new_socket())
            self.lock_fd = open_locks(root) if writable else -1
            if writable:
                stack.callback(os.close, self.lock_fd)
            if not in_process:
                self._server = stack.enter_context(Server(self._inherited, self._listener.fileno()))
            self._stack = stack.pop_all()

    @property
    def pid(self) -> int | None:
        return self._server.pid if self._server is not None else None

    @property
    def _inherited(self) -> int | None:
        return self.lock_fd if self.lock_fd >= 0 else None

    def __enter__(self) -> Begun:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def take(self) -> bool:
        """Whether it is for the caller: it mounts once."""
        free, self._used = not self._used, True
        return free

    def serve(self, root: StoreRoot, id: str, orders: Orders, begin: Callable[[int], object]) -> int | None:
        """Has it mount; in a thread of ours it gives our pid. The mount's row is written by `begin`, with its process,
        while it prepares itself."""
        control.listen(root, id, self._listener)
        if self._server is None:
            return serve_in_thread(*orders, lock_fd=self._inherited, control_fd=self._listener.fileno())
        self._server.mount(*orders, before=begin)
        return None


@contextlib.contextmanager
def begun(root: StoreRoot, engine: str | None, *, writable: bool) -> Iterator[Begun | None]:
    """For `mount_tree`, when it is to be by that engine, or the best one: a server, where that has one that loads."""
    if (engine or "native") != "native" or not supported("native"):
        yield None
        return
    with Begun(root, writable=writable) as server:
        yield server


def _begun(root: StoreRoot, early: Begun | None, *, writable: bool, in_process: bool) -> Begun:
    if early is not None and early.take():
        return early
    return Begun(root, writable=writable, in_process=in_process)


def _native_orders(
    root: StoreRoot, tree: Tree, record: MountRecord, writable: Writable | None, options: MountOptions
) -> Orders:
    orders = {
        "tree": str(tree.path),
        "packs": f"{root.path}/packs",
        "objects": f"{root.path}/objects",
        "target": record.target,
        "name": source_of(record.id),
    }
    if writable is not None:
        orders |= {"upper": str(writable.upper), "work": str(writable.work), "uppers": f"{root.path}/uppers"}
        if not record.read_only:
            root.raise_format(BLOCKS_VERSION)  # what it makes of big files only we read right
    frozen = [("frozen", str(path)) for path in (writable.frozen if writable else ())]
    flags = [*options.switches(), *(["read_only"] if record.read_only else [])]
    return orders | options.orders(), flags, frozen


@contextlib.contextmanager
def container_lock(root: StoreRoot, writable: Writable, fd: int = -1) -> Iterator[Held]:
    """Keeps others from mounting the container: for the time of mounting, and by its server as long as that lives.

    A lock of the kernel, so a crash frees it; kernel mounts, which have no process, are found by their row.
    """
    with hold_container(root, writable.home or writable.upper.parent, writable.container, fd) as held:
        if MountTable(root).has_rows_of(writable.container):
            check_rows(MountTable(root), writable.container)
        yield held


def check_rows(table: MountTable, container: str) -> None:
    """Raises InUse when a row says that the container is mounted. A server whose lock we could take is just dying."""
    deadline = time.monotonic() + PATIENCE
    while True:
        table.clean_dead(container)
        mounted = [record for record in table.of_container(container) if not record.read_only]
        if not mounted:
            return
        if mounted[0].engine not in SERVED or time.monotonic() > deadline:
            raise InUse(f"container {container[:12]} is mounted already", path=mounted[0].target)
        time.sleep(0.02)


def _prepare_target(root: StoreRoot, target: Path) -> bool:
    """Checks that the target is an empty directory that nothing is mounted on; True when it had to be made. What a dead
    server left there goes."""
    try:
        target.mkdir()
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise NoSpace("no space left while making the mount point", path=str(target)) from error
        raise InvalidInput(f"cannot make the mount point: {error.strerror}", path=str(target)) from error
    else:
        return True
    if mount.entry_of(target, real=True) is not None:
        MountTable(root).clean_dead()
        if not target.exists():  # the dead mount had made it
            return _prepare_target(root, target)
        if mount.entry_of(target, real=True) is not None:
            raise InUse("something is mounted there already", path=str(target))
    try:
        empty = not os.listdir(target)  # noqa: PTH208 (in every run)
    except OSError as error:
        raise InvalidInput(f"not usable as a mount point: {error.strerror}", path=str(target)) from error
    if not empty:
        raise InvalidInput("the mount point is not empty", path=str(target))
    return False


def unmount(root: StoreRoot, id: str, *, lazy: bool = False) -> None:
    """Unmount by the mount's id; nothing happens when it is not mounted any more.

    Returns when a server has ended too (unless `lazy`), so that the container's files are at rest.

    Raises:
        InUse: something uses the mount; says who.
    """
    await_mounted(root, id)
    _unmount(root, id, lazy=lazy)


def _unmount(root: StoreRoot, id: str, *, lazy: bool) -> None:
    table = MountTable(root)
    record = table.find(id)
    if record is None:
        return
    source = source_of(id).encode()
    entries = [each for each in mount.mount_table(part=source) if each.source == source]
    for entry in reversed(entries):
        try:
            mount.detach(Path(os.fsdecode(entry.target)), lazy=lazy)
        except MountError:
            if any(each.source == source for each in mount.mount_table(part=source)):
                raise  # else somebody else was faster
    if record.engine in SERVED and not lazy:
        _await_end(record, os.makedev(*map(int, entries[0].device.split(":"))) if entries else None)
    _forget(root, record)
    with_reserve(root.path, lambda: table.remove(id))
    if record.places and not lazy:
        discard_unused(root, record.places)


def _forget(root: StoreRoot, record: MountRecord) -> None:
    if record.made:
        with contextlib.suppress(OSError):
            Path(record.target).rmdir()
    control.forget(root, record.id)


def _await_end(record: MountRecord, device: int | None) -> None:
    """A mount namespace that somebody copied meanwhile holds the mount too; where nobody uses it, it ends with ours."""
    if record.pid == os.getpid():
        join_thread(source_of(record.id), _END_SECONDS)
        return
    try:
        server = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if process_start(record.pid) != record.pid_start or _ended(server, _COPIED_SECONDS):
            return
        users = mount.device_users(device, source=source_of(record.id).encode()) if device is not None else []
        if users and not _ended(server, _COPIED_SECONDS):  # else it was slow, and others have its device's number now
            raise InUse(f"in use in another mount namespace by {', '.join(users)}", path=record.target)
        for patience in (0.5, _END_SECONDS):  # the first one asks it to unmount, the second one to end
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                signal.pidfd_send_signal(server, signal.SIGTERM)
            if _ended(server, patience):
                return
        raise MountError(f"unmounted, but the server (pid {record.pid}) has not ended", path=record.target)
    finally:
        os.close(server)


def _ended(server: int, seconds: float) -> bool:
    return bool(select.select([server], [], [], seconds)[0])


def supported(engine: str) -> bool:
    """Whether an engine could work here, without mounting anything."""
    if engine == "kernel":
        return os.geteuid() == 0 and "erofs" in _file_systems() and "overlay" in _file_systems()
    if engine == "native":
        return os.path.exists(SERVER) and os.path.exists("/dev/fuse")  # noqa: PTH110 (twice in every mount)
    if engine == "python":
        return os.access("/dev/fuse", os.R_OK | os.W_OK)
    raise Unsupported(f"no engine {engine!r}")


def _file_systems() -> set[str]:
    return {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines() if line}
