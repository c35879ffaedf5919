"""The steps that make layers: first their key, then the cache, then the work."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import layerfs.build.instructions as i
from layerfs._record import dataclass, field, replace
from layerfs.build.cachekeys import BuildCache, Made, step_key
from layerfs.build.config import State
from layerfs.build.context import DirectoryFiles, subdirectory
from layerfs.build.downloads import OneFile, check_checksum, fetch, is_url, name_of
from layerfs.build.files import Files, Skip, TreeFiles
from layerfs.build.modes import parse_mode
from layerfs.build.owners import find_owner, is_numeric
from layerfs.build.runmounts import Offers, made_ready, plan_mounts
from layerfs.build.sources import Sources
from layerfs.build.steps import OnOutput, RunStep, World
from layerfs.build.transfer import Below, Job, Rules, Transfer, check_same, choose, destination
from layerfs.digest import DiffID
from layerfs.errors import InvalidInput, Unsupported
from layerfs.layer.entry import Entry
from layerfs.layer.merged import GrowingTrees
from layerfs.layer.tree import Tree
from layerfs.oci import Platform
from layerfs.store.leases import Lease
from layerfs.store.root import StoreRoot

if TYPE_CHECKING:
    from layerfs.build.gitsources import Git, GitSource


@dataclass(frozen=True, slots=True)
class Wishes:
    """What holds for all steps of a build. `epoch_ns`: SOURCE_DATE_EPOCH; no time is later. `skips`: of `--exclude`."""

    epoch_ns: int | None = None
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    agents: Mapping[str, str] = field(default_factory=dict)
    allow: frozenset[str] = frozenset()
    network: str = "default"
    keep_failed: bool = False
    skips: Callable[[Sequence[str]], Skip | None] = lambda patterns: None
    hosts: tuple[str, ...] = ()

    def now_ns(self) -> int:
        return self.epoch_ns if self.epoch_ns is not None else time.time_ns()


@dataclass(frozen=True, slots=True)
class Done:
    """`cached`: nothing was run. `source`: `file:HEX`, `dir:HEX` or `multi:HEX` of what a COPY took."""

    layer: DiffID | None
    created_ns: int
    cached: bool
    source: str = ""


class Executor:
    """Runs steps on a store; safe from threads."""

    def __init__(
        self,
        root: StoreRoot,
        world: World,
        lease: Lease,
        cache: BuildCache,
        sources: Sources,
        wishes: Wishes,
        trees: GrowingTrees,
    ) -> None:
        self.root, self.world, self.lease, self.cache, self.trees = root, world, lease, cache, trees
        self.sources, self.wishes = sources, wishes
        self._turns = threading.BoundedSemaphore(max(2, os.cpu_count() or 2))

    def cached(self, key: bytes, kind: str, text: str, make: Callable[[], DiffID | None], *, use: bool = True) -> Done:
        """What the cache has for the key, or what `make` makes, which the cache has then."""
        found = self.cache.find(key) if use else None
        if found is not None:
            return Done(found.layer, found.created_ns, True)
        layer = make()
        now = self.wishes.now_ns()
        self.cache.keep(Made(key, layer, now, time.time_ns(), kind, text))
        return Done(layer, now, False)

    def _tree(self, layers: Sequence[DiffID]) -> Tree:
        return self.trees.tree(layers)

    def store(self, entries: Iterator[Entry]) -> DiffID | None:
        """The layer of these entries; None when there are none."""
        first = next(entries, None)
        if first is None:
            return None

        def all_of_them() -> Iterator[Entry]:
            yield first
            yield from entries

        from layerfs.layer.commit import store_entries

        return store_entries(self.root, all_of_them(), lease=self.lease, latest_ns=self.wishes.epoch_ns).diff_id

    def whole(self, name: str) -> tuple[DiffID, ...]:
        """A directory context as layers, for FROM."""
        with self.sources.open(name) as files:
            job = Job(files, files.root, b"")
            transfer = Transfer(Below(None), Rules(b"/", self.wishes.now_ns()))
            content = job.key()

            def make() -> DiffID | None:
                layer = self.store(transfer.entries([job]))
                check_same(job, content)
                return layer

            done = self.cached(step_key("context", None, content, self._epoch()), "context", name, make)
        return (done.layer,) if done.layer else ()

    def _epoch(self) -> str:
        return "" if self.wishes.epoch_ns is None else str(self.wishes.epoch_ns)

    # WORKDIR

    def workdir(self, state: State, *, use_cache: bool) -> Done:
        """The directory that the config names already."""
        path, user = state.config.working_dir, state.config.user
        key = step_key("workdir", state.layers, path, user, self._epoch())

        def make() -> DiffID | None:
            tree = self._tree(state.layers)
            owner = find_owner(TreeFiles(self.root, tree), user) if user else None
            rules = Rules(os.fsencode(path), self.wishes.now_ns(), owner)
            return self.store(Transfer(Below(tree), rules).directory())

        return self.cached(key, "workdir", f"WORKDIR {path}", make, use=use_cache)

    # COPY and ADD

    def copy(self, state: State, step: i.Copy | i.Add, *, use_cache: bool) -> Done:
        with contextlib.ExitStack() as stack:
            files = stack.enter_context(self.sources.open(step.source_from if isinstance(step, i.Copy) else ""))
            transfer = _Copying(self, state, step, files, stack)
            done = self.cached(transfer.key(), step.at.name.lower(), step.at.text, transfer.make, use=use_cache)
            return replace(done, source=transfer.source())

    # RUN

    def run(
        self,
        state: State,
        step: i.Run,
        env: Sequence[str],
        proxies: Sequence[str],
        output: OnOutput,
        *,
        use_cache: bool,
    ) -> Done:
        """`env`: the variables of the config and of the arguments in scope; `proxies` do not count for the cache."""
        planned = self.plan_run(state, step, env, proxies)

        def make() -> DiffID | None:
            mounts = tuple(made_ready(mount, self.sources, self.store) for mount in planned.mounts)
            ready = replace(planned, mounts=mounts)
            with self._turns:
                return self.world.run(
                    ready,
                    lease=self.lease,
                    latest_ns=self.wishes.epoch_ns,
                    output=output,
                    keep_failed=self.wishes.keep_failed,
                )

        key = planned.key(state.platform, self._epoch())
        return self.cached(key, "run", step.at.text, make, use=use_cache)

    def plan_run(self, state: State, step: i.Run, env: Sequence[str], proxies: Sequence[str]) -> RunStep:
        """Raises Unsupported, InvalidInput: what may not be, or cannot be here."""
        wishes, config = self.wishes, state.config
        if step.security == "insecure" and "security.insecure" not in wishes.allow:
            raise InvalidInput("security.insecure is not allowed (--allow security.insecure)")
        if step.network == "host" and "network.host" not in wishes.allow:
            raise InvalidInput("network.host is not allowed (--allow network.host)")
        if any(device.required for device in step.devices):
            raise Unsupported("RUN --device is not supported: there is no CDI here")
        check_runs_here(state.platform)
        argv, script = step.program(config.shell)
        offers = Offers(wishes.secrets, wishes.agents)
        mounts, added = plan_mounts(step.mounts, config.working_dir or "/", self.sources, offers)
        return RunStep(
            state.layers,
            argv,
            (*env, *added),
            tuple(proxies),
            config.user,
            config.working_dir or "/",
            wishes.network if step.network == "default" else step.network,
            step.security == "insecure",
            mounts,
            ((os.fsencode(script.name), script.text.encode("utf-8", "surrogateescape")),) if script else (),
            wishes.hosts,
        )


_QEMU = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "arm": "arm",
    "386": "i386",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}


def check_runs_here(platform: Platform) -> None:
    """Raises Unsupported when programs of a platform cannot be run."""
    host = Platform.host()
    if platform.architecture in (host.architecture, "") or (host.architecture, platform.architecture) == (
        "amd64",
        "386",
    ):
        return
    name = _QEMU.get(platform.architecture, platform.architecture)
    try:
        enabled = Path(f"/proc/sys/fs/binfmt_misc/qemu-{name}").read_text().startswith("enabled")
    except OSError:
        enabled = False
    if not enabled:
        raise Unsupported(f"programs of {platform} do not run here: binfmt_misc has no qemu-{name}")


@dataclass
class _Copying:
    """One COPY or ADD: its key, and its layer."""

    executor: Executor
    state: State
    step: i.Copy | i.Add
    files: Files
    stack: contextlib.ExitStack

    def __post_init__(self) -> None:
        step = self.step
        self.jobs: list[Job] = []
        self._parts: list[bytes] = []
        self._archives: list[int] = []
        self._repositories: dict[int, tuple[Git, GitSource, str]] = {}
        self.workdir = os.fsencode(self.state.config.working_dir or "/")
        self.to = destination(os.fsencode(step.destination), self.workdir)
        self.change = parse_mode(step.chmod) if step.chmod else None
        self.skip = self.executor.wishes.skips(step.excludes)
        several = len(step.sources) + len(step.files) > 1
        if several and not step.destination.endswith("/") and step.destination not in (".", ".."):
            raise InvalidInput(
                f"When using {step.at.name} with more than one source file, "
                "the destination must be a directory and end with a /"
            )
        for source in step.sources:
            self._add_source(source)
        for file in step.files:
            one = OneFile.of(os.fsencode(file.name), file.text.encode("utf-8", "surrogateescape"), self._now())
            self._add_job(Job(one, one.item, one.item.name))
        self.owner = self._owner()

    def _now(self) -> int:
        return self.executor.wishes.now_ns()

    def _add_source(self, source: str) -> None:
        step = self.step
        if isinstance(step, i.Add) and ":" in source and self._add_repository(source, step):
            return
        if isinstance(step, i.Add) and is_url(source):
            self._add_download(source, step)
            return
        parents = isinstance(step, i.Copy) and step.parents
        jobs = choose(self.files, os.fsencode(source), parents=parents, skip=self.skip)
        unpack = isinstance(step, i.Add) and step.unpack is not False
        for job in jobs:
            self._add_job(job, unpack=unpack and job.item.is_file)

    def _add_download(self, url: str, step: i.Add) -> None:
        name = name_of(url) if self.to.endswith(b"/") else self.to.rpartition(b"/")[2].decode(errors="surrogateescape")
        if step.checksum:
            check_checksum(step.checksum)
        place = self.executor.lease.tmp
        found = replace(fetch(url, place, checksum=step.checksum), name=name)
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.stack.callback(os.close, directory)
        self.stack.callback(found.path.unlink, missing_ok=True)
        one = found.files(directory)
        self._add_job(Job(one, one.item, one.item.name), unpack=step.unpack is True)

    def _add_repository(self, url: str, step: i.Add) -> bool:
        """Its commit decides; it is fetched when the layer is made, in place of the job that stands for it. False: the
        URL is not that of a repository."""
        from layerfs.build.gitsources import Git, GitSource

        source = GitSource.parse(url)
        if source is None:
            return False
        source = source.flagged(step.checksum, step.keep_git_dir)
        git = Git(self.executor.wishes.secrets, self.executor.wishes.agents.get("default", ""))
        commit = git.resolve(source)
        self._repositories[len(self.jobs)] = (git, source, commit)
        key = (commit or source.ref, source.subdir, source.keep_git_dir, source.submodules, step.excludes)
        self._parts += [b"git", repr(key).encode()]
        self.jobs.append(Job(self.files, self.files.root, b""))
        return True

    def _checkout(self, git: Git, source: GitSource, commit: str) -> Job:
        place = self.executor.lease.tmp / f"git-{os.urandom(6).hex()}"
        self.stack.callback(shutil.rmtree, place, ignore_errors=True)
        git.checkout(source, commit, place)
        files = self.stack.enter_context(DirectoryFiles(place))
        if source.subdir:
            files = self.stack.enter_context(subdirectory(files, os.fsencode(source.subdir)))
        return Job(files, files.root, b"", skip=self.skip)

    def _add_job(self, job: Job, *, unpack: bool = False) -> None:
        self._parts += [b"unpack" if unpack else b"copy", job.key()]
        if unpack:
            self._archives.append(len(self.jobs))
        self.jobs.append(job)

    def _owner(self) -> tuple[int, int] | None:
        """Names are looked up in the image when the layer is made, or now, when it depends on nothing else of it."""
        chown = self.step.chown
        if not chown:
            return None
        if is_numeric(chown) or self.step.link:
            return self._find_owner()
        return None

    def _find_owner(self) -> tuple[int, int]:
        tree = TreeFiles(self.executor.root, self.executor._tree(self.state.layers))
        return find_owner(tree, self.step.chown)

    def key(self) -> bytes:
        step = self.step
        owner = f"{self.owner[0]}:{self.owner[1]}" if self.owner else step.chown
        layers = None if step.link else self.state.layers
        how = ("link" if step.link else "", owner, step.chmod, self.executor._epoch())
        return step_key("copy", layers, self.to, *how, *self._parts)

    def source(self) -> str:
        """As the old builder's history has it."""
        digest = hashlib.sha256(b"".join(self._parts)).hexdigest()
        if len(self.jobs) != 1:
            return f"multi:{digest}"
        return f"{'dir' if self.jobs[0].item.is_dir else 'file'}:{digest}"

    def make(self) -> DiffID | None:
        step, executor = self.step, self.executor
        owner = self.owner or (self._find_owner() if step.chown else None)
        from layerfs.build.archives import is_archive, unpacked

        jobs = list(self.jobs)
        for number, repository in self._repositories.items():
            jobs[number] = self._checkout(*repository)
        for number in self._archives:
            job = jobs[number]
            if is_archive(job.files, job.item):
                files = unpacked(executor.root, job.files, job.item, executor.lease)
                jobs[number] = Job(files, files.root, b"", replace=True)
        below = Below(None if step.link else executor._tree(self.state.layers))
        rules = Rules(self.to, self._now(), owner, self.change, step.link, step.at.name)
        layer = executor.store(Transfer(below, rules).entries(jobs))
        for number, (job, key) in enumerate(zip(self.jobs, self._parts[1::2], strict=True)):
            if number not in self._repositories:
                check_same(job, key)
        return layer
