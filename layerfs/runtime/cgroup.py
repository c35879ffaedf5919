"""One container's control groups: made with their limits before its program starts, joined by the helper, read, changed
and frozen while it runs, taken away at the end.

They are below a directory of our own (`/layerfs`, or what `--cgroup-parent` says) of each tree, named by the
container's ID; nothing that was there before is touched. What cannot be set is an error, and nothing stays then.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import dataclass
from layerfs.errors import InvalidInput, RunError, Unsupported
from layerfs.runtime.cgroup_plan import DEVICES, Setting, settings_v1, settings_v2
from layerfs.runtime.cgroups import CONTROLLERS_V1, CONTROLLERS_V2, Hierarchies
from layerfs.runtime.resources import DeviceRule, Resources

if TYPE_CHECKING:
    from typing import Final

PARENT: Final = "layerfs"
_REMOVE_SECONDS = 10.0
_FREEZE_SECONDS = 10.0
_UNLIMITED_V1 = 1 << 62  # version 1 shows "no limit" as some number beyond this


@dataclass(frozen=True, slots=True)
class Usage:
    """What a container has used so far and uses now. Bytes and nanoseconds; None where nobody counts it."""

    cpu_ns: int | None = None
    memory: int | None = None
    memory_limit: int | None = None
    pids: int | None = None
    read_bytes: int | None = None
    write_bytes: int | None = None


def parse_parent(text: str) -> str:
    """`--cgroup-parent` as a path below each tree. Raises InvalidInput."""
    parts = [part for part in text.split("/") if part]
    if not parts or any(part in (".", "..") or not re.fullmatch(r"[\w.:@-]+", part) for part in parts):
        raise InvalidInput(f"invalid cgroup parent: '{text}'")
    return "/".join(parts)


class Cgroup:
    """The groups `name` below `parent` in whatever trees they are. `directories`: controller (version 1) or `""`
    (version 2) and the directory."""

    def __init__(self, name: str, parent: str = PARENT, hierarchies: Hierarchies | None = None) -> None:
        self.name, self.parent, self._hierarchies = name, parent, hierarchies

    @property
    def hierarchies(self) -> Hierarchies:
        """Looked for when something is to be made: most runs have no groups."""
        if self._hierarchies is None:
            self._hierarchies = Hierarchies.here()
        return self._hierarchies

    def _trees(self) -> dict[str, Path]:
        if self.hierarchies.v2 is not None:
            return {"": self.hierarchies.v2 / self.parent}
        return {name: place / self.parent for name, place in self.hierarchies.v1.items()}

    @property
    def directories(self) -> Mapping[str, Path]:
        """Those that exist."""
        places = {controller: base / self.name for controller, base in self._trees().items()}
        return {controller: place for controller, place in places.items() if place.is_dir()}

    def _place(self, controller: str) -> Path | None:
        return self.directories.get(controller if self.hierarchies.v2 is None else "")

    # making

    def create(
        self,
        resources: Resources = Resources(),  # noqa: B008 (frozen)
        *,
        everything: bool = False,
        devices: Sequence[DeviceRule] | None = None,
        before: Callable[[], object] = lambda: None,
    ) -> list[Path]:
        """Makes the groups that `resources` need (all that there are with `everything`) and sets the limits.

        `devices` are allowed beside docker's own, and nothing else; None leaves devices alone. `before` is called when
        there is something to be made.

        Returns:
            the `cgroup.procs` files to join.

        Raises:
            Unsupported: no such controller here. RunError: a limit was refused. Nothing is left then.
        """
        if not (everything or resources or devices is not None):
            return []
        settings = self._settings(resources)
        needed = {setting.controller for setting in settings}
        if devices is not None and self.hierarchies.version == 1:
            needed.add("devices")
        self._require(needed)
        known = CONTROLLERS_V2 if self.hierarchies.v2 is not None else CONTROLLERS_V1
        wanted = [name for name in known if name in needed or (everything and name in self.hierarchies.available())]
        if not wanted and not (everything and self.hierarchies.version):
            return []
        before()
        try:
            places = self._make_directories(wanted, needed)
            self._apply(settings)
            self._allow(devices)
        except BaseException:
            self.remove(timeout=1.0)
            raise
        return [place / "cgroup.procs" for place in dict.fromkeys(places)]

    def _settings(self, resources: Resources) -> list[Setting]:
        return settings_v2(resources) if self.hierarchies.v2 is not None else settings_v1(resources)

    def _require(self, needed: Iterable[str]) -> None:
        there = self.hierarchies.available()
        missing = sorted(set(needed) - there)
        if missing:
            words = " ".join(sorted(there)) or "none at all"
            raise Unsupported(
                f"this machine has no cgroup controller {' '.join(missing)} for that limit (it has {words})"
            )

    def _make_directories(self, controllers: Sequence[str], needed: set[str]) -> list[Path]:
        if self.hierarchies.v2 is not None:
            base = self.hierarchies.v2 / self.parent
            return [_make(base, self.name, lambda: self._delegate(base, controllers, needed))]
        made = []
        for controller in controllers:
            tree = self.hierarchies.v1[controller]
            base = tree / self.parent
            prepare = _fill_cpuset if controller == "cpuset" else None
            place = _make(base, self.name, (lambda tree=tree, base=base: _fill_path(tree, base)) if prepare else None)
            if prepare:
                prepare(place)
            made.append(place)
        return made

    def _delegate(self, base: Path, controllers: Sequence[str], needed: set[str]) -> None:
        """Version 2: a controller works in a group when every one above hands it down. Those that nobody asked for may
        stay behind."""
        assert self.hierarchies.v2 is not None
        above = self.hierarchies.v2
        for part in ("", *base.relative_to(above).parts):
            above = above / part
            given = (above / "cgroup.subtree_control").read_text().split()
            for name in controllers:
                if name in given:
                    continue
                try:
                    _put(above / "cgroup.subtree_control", f"+{name}")
                except FileNotFoundError:
                    raise
                except OSError as error:
                    if name in needed:
                        why = "processes are in it" if error.errno == errno.EBUSY else (error.strerror or "").lower()
                        raise RunError(f"the cgroup {above} cannot hand down {name}: {why}") from None

    def _apply(self, settings: Sequence[Setting]) -> None:
        """What is refused is tried once more after the rest: memory and memory with swap bound each other."""
        again = [setting for setting in settings if self._write(setting) is not None]
        for setting in again:
            error = self._write(setting)
            if error is not None:
                reason = (error.strerror or str(error)).lower()
                raise RunError(f"setting {setting.file} to {setting.value} was refused: {reason}") from None

    def _write(self, setting: Setting) -> OSError | None:
        place = self._place(setting.controller)
        if place is None:
            raise Unsupported(f"the container is in no {setting.controller} cgroup")
        for file, value in ((setting.file, setting.value), *setting.alternatives):
            try:
                _put(place / file, value)
                return None
            except FileNotFoundError:
                continue
            except OSError as error:
                return error
        if setting.implied:
            return None
        raise Unsupported(f"this kernel has no {setting.file}: that limit cannot be set")

    def _allow(self, devices: Sequence[DeviceRule] | None) -> None:
        if devices is None:
            return
        rules = (*DEVICES, *devices)
        if self.hierarchies.v2 is not None:
            from layerfs.runtime import cgroup_bpf

            cgroup_bpf.attach(self.hierarchies.v2 / self.parent / self.name, rules)
        elif (place := self._place("devices")) is not None:
            try:
                _put(place / "devices.deny", "a")
                for rule in rules:
                    _put(place / "devices.allow", str(rule))
            except OSError as error:
                raise RunError(f"the device cgroup refuses its rules: {(error.strerror or '').lower()}") from None

    # while it runs

    def update(self, resources: Resources, names: Iterable[str]) -> None:
        """Sets again what the fields `names` of `resources` decide. Raises Unsupported, RunError."""
        self._apply([setting for setting in self._settings(resources) if _decided_by(setting, set(names))])

    def usage(self) -> Usage:
        """Zeros where it is gone."""
        return _usage_v2(self._place("")) if self.hierarchies.v2 is not None else self._usage_v1()

    def _usage_v1(self) -> Usage:
        cpu, memory = self._place("cpuacct"), self._place("memory")
        pids, block = self._place("pids"), self._place("blkio")
        used = _number(memory, "memory.usage_in_bytes")
        cache = _table(memory, "memory.stat").get("total_inactive_file", 0)
        limit = _table(memory, "memory.stat").get("hierarchical_memory_limit", _UNLIMITED_V1)
        read, written = _block_v1(block)
        return Usage(
            cpu_ns=_number(cpu, "cpuacct.usage"),
            memory=None if used is None else max(used - cache, 0),
            memory_limit=limit if limit < _UNLIMITED_V1 else None,
            pids=_number(pids, "pids.current"),
            read_bytes=read,
            write_bytes=written,
        )

    def oom_kills(self) -> int:
        """How many of its processes the kernel has killed for want of memory."""
        file = "memory.events" if self.hierarchies.v2 is not None else "memory.oom_control"
        return _table(self._place("memory"), file).get("oom_kill", 0)

    def processes(self) -> list[int]:
        """Everything in it, by its number here (0: a process of another PID namespace)."""
        found: set[int] = set()
        for place in self.directories.values():
            with contextlib.suppress(OSError):
                found.update(int(line) for line in (place / "cgroup.procs").read_text().split())
        return sorted(found)

    @property
    def frozen(self) -> bool:
        place = self._place("freezer")
        if self.hierarchies.v2 is not None:
            return _table(place, "cgroup.events").get("frozen", 0) == 1
        try:
            return place is not None and (place / "freezer.state").read_text().strip() != "THAWED"
        except OSError:
            return False

    def freeze(self, wanted: bool) -> None:
        """Stops everything in it, or lets it go on. Raises Unsupported, RunError."""
        place = self._place("freezer")
        if place is None:
            raise Unsupported("the container is in no cgroup that can be frozen")
        file, on, off = ("cgroup.freeze", "1", "0") if self.hierarchies.v2 else ("freezer.state", "FROZEN", "THAWED")
        deadline = time.monotonic() + _FREEZE_SECONDS
        while True:
            _put(place / file, on if wanted else off)
            if self._settled(place, wanted):
                return
            if time.monotonic() > deadline:
                _put(place / file, off)
                raise RunError("the container cannot be paused: a process of it does not stop")
            time.sleep(0.005)

    def _settled(self, place: Path, wanted: bool) -> bool:
        if self.hierarchies.v2 is not None:
            return self.frozen == wanted
        return (place / "freezer.state").read_text().strip() == ("FROZEN" if wanted else "THAWED")

    # the end

    def kill(self) -> None:
        """Everything that is still in it."""
        with contextlib.suppress(OSError):
            if self.hierarchies.v2 is not None and (place := self._place("")) is not None:
                _put(place / "cgroup.kill", "1")
                return
        for pid in self.processes():
            if pid > 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def remove(self, timeout: float = _REMOVE_SECONDS) -> None:
        """Kills what is in it and takes it away, as well as the parent when that was the last one.

        Raises:
            RunError: something stays in it for longer than `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while left := self.directories:
            stuck = [place for place in dict.fromkeys(left.values()) if not _remove_tree(place)]
            if not stuck:
                break
            if time.monotonic() > deadline:
                raise RunError(f"the cgroup cannot be removed: processes stay in it: {stuck[0]}")
            with contextlib.suppress(OSError, RunError):
                if self.frozen:
                    self.freeze(False)
            self.kill()
            time.sleep(0.002)
        for base in dict.fromkeys(self._trees().values()):
            with contextlib.suppress(OSError):
                base.rmdir()


def existing(identity: str, parent: str = PARENT, hierarchies: Hierarchies | None = None) -> list[Cgroup]:
    """Every group of a container: `<id>` is its own program's, `<id>.<token>` those of other runs in it."""
    hierarchies = hierarchies or Hierarchies.here()
    bases = [hierarchies.v2] if hierarchies.v2 is not None else list(hierarchies.v1.values())
    names: set[str] = set()
    for base in bases:
        with contextlib.suppress(OSError):
            names.update(name for name in os.listdir(base / parent) if name.partition(".")[0] == identity)  # noqa: PTH208
    return [Cgroup(name, parent, hierarchies) for name in sorted(names)]


def _make(base: Path, name: str, prepare: object = None) -> Path:
    """base/name, new. The base may go at any moment: the last container of another process took it away. What a killed
    run left may hold processes that are dying still; they are waited for."""
    deadline = time.monotonic() + _REMOVE_SECONDS
    while time.monotonic() < deadline:
        try:
            base.mkdir(mode=0o755, parents=True, exist_ok=True)
        except (FileExistsError, FileNotFoundError):  # it, or one above, was there and went before it was looked at
            continue
        try:
            (base / name).mkdir(mode=0o755)
            if callable(prepare):  # only now, when the base stays: before, it may be another's new one by then
                prepare()
            return base / name
        except FileExistsError:  # left by a killed run
            if not _remove_tree(base / name):
                time.sleep(0.002)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # ENODEV: a file of it was open when it went
                raise
    if (base / name).exists():
        raise RunError(f"the cgroup is in use: {base / name}")
    raise RunError(f"the cgroup {base / name} cannot be made: its parent is removed all the time")


def _fill_path(tree: Path, base: Path) -> None:
    for part in reversed([base, *base.parents][: len(base.relative_to(tree).parts)]):
        _fill_cpuset(part)


def _fill_cpuset(place: Path) -> None:
    """Version 1: a new cpuset is empty, and nobody can join that; it gets its parent's."""
    for file in ("cpuset.cpus", "cpuset.mems"):
        if not (place / file).read_text().strip():
            _put(place / file, (place.parent / file).read_text().strip())


def _put(path: Path, value: str) -> None:
    """Never makes the file: in a directory that only plays a cgroup it must be there, too."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _remove_tree(place: Path) -> bool:
    """With the groups that a program made below. False when processes are in it."""
    try:
        for entry in os.scandir(place):
            if entry.is_dir(follow_symlinks=False) and not _remove_tree(Path(entry.path)):
                return False
        place.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True


def _number(place: Path | None, file: str) -> int | None:
    try:
        return int((place / file).read_text()) if place is not None else None
    except (OSError, ValueError):
        return None


def _table(place: Path | None, file: str) -> dict[str, int]:
    """`name number` lines."""
    try:
        lines = (place / file).read_text().splitlines() if place is not None else []
    except OSError:
        return {}
    pairs = [line.split(" ") for line in lines]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def _block_v1(place: Path | None) -> tuple[int | None, int | None]:
    try:
        lines = (place / "blkio.throttle.io_service_bytes_recursive").read_text().splitlines() if place else None
    except OSError:
        lines = None
    if lines is None:
        return None, None
    words = [line.split() for line in lines]
    read, write = (sum(int(w[2]) for w in words if len(w) == 3 and w[1] == kind) for kind in ("Read", "Write"))
    return read, write


def _usage_v2(place: Path | None) -> Usage:
    used = _number(place, "memory.current")
    cpu = _table(place, "cpu.stat").get("usage_usec")
    cache = _table(place, "memory.stat").get("inactive_file", 0)
    read, written = _block_v2(place)
    return Usage(
        cpu_ns=None if cpu is None else cpu * 1000,
        memory=None if used is None else max(used - cache, 0),
        memory_limit=_number(place, "memory.max"),
        pids=_number(place, "pids.current"),
        read_bytes=read,
        write_bytes=written,
    )


def _block_v2(place: Path | None) -> tuple[int | None, int | None]:
    try:
        text = (place / "io.stat").read_text() if place is not None else None
    except OSError:
        text = None
    if text is None:
        return None, None
    numbers = dict.fromkeys(("rbytes", "wbytes"), 0)
    for name, value in re.findall(r"\b([rw]bytes)=(\d+)", text):
        numbers[name] += int(value)
    return numbers["rbytes"], numbers["wbytes"]


_DECIDES: Final = {
    "memory": {"memory", "memory_swap", "memory_reservation", "memory_swappiness", "oom_kill_disable"},
    "cpu": {"nano_cpus", "cpu_shares", "cpu_period", "cpu_quota"},
    "cpuset": {"cpuset_cpus", "cpuset_mems"},
    "pids": {"pids_limit"},
    "blkio": {"blkio_weight", "blkio_weight_device"},
    "io": {"blkio_weight", "blkio_weight_device"},
}


def _decided_by(setting: Setting, names: set[str]) -> bool:
    return bool(_DECIDES[setting.controller] & names)
