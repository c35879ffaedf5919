"""`Store.build`: a Dockerfile and its contexts, wired to the parts that build it."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from layerfs._record import dataclass, field, replace
from layerfs.build.cachekeys import BuildCache, Made
from layerfs.build.cacheplaces import CachePlace, chosen
from layerfs.build.config import State
from layerfs.build.contentkeys import Hashes
from layerfs.build.context import DirectoryFiles
from layerfs.build.downloads import fetch, is_url
from layerfs.build.events import BuildEvent, Report
from layerfs.build.execute import Executor, Wishes
from layerfs.build.files import TreeFiles
from layerfs.build.ignore import Matcher, parse_ignore
from layerfs.build.parse import parse
from layerfs.build.reading import Found, find_dockerfile, ignore_of, skip_of
from layerfs.build.solve import Request, Solver
from layerfs.build.sources import Context, DirectoryContext, Sources, TreeContext
from layerfs.build.stages import Plan, plan
from layerfs.build.steps import OnOutput, RunStep, StepFailed
from layerfs.digest import Digest
from layerfs.engine.image import Image
from layerfs.errors import ImageNotFound, InvalidInput, LayerfsError, NotFound, Unsupported
from layerfs.image.images import Images
from layerfs.layer.merged import GrowingTrees, merged_tree
from layerfs.oci import ContainerConfig, ImageConfig, Platform
from layerfs.reference import Reference

if TYPE_CHECKING:
    from layerfs.build.gitsources import GitSource
    from layerfs.build.lint import Report as LintReport
    from layerfs.digest import DiffID
    from layerfs.engine.container import Container
    from layerfs.engine.remotecache import Elsewhere
    from layerfs.engine.store import Store
    from layerfs.store.leases import Lease

ContextSource = str | os.PathLike[str] | BinaryIO | None
_SECOND = 1_000_000_000
SEVERAL = {"no_cache_filter", "allow", "cache_from", "cache_to", "add_hosts"}  # one may be given as a text alone
_LATEST = 253_402_300_799  # seconds; the end of the year 9999
ENTITLEMENTS = {"network.host", "security.insecure"}


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What Store.build takes, checked. `epoch`: seconds."""

    dockerfile: str | os.PathLike[str] | BinaryIO | None = None
    tags: tuple[Reference, ...] = ()
    build_args: Mapping[str, str] | None = None
    target: str = ""
    labels: Mapping[str, str] | None = None
    no_cache: bool = False
    no_cache_filter: Sequence[str] = ()
    pull: bool = False
    platform: str | None = None
    secrets: Mapping[str, bytes | str | os.PathLike[str]] | None = None
    ssh: Mapping[str, str] | None = None
    build_contexts: Mapping[str, str | os.PathLike[str]] | None = None
    network: str = "default"
    allow: Sequence[str] = ()
    squash: bool = False
    epoch: int | None = None
    legacy: bool = False
    debug: bool = False
    cache_from: Sequence[str] = ()
    cache_to: Sequence[str] = ()
    add_hosts: Sequence[str] = ()
    confinement: Mapping[str, Any] = field(default_factory=dict)


