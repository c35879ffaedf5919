"""What a container is to be, as plain data: `plan` makes it, `wire` writes it down, `process` starts it.

Nothing here touches the kernel. Paths and strings are bytes, since file names are.
"""

from __future__ import annotations

import enum
import signal

from layerfs._lazy import TYPE_CHECKING
from layerfs._record import NamedTuple, dataclass

if TYPE_CHECKING:
    from layerfs.runtime.idmaps import IdMaps

# mount attributes of fsmount(2) and mount_setattr(2) (linux/mount.h)
READ_ONLY = 0x01
NOSUID = 0x02
NODEV = 0x04
NOEXEC = 0x08
NOATIME = 0x10
STRICTATIME = 0x20
KERNEL = NOSUID | NODEV | NOEXEC  # what the kernel's own file systems are mounted with


class Namespace:
    """The CLONE_NEW* flags of clone(2). Plain numbers: an enumeration takes as long to make as a module to load."""

    MOUNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    PID = 0x20000000
    NETWORK = 0x40000000
    USER = 0x10000000


class StepKind(enum.IntEnum):
    """As `enum lfs_step_kind` of the helper."""

    FILESYSTEM = 1
    BIND = 2
    ATTRIBUTES = 3
    READ_ONLY = 4
    MASK = 5
    DEVICE = 6
    LINK = 7
    SYSCTL = 8


class Step(NamedTuple):
    """One thing done in the container's root before it becomes the root; the helper performs them in their order.

    FILESYSTEM: `type` from `source` at `target` with `options`. BIND: `source` of the host. ATTRIBUTES: added to the
    mount at `target`. DEVICE: `mode` with its type bits, `source` where the host has it. LINK: `source` is the text.
    SYSCTL: `source` is the value.
    `optional` steps without a target are passed over; in `strict` ones no component may be a symbolic link.
    """

    kind: StepKind
    target: bytes
    source: bytes = b""
    type: bytes = b""
    options: bytes = b""
    attributes: int = 0
    mode: int = 0
    device: tuple[int, int] = (0, 0)
    recursive: bool = False
    optional: bool = False
    strict: bool = False
    confined: bool = False  # devices: a mount of its own, so that the rest of /dev can be nodev
    mapped: bool = False  # binds: with the ids of the container's user namespace
    foreign: bool = False  # binds: `source` is in another mount namespace, whose file is `type`


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom the program runs as; `groups` are the supplementary ones as docker sets them (the primary is among them)."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = (0,)
    home: bytes = b"/root"


@dataclass(frozen=True, slots=True)
class Limit:
    """A resource limit: `resource` is a number of resource(2), -1 stands for unlimited."""

    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class RunSpec:
    """Everything the helper needs to start one container on the mounted `rootfs`."""

    rootfs: bytes
    argv: tuple[bytes, ...]
    env: tuple[bytes, ...]
    cwd: bytes
    hostname: bytes
    identity: Identity
    capabilities: int
    namespaces: int  # of Namespace
    steps: tuple[Step, ...]
    read_only: bool = False
    no_new_privileges: bool = False
    limits: tuple[Limit, ...] = ()
    cgroup_procs: tuple[bytes, ...] = ()  # cgroup.procs files joined before anything else; the caller makes the cgroups
    oom_score_adj: int = 0
    shared_pids: bool = False  # no PID namespace of its own
    entered: tuple[tuple[int, bytes], ...] = ()  # namespaces of others, by their files
    clocks: tuple[tuple[int, int], ...] = ()  # clock of clock_gettime(2), seconds it is off
    annotations: tuple[tuple[str, str], ...] = ()  # for a bundle
    runtime: tuple[bytes, ...] = ()  # another OCI runtime's program, the bundle, its state's directory, the name there
    seccomp: bytes = b""  # struct sock_filter array, compiled by the caller
    stop_signal: int = signal.SIGTERM
    init: bool = False  # PID 1 is the helper's own
    terminal: tuple[int, int] | None = None  # rows and columns: the streams are a new pseudo terminal
    id_maps: IdMaps | None = None  # of a user namespace of its own
    join: tuple[int, int] | None = None  # pid and start time of a container's PID 1, whose namespaces are entered


class Restart(enum.IntEnum):
    """As `enum lfs_restart` of the monitor."""

    NO = 0
    ON_FAILURE = 1
    ALWAYS = 2
    UNLESS_STOPPED = 3


@dataclass(frozen=True, slots=True)
class Probe:
    """A health check: what to run in the container; times in milliseconds."""

    argv: tuple[bytes, ...]
    interval: int = 30_000
    timeout: int = 30_000
    start_period: int = 0
    start_interval: int = 5_000
    retries: int = 3


@dataclass(frozen=True, slots=True)
class Life:
    """What a monitor does around the program."""

    stdin: bool = False
    stdin_once: bool = False  # it ends with the client it came from
    log: bool = True
    log_size: int = 0  # bytes of a log file; 0: no end
    log_files: int = 1
    restart: Restart = Restart.NO
    restart_max: int = 0
    stop_milliseconds: int = 10_000  # when the monitor is told to end
    after: tuple[bytes, ...] = ()  # what it becomes at the end
    events: bytes = b""  # the file of events; b"" for none
    event_attributes: bytes = b""
    probe: Probe | None = None
