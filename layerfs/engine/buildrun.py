"""A RUN step of a build: a container of its own on the layers so far, hidden from `ps`, gone when the step has ended.

What a step has mounted and made is found again by its container, which names the build's lease: when the builder is
killed, a small watcher clears all that away, and so does the next build or gc.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerfs._record import dataclass, replace
from layerfs.build.programs import NOT_FOUND, Tail, meant, missing
from layerfs.build.steps import OnOutput, RunStep, StepFailed, StepMount
from layerfs.digest import Digest, chain_id
from layerfs.engine.container import Container
from layerfs.engine.mounts import mount_container, unmount_all
from layerfs.engine.settings import Settings
from layerfs.engine.stubs import Stubs
from layerfs.errors import (
    CommandNotExecutable,
    CommandNotFound,
    InvalidInput,
    LayerfsError,
    NotFound,
    RunError,
    Unsupported,
)
from layerfs.runtime.resources import NAMES as RESOURCES
from layerfs.runtime.rootpath import open_in_root

if TYPE_CHECKING:
    from layerfs.digest import DiffID
    from layerfs.engine.store import Store
    from layerfs.layer.tree import Tree
    from layerfs.runtime import RunOptions
    from layerfs.runtime.options import Bind, Tmpfs
    from layerfs.store.leases import Lease

OWNER = "build"  # in a container's config: the lease of the build that it belongs to
_SECRETS = "layerfs-secret-"
_PIPES = b"/dev/pipes"
_STDERR = 2
_HOST = "buildkitsandbox"  # BuildKit's


Registered = Callable[[Any], contextlib.AbstractContextManager[None]]


def run_step(
    store: Store,
    step: RunStep,
    tree: Tree,
    *,
    confinement: Mapping[str, Any],
    lease: Lease,
    latest_ns: int | None,
    output: OnOutput,
    keep_failed: bool,
    registered: Registered,
    ended: Callable[[Container], object],
) -> DiffID | None:
    """See build.steps.World.run. `tree`: of the step's layers. `confinement`: as for check_confinement. `registered`
    is told of the process while it runs, `ended` removes the container."""
    box = _create(store, step.layers, lease, tree)
    try:
        said = Tail()
        code, reason = _run(box, step, confinement, tree, lease, _overheard(output, said), registered)
        if code == NOT_FOUND:
            reason = _suggested(store, step, tree, said.data, reason)
        if code and not keep_failed:
            raise StepFailed(" ".join(step.argv), code, reason=reason)
        layer = _commit(box, tree, lease, latest_ns)
        if code:
            raise StepFailed(" ".join(step.argv), code, layer, reason)
        return layer
    finally:
        ended(box)


def _overheard(output: OnOutput, said: Tail) -> OnOutput:
    """Output that is kept for a look at its end."""

    def hear(stream: int, data: bytes) -> None:
        if stream == _STDERR:
            said.take(data)
        output(stream, data)

    return hear


def _suggested(store: Store, step: RunStep, tree: Tree, said: bytes, reason: str) -> str:
    from layerfs.build.files import TreeFiles

    name = meant(TreeFiles(store.root, tree), step.env, missing(step.argv, said))
    if not name:
        return reason
    return f"{reason} (did you mean {name}?)" if reason else f"did you mean {name}?"


def _create(store: Store, layers: Sequence[DiffID], lease: Lease, tree: Tree) -> Container:
    row: dict[str, Any] = Settings().row()
    row |= {"layers": [layer.hex for layer in layers], "image_name": "", OWNER: lease.id}
    stands_on = chain_id(layers).hex if layers else Digest.of(b"").hex
    box = Container(store, store.container_table.create(stands_on, None, row, tree=tree, durable=False))
    box.given_tree = tree
    return box


def remove(box: Container) -> None:
    """With its mounts, control groups and network; what went meanwhile is no error."""
    from layerfs.engine.running import release

    for place in Path("/dev/shm").glob(f"{_SECRETS}{box.id[:32]}-*"):
        shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(NotFound):
        release(box)
        box.store.container_table.remove(box.id, force=True)


def _run(
    box: Container,
    step: RunStep,
    confinement: Mapping[str, Any],
    tree: Tree,
    lease: Lease,
    output: OnOutput,
    registered: Registered,
) -> tuple[int, str]:
    """The exit code, and why it could not be started."""
    from layerfs.engine.running import place_of
    from layerfs.engine.surroundings import surrounded
    from layerfs.runtime import run

    settings = _settings(step, confinement)
    with (
        _mounts(box, step, lease) as mounts,
        place_of(box, None) as place,
        Stubs(tree, place.root, mounts.targets),
        contextlib.ExitStack() as running,
        surrounded(box, settings, place) as around,
    ):
        try:
            result = run(
                place.root,
                {},
                mounts.added(around.options),
                state=place.files,
                stdin=subprocess.DEVNULL,
                on_output=output,
                on_started=lambda process: running.enter_context(registered(process)),
            )
        except (CommandNotFound, CommandNotExecutable) as error:
            return error.exit_code, error.message
        except RunError as error:
            raise StepFailed(" ".join(step.argv), error.exit_code, reason=error.message) from None
        reason = "killed for want of memory" if around.oom_killed and result.returncode else ""
        return result.returncode, reason


CONFINEMENT = frozenset(
    {"ulimits", "shm_size", "cgroup_parent", "no_new_privileges", "seccomp", "unmasked", "cap_add", "cap_drop"}
    | {"dns", "dns_search", "dns_options", "sysctls"}
    | RESOURCES
)


def check_confinement(values: Mapping[str, Any]) -> None:
    """What limits every RUN of a build, by the names of `Store.create`. Raises InvalidInput."""
    for name in values:
        if name not in CONFINEMENT:
            raise InvalidInput(f"RUN cannot be limited by {name!r}: there are {', '.join(sorted(CONFINEMENT))}")
    Settings().changed(values)


def _settings(step: RunStep, confinement: Mapping[str, Any]) -> Settings:
    names = [pair.partition("=")[0] for pair in step.env]
    hidden = [] if "HOSTNAME" in names else ["HOSTNAME"]  # as BuildKit: not set
    values: dict[str, Any] = {
        "command": step.argv,
        "entrypoint": [""],
        "env": [*hidden, *step.env, *(pair for pair in step.proxies if pair.partition("=")[0] not in names)],
        "user": step.user or None,
        "workdir": step.workdir,
        "network": network_of(step.network),
        "privileged": step.privileged,
        "hostname": _HOST,
        "extra_hosts": [f"{_HOST}:127.0.0.1", *step.hosts],
        **confinement,
    }
    return Settings().changed({name: value for name, value in values.items() if value is not None})


def network_of(wanted: str) -> str:
    """`default` is a bridge, as docker has it, where this process can make one; else there is only a loopback."""
    if wanted != "default":
        return wanted
    able = os.geteuid() == 0 and shutil.which("nft") is not None and os.access("/proc/sys/net/ipv4/ip_forward", os.W_OK)
    return "bridge" if able else "none"


def _commit(box: Container, tree: Tree, lease: Lease, latest_ns: int | None) -> DiffID | None:
    from layerfs.layer import commit_layer

    index = box.store.container_table.work(box.id) / "index"
    layer = commit_layer(box.store.root, box.upper, tree, lease=lease, index=index, latest_ns=latest_ns)
    return layer.diff_id if layer is not None else None


@dataclass
class _Mounts:
    """What `--mount` comes to for the runtime."""

    binds: list[Bind]
    tmpfs: list[Tmpfs]
    env: list[str]
    targets: list[tuple[bytes, bool]]  # where something is mounted, and whether it is a directory

    def added(self, options: RunOptions) -> RunOptions:
        return replace(
            options,
            binds=[*options.binds, *self.binds],
            tmpfs=[*options.tmpfs, *self.tmpfs],
            env=[*options.env, *self.env],
        )


@contextlib.contextmanager
def _mounts(box: Container, step: RunStep, lease: Lease) -> Iterator[_Mounts]:
    from layerfs.runtime.options import Bind, Tmpfs

    made = _Mounts([], [], [], [])
    with contextlib.ExitStack() as stack:
        for mount in step.mounts:
            if mount.kind == "tmpfs":
                size = (f"size={mount.size}",) if mount.size else ()
                made.tmpfs.append(Tmpfs(mount.target, (*size, "mode=755", "exec")))
                made.targets.append((mount.target, True))
                continue
            if mount.kind == "secret" and mount.env:
                made.env.append(f"{mount.env}={mount.data.decode('utf-8', 'surrogateescape')}")
                if not mount.target:
                    continue
            source = _source(box, mount, lease, stack)
            made.binds.append(Bind(source, mount.target, read_only=not mount.writable))
            made.targets.append((mount.target, source.is_dir()))
        if step.files:
            place = stack.enter_context(_memory(box))
            for name, text in step.files:
                _write(place / os.fsdecode(name), text, 0o755)
            made.binds.append(Bind(place, _PIPES, read_only=True))
        yield made


def _source(box: Container, mount: StepMount, lease: Lease, stack: contextlib.ExitStack) -> Path:
    if mount.kind == "secret":
        place = stack.enter_context(_memory(box)) / "secret"
        _write(place, mount.data, 0o400 if mount.mode is None else mount.mode, (mount.uid, mount.gid))
        return place
    if mount.kind == "ssh":
        return Path(mount.socket)
    if mount.kind == "cache":
        return stack.enter_context(_cache(box.store, mount, lease))
    return _inside(stack.enter_context(_mounted(box.store, mount, lease)), mount.source)


def _inside(root: Path, source: bytes) -> Path:
    """A path of a mounted tree, its links followed inside. Raises NotFound."""
    fd = open_in_root(root, source)
    if fd is None:
        raise NotFound(f'failed to compute cache key: "{os.fsdecode(source)}": not found')
    try:
        return Path(f"/proc/self/fd/{fd}").readlink()
    finally:
        os.close(fd)


@contextlib.contextmanager
def _mounted(store: Store, mount: StepMount, lease: Lease) -> Iterator[Path]:
    """A tree for a bind: in a container of its own, so that it is found again, and what is written is thrown away."""
    from layerfs.layer import merged_tree

    tree = merged_tree(store.root, mount.layers)
    box = _create(store, mount.layers, lease, tree)
    try:
        handle = mount_container(store, box.record, None, None, read_only=not mount.writable)
        try:
            yield handle.path
        finally:
            handle.unmount(lazy=True)
    finally:
        remove(box)


@contextlib.contextmanager
def _memory(box: Container) -> Iterator[Path]:
    """A directory in memory, for what must not come to the disk."""
    if not Path("/dev/shm").is_dir():
        raise Unsupported("secrets need /dev/shm")
    place = Path(tempfile.mkdtemp(prefix=f"{_SECRETS}{box.id[:32]}-", dir="/dev/shm"))
    place.chmod(0o755)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write(place: Path, data: bytes, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        if os.geteuid() == 0:
            os.fchown(fd, *owner)
        os.fchmod(fd, mode)


# caches


def cache_home(store: Store) -> Path:
    return store.path / "cache" / "mounts"


@contextlib.contextmanager
def _cache(store: Store, mount: StepMount, lease: Lease) -> Iterator[Path]:
    """The directory of a `--mount=type=cache`. `locked` waits until nobody else has it, `private` takes another one."""
    key = hashlib.sha256(mount.id.encode("utf-8", "surrogateescape")).hexdigest()[:40]
    number = 0
    while (taken := _take_cache(cache_home(store) / (f"{key}.{number}" if number else key), mount.sharing)) is None:
        number += mount.sharing == "private"
    home, lock = taken
    try:
        yield _filled(store, mount, lease, home)
    finally:
        os.close(lock)


def _take_cache(home: Path, sharing: str) -> tuple[Path, int] | None:
    """The directory and the lock on it; None when somebody else has it, or it was pruned meanwhile."""
    import fcntl

    home.mkdir(mode=0o711, parents=True, exist_ok=True)
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        wanted = fcntl.LOCK_SH if sharing == "shared" else fcntl.LOCK_EX
        fcntl.flock(lock, wanted | (fcntl.LOCK_NB if sharing == "private" else 0))
        if os.path.samestat(os.fstat(lock), (home / "lock").stat()):
            return home, lock
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(lock)
        raise
    os.close(lock)
    return None


def _filled(store: Store, mount: StepMount, lease: Lease, home: Path) -> Path:
    data = home / "data"
    if not data.exists():
        (home / "id").write_text(mount.id, errors="surrogateescape")
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
        if mount.layers:
            _fill(store, mount, lease, new)
        if os.geteuid() == 0:
            os.chown(new, mount.uid, mount.gid)
        new.chmod(0o755 if mount.mode is None else mount.mode)
        with contextlib.suppress(OSError):  # another shared user was faster
            new.rename(data)
        shutil.rmtree(new, ignore_errors=True)
    return data


def _fill(store: Store, mount: StepMount, lease: Lease, target: Path) -> None:
    """What `from=` gives a new cache."""
    with _mounted(store, replace(mount, writable=False), lease) as root:
        source = _inside(root, mount.source)
        subprocess.run(["cp", "-a", "--", f"{source}/.", target], check=True, capture_output=True)


# what a killed build left


def clear_dead(store: Store) -> int:
    """Removes the containers of builds that are over, with what they had mounted; how many."""
    living = {lease.id for lease in store.root.leases.living()}
    removed = 0
    for record in store.container_table.list():
        owner = record.config.get(OWNER)
        if owner is None or owner in living:
            continue
        box = Container(store, record)
        with contextlib.suppress(LayerfsError):
            from layerfs.snapshot import MountTable

            unmount_all(store, MountTable(store.root).of_container(box.id), lazy=True)
            remove(box)
            removed += 1
    return removed


_WATCH = 'read -r end || exec "$0" -c "$1" "$2" "$3"'
_CLEAR = "import sys; sys.path.insert(0, sys.argv[1]); from layerfs.engine.buildrun import main; main()"


@contextlib.contextmanager
def watched(store: Store) -> Iterator[None]:
    """While inside, a shell waits for our end, which only a kill can bring about; it then clears away what we had."""
    package = str(Path(__file__).resolve().parents[2])
    command = ["/bin/sh", "-c", _WATCH, sys.executable, _CLEAR, package, str(store.path)]
    null = subprocess.DEVNULL
    try:
        shell = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=null, stderr=null, start_new_session=True)
    except OSError:  # no shell here: the next build clears away
        yield
        return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            shell.communicate(b"end\n")


def main() -> None:
    """Of the watcher."""
    import time

    from layerfs.engine import Store

    _, _, path = sys.argv
    with Store(path, create=False) as store:
        for patience in (0.0, 0.2, 1.0, 3.0):
            time.sleep(patience)
            clear_dead(store)
            if not any(OWNER in record.config for record in store.container_table.list()):
                return