class EngineWorld:
    """What the builder needs of the engine. Safe from threads. `confinement`: what holds for every RUN."""

    def __init__(
        self, store: Store, lease: Lease, cleanup: contextlib.ExitStack, confinement: Mapping[str, Any] | None = None
    ) -> None:
        self._store, self._lease, self._cleanup = store, lease, cleanup
        self._confinement = confinement or {}
        self.trees = GrowingTrees(store.root, lease)
        self._running: set[Any] = set()
        self._stopped = False
        self._broom: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    def run(
        self, step: RunStep, *, lease: Lease, latest_ns: int | None, output: OnOutput, keep_failed: bool
    ) -> DiffID | None:
        from layerfs.engine.buildrun import run_step, watched

        with self._lock:
            if self._broom is None:
                self._cleanup.enter_context(watched(self._store))
                self._broom = self._cleanup.enter_context(ThreadPoolExecutor(1, thread_name_prefix="broom"))
        return run_step(
            self._store,
            step,
            self.trees.tree(step.layers),
            confinement=self._confinement,
            lease=lease,
            latest_ns=latest_ns,
            output=output,
            keep_failed=keep_failed,
            registered=self._registered,
            ended=self._ended,
        )

    def _ended(self, box: Container) -> None:
        """A step's container goes while the next step begins; what cannot be removed now, the next build removes."""
        from layerfs.engine.buildrun import remove

        def sweep() -> None:
            with contextlib.suppress(LayerfsError):
                remove(box)

        assert self._broom is not None
        self._broom.submit(sweep)

    @contextlib.contextmanager
    def _registered(self, process: Any) -> Iterator[None]:
        with self._lock:
            self._running.add(process)
            if self._stopped:
                process.kill()
        try:
            yield
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def image(self, name: str, platform: Platform, *, pull: bool) -> ImageConfig:
        images = Images(self._store.root)
        found = other = None
        with contextlib.suppress(ImageNotFound):
            found = images.resolve(name)
            if not found.platform.fits(platform):
                found, other = None, found
        if found is None or pull:
            try:
                found = self._store.pull(name, platform=str(platform)).record
            except LayerfsError as error:
                if other is None:
                    raise
                mismatch = f"its platform ({other.platform}) does not match the specified platform ({platform})"
                raise ImageNotFound(f"image {name} was found but {mismatch}: {error}") from None
        self._lease.pin(b"".join(key.raw for key in (found.id, *found.diff_ids)))
        return images.config(images.get(found.id))


def check(store: Store, context: ContextSource, options: BuildOptions) -> LintReport:
    """See Store.check_dockerfile."""
    with contextlib.ExitStack() as stack:
        lease = stack.enter_context(store.root.leases.acquire("check"))
        return _Build(store, options, None, lease, stack).check(context)


def build(store: Store, context: ContextSource, options: BuildOptions, progress: Report | None) -> Image:
    """See Store.build."""
    from layerfs.engine.buildrun import check_confinement

    check_confinement(options.confinement)
    with contextlib.ExitStack() as stack:
        lease = stack.enter_context(store.root.leases.acquire("build"))
        return _Build(store, options, progress, lease, stack).run(context)


class _Build:
    def __init__(
        self, store: Store, options: BuildOptions, report: Report | None, lease: Lease, stack: contextlib.ExitStack
    ) -> None:
        self._store, self._options = store, options
        self._heard = report is not None and not getattr(report, "only_failures", False)
        self._report = _serial(report if report is not None else lambda event: None)
        self._lease, self._stack = lease, stack
        self._hashes: list[Hashes] = []

    def prepare(self, context: ContextSource) -> tuple[Plan, Context, dict[str, Context], Found]:
        """What is to be done, and with which files."""
        options = self._options
        main, found = self._open(context)
        named = {name: self._named(name, value) for name, value in (options.build_contexts or {}).items()}
        planned = plan(
            parse(found.data, found.name),
            platform=self._platform(),
            build_args=options.build_args,
            target=options.target,
            contexts=tuple(named),
        )
        return planned, main, named, found

    def check(self, context: ContextSource) -> LintReport:
        from layerfs.build.lint import check_text

        _, found = self._open(context)
        return check_text(
            found.data,
            found.name,
            platform=self._platform(),
            build_args=self._options.build_args,
            target=self._options.target,
            contexts=tuple(self._options.build_contexts or ()),
            base_config=self._base_config,
            ignore=Matcher(parse_ignore(found.ignore)),
        )

    def _base_config(self, name: str, platform: Platform | None) -> ContainerConfig | None:
        images = Images(self._store.root)
        try:
            return images.config(images.resolve(name)).config
        except LayerfsError:
            return None

    def run(self, context: ContextSource) -> Image:
        root = self._store.root
        if any("build" in record.config for record in self._store.container_table.list()):
            from layerfs.engine.buildrun import clear_dead

            clear_dead(self._store)
        planned, main, named, found = self.prepare(context)
        self._lint(planned, found)
        if self._options.legacy:
            self._report(BuildEvent("context", total=_tar_size(main)))
        world = EngineWorld(self._store, self._lease, self._stack, self._options.confinement)
        solver = Solver(planned, self._request(), world, named, self._report, self._keep)
        elsewhere, exports = self._caches()
        cache = BuildCache(root, self._lease, elsewhere.find if elsewhere else None)
        sources = Sources(root, main, named, solver.layers_of)
        solver.executor = Executor(root, world, self._lease, cache, sources, self._wishes(), world.trees)
        try:
            state = solver.solve()
        except StepFailed as error:
            self._offer(error)
            raise
        finally:
            for hashes in self._hashes:
                hashes.save()
            cache.note_uses()
        if self._options.legacy:
            self._tell_unused(planned)
        inline = [place for place in exports if place.kind == "inline"]
        steps = chosen(cache.steps.values(), state.layers, "min") if inline else None
        image = self._finish(state, solver.executor.wishes.now_ns(), steps)
        for place in exports:
            if place.kind != "inline" and elsewhere is not None:
                self._report(BuildEvent("note", text=f"exporting cache to {place}"))
                elsewhere.write(place, cache.steps, state.layers)
        return image

    def _tell_unused(self, planned: Plan) -> None:
        """The old builder's warning; BuildKit has none."""
        from layerfs.build.instructions import Arg
        from layerfs.build.scope import PROXIES

        given = set(self._options.build_args or {})
        file = planned.dockerfile
        lines = [*file.global_args, *(each for stage in file.stages for each in stage.instructions)]
        known = {pair.name for line in lines if isinstance(line, Arg) for pair in line.pairs}
        unused = sorted(name for name in given - known if name.upper() not in PROXIES)
        if unused:
            text = f"One or more build-args [{' '.join(unused)}] were not consumed"
            self._report(BuildEvent("warning", text=text))

    def _caches(self) -> tuple[Elsewhere | None, list[CachePlace]]:
        """Those to read, opened; and those to write."""
        options = self._options
        imports = [CachePlace.parse(text) for text in options.cache_from]
        exports = [CachePlace.parse(text, export=True) for text in options.cache_to]
        if (options.build_args or {}).get("BUILDKIT_INLINE_CACHE") == "1":
            exports.append(CachePlace("inline"))
        if not imports and not exports:
            return None, []
        from layerfs.engine.remotecache import Elsewhere

        def warn(text: str) -> None:
            self._report(BuildEvent("warning", text=text))

        elsewhere = self._stack.enter_context(Elsewhere(self._store.root, self._lease, self._platform(), warn))
        for place in imports:
            self._report(BuildEvent("note", text=f"importing cache manifest from {place}"))
            elsewhere.add(place)
        return elsewhere, exports

    def _lint(self, planned: Plan, found: Found) -> None:
        """The checks, as warnings; `# check=error=true` makes errors of them. What cannot be built, building tells."""
        if not self._heard and not planned.dockerfile.directive("check"):
            return
        from layerfs.build.lint import check as lint

        ignore = Matcher(parse_ignore(found.ignore))
        report = lint(planned, base_config=self._base_config, ignore=ignore, all_stages=False)
        for warning in report.warnings:
            self._report(BuildEvent("warning", text=str(warning)))
        if report.fails:
            rules = ", ".join(sorted({warning.rule.name for warning in report.warnings}))
            raise InvalidInput(f"lint violation found for rules: {rules}")

    def _request(self) -> Request:
        options = self._options
        return Request(
            self._platform(),
            dict(options.build_args or {}),
            options.no_cache,
            frozenset(options.no_cache_filter),
            options.pull,
            options.legacy,
        )

    def _wishes(self) -> Wishes:
        options = self._options
        if options.epoch is not None and not 0 <= options.epoch <= _LATEST:
            raise InvalidInput(f"invalid SOURCE_DATE_EPOCH: {options.epoch} (seconds since 1970, up to the year 9999)")
        allow = {*options.allow, *(["network.host"] if options.network == "host" else [])}
        if unknown := allow - ENTITLEMENTS:
            raise InvalidInput(f"invalid entitlement: {min(unknown)} (there are {', '.join(sorted(ENTITLEMENTS))})")
        return Wishes(
            None if options.epoch is None else options.epoch * _SECOND,
            self._secrets(),
            dict(options.ssh or {}),
            frozenset(allow),
            options.network,
            options.debug,
            skip_of,
            tuple(options.add_hosts),
        )

    def _secrets(self) -> dict[str, bytes]:
        return {name: _secret(name, value) for name, value in (self._options.secrets or {}).items()}

    # contexts

    def _open(self, context: ContextSource) -> tuple[Context, Found]:
        options, root = self._options, self._store.root
        if context is None or (isinstance(context, str) and context == "-"):
            context = sys.stdin.buffer
        if isinstance(context, str) and (repository := _repository(context)) is not None:
            files = self._checkout(repository)
            found = find_dockerfile(files, options.dockerfile, host=False)
            return self._kept_open(files, found), found
        if isinstance(context, str) and is_url(context):
            context = self._download(context)
        if isinstance(context, str | os.PathLike):
            path = Path(context)
            if path.is_dir():
                files = self._directory(path)
                found = find_dockerfile(files, options.dockerfile)
                return self._kept_open(files, found), found
            if not path.exists():
                raise NotFound(f'unable to prepare context: path "{context}" not found')
            context = self._stack.enter_context(path.open("rb"))
        head, stream = _peeked(context)
        if not _is_tar(head):
            if options.dockerfile is not None:
                raise InvalidInput("ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles")
            empty = TreeContext(root, (), owned=False)
            return empty, Found("Dockerfile", stream.read(), b"")
        from layerfs.build.archives import tar_layer

        layer = tar_layer(root, stream, self._lease)
        found = find_dockerfile(TreeFiles(root, merged_tree(root, [layer])), options.dockerfile)
        return TreeContext(root, (layer,), owned=False, ignore=ignore_of(found)), found

    def _checkout(self, source: GitSource) -> DirectoryFiles:
        """What a git repository has, fetched for this build."""
        from layerfs.build.context import subdirectory
        from layerfs.build.gitsources import Git

        self._report(BuildEvent("note", text=f"load git source {source.shown}"))
        keep = (self._options.build_args or {}).get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "")
        source = replace(source, keep_git_dir=source.keep_git_dir or keep in ("1", "true"))
        place = self._lease.tmp / "git" / os.urandom(6).hex()
        place.parent.mkdir(exist_ok=True)
        git = Git(self._secrets(), (self._options.ssh or {}).get("default", ""), trusted=True)
        git.checkout(source, git.resolve(source), place)
        files = self._stack.enter_context(DirectoryFiles(place))
        return self._stack.enter_context(subdirectory(files, os.fsencode(source.subdir))) if source.subdir else files

    def _download(self, url: str) -> BinaryIO:
        """A Dockerfile, or a tar that is a context."""
        self._report(BuildEvent("note", text=f"load remote build context {url}"))
        return self._stack.enter_context(fetch(url, self._lease.tmp).path.open("rb"))

    def _directory(self, path: Path) -> DirectoryFiles:
        """A directory, with the digests that are remembered of its files."""
        status = path.stat()
        there = f"{status.st_dev} {os.statvfs(path).f_fsid} {status.st_ino} {path.resolve()}"
        name = Digest.of(there.encode("utf-8", "surrogateescape")).hex
        hashes = Hashes(None if self._store.root.read_only else self._store.path / "cache" / "contexts" / name[:40])
        self._hashes.append(hashes)
        return self._stack.enter_context(DirectoryFiles(path, None, hashes))

    def _kept_open(self, files: DirectoryFiles, found: Found) -> DirectoryContext:
        """As a context, with its .dockerignore."""
        return DirectoryContext(self._stack.enter_context(files.again(ignore_of(found))))

    def _named(self, name: str, value: str | os.PathLike[str]) -> Context:
        text = os.fspath(value)
        root = self._store.root
        if text.startswith("docker-image://"):
            image = EngineWorld(self._store, self._lease, self._stack).image(
                text.removeprefix("docker-image://"), self._platform(), pull=self._options.pull
            )
            return TreeContext(root, image.diff_ids, state=State.of(image))
        if text.startswith("oci-layout://"):
            with_digest = text.removeprefix("oci-layout://")
            image = self._store.import_archive(with_digest.partition("@")[0]).config
            self._lease.pin(b"".join(key.raw for key in (image.id, *image.diff_ids)))
            return TreeContext(root, image.diff_ids, state=State.of(image))
        if (repository := _repository(text)) is not None:
            return DirectoryContext(self._checkout(repository).again())
        if is_url(text):
            return self._remote_tar(name, text)
        if "://" in text:
            raise Unsupported(
                f"the build context {name}={text}: only directories, URLs, images and OCI layouts are supported"
            )
        path = Path(text.removeprefix("local:"))
        if not path.is_dir():
            raise NotFound(f"failed to get build context {name}: {text} is no directory")
        files = self._directory(path)
        found = Found("", b"", ignore=_read(path / ".dockerignore"))
        return self._kept_open(files, found)

    def _remote_tar(self, name: str, url: str) -> Context:
        from layerfs.build.archives import tar_layer

        head, stream = _peeked(self._download(url))
        if not _is_tar(head):
            raise InvalidInput(f"the build context {name}={url} is no tar")
        return TreeContext(self._store.root, (tar_layer(self._store.root, stream, self._lease),), owned=False)

    def _platform(self) -> Platform:
        if "," in (self._options.platform or ""):
            raise InvalidInput(f"one platform a build: {self._options.platform}")
        return Platform.parse(self._options.platform) if self._options.platform else Platform.host()

    # images

    def _keep(self, state: State) -> str:
        """An image of a step, which the next one stands on."""
        now = state.created_ns or 0
        parent = Digest.parse(state.parent) if state.parent else None
        return str(Images(self._store.root).add(state.image({}, now), parent=parent).id)

    def _finish(self, state: State, now_ns: int, inline: Sequence[Made] | None) -> Image:
        from layerfs.engine.buildimage import finished

        image = finished(self._store, self._lease, self._options, state, now_ns, inline)
        for tag in self._options.tags or [None]:
            self._report(BuildEvent("image", image=image.id, name=tag.familiar if tag else ""))
        return image

    def _offer(self, error: StepFailed) -> None:
        """With `debug`: an image of what the failed step had made, with its variables, for a look inside."""
        if not self._options.debug or error.state is None:
            return
        config = replace(
            error.state.config, env=error.env, entrypoint=None, cmd=(error.state.config.shell or ("/bin/sh",))[:1]
        )
        state = replace(error.state, config=config)
        if error.layer is not None:
            state = state.step(error.layer, f"failed: {error.command}", state.created_ns)
        image = Images(self._store.root).add(state.image({}, state.created_ns or 0))
        error.image = str(image.id)
        self._report(BuildEvent("debug", image=error.image, text=error.command))


def _serial(report: Report) -> Report:
    """Stages tell from threads of their own; a callback hears one after the other."""
    lock = threading.Lock()

    def tell(event: BuildEvent) -> None:
        with lock:
            report(event)

    return tell


def _repository(text: str) -> GitSource | None:
    """What a context names, when that is a git repository."""
    if ":" not in text and not text.startswith("github.com/"):
        return None
    from layerfs.build.gitsources import GitSource

    return GitSource.parse(text, context=True)


def _secret(name: str, value: bytes | str | os.PathLike[str]) -> bytes:
    """Bytes are the secret itself, a path is that of its file."""
    if isinstance(value, bytes):
        return value
    try:
        return Path(value).read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise NotFound(f"failed to read secret {name}: open {os.fspath(value)}: {reason}") from None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _peeked(stream: BinaryIO) -> tuple[bytes, BinaryIO]:
    """The first bytes, and the whole stream again."""
    from layerfs.image.source import Peekable

    if not hasattr(stream, "read") or isinstance(stream, io.TextIOBase):
        raise TypeError(f"a context is a path or a binary stream, not {type(stream).__name__}")
    again = Peekable(stream)
    return again.peek(1 << 16), again  # type: ignore[return-value]


def _is_tar(head: bytes) -> bool:
    from layerfs.build.archives import looks_like_tar
    from layerfs.errors import LayerfsError
    from layerfs.layer.codec import Decompressed, detect

    if detect(head[:6]) != "plain":
        return True
    with contextlib.suppress(LayerfsError):
        return looks_like_tar(Decompressed(io.BytesIO(head)).read(512))
    return False


def _tar_size(context: Context) -> int:
    """Bytes of the tar that docker's client would have sent."""
    from layerfs.build.files import walk

    with context.open() as files:
        sizes = (512 + (item.size + 511) // 512 * 512 for path, item in walk(files, files.root) if path)
        return sum(sizes) + 1024
