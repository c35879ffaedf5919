"""Bringing blobs: several downloads at once, each layer unpacked while it comes, the first error ends all.

Threads of our own that die with the process: nobody waits for a connection that hangs when the user has had enough.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from layerfs._record import dataclass, field
from layerfs._threads import LISTEN
from layerfs.digest import DiffID, Digest
from layerfs.errors import Corrupt, InvalidArchive, LayerfsError, NoSpace, NotFound
from layerfs.layer.codec import Readable
from layerfs.layer.layers import Source, has_layer, note_source
from layerfs.layer.progress import Progress
from layerfs.layer.publish import Publisher
from layerfs.layer.read import KeepBlob, unpack_layer
from layerfs.oci import Descriptor
from layerfs.registry.download import MOMENT, Cancelled, Download, Upstream
from layerfs.store.leases import Lease
from layerfs.store.partial import Partial, claim
from layerfs.store.root import StoreRoot

DOWNLOADS = 3  # docker's number
UNPACKERS = 2  # each inflates in one thread and parses in another
_AHEAD = 16  # downloads that may be over before their unpacking begins
_GRACE = 2.0  # seconds for threads to see that they are not needed any more
_POLL = 0.01, 0.25  # seconds, first and longest


@dataclass(frozen=True, slots=True)
class Need:
    """A blob that is wanted: as a layer when it has a diff ID, else as it is. `there`: the layer is known already."""

    blob: Descriptor
    diff_id: DiffID | None = None
    there: bool = False


@dataclass(slots=True)
class _Job:
    need: Need
    ready: threading.Event = field(default_factory=threading.Event)  # one of the following is set, or it is there
    download: Download | None = None
    partial: Partial | None = None
    error: BaseException | None = None


def claim_when_free(
    root: StoreRoot, digest: Digest, stop: threading.Event, waiting: Callable[[Digest], object] = lambda _: None
) -> Partial:
    """Makes a blob ours as soon as nobody else works on it. Raises Cancelled."""
    delay, told = _POLL[0], False
    while (partial := claim(root, digest)) is None:
        if not told:
            waiting(digest)
            told = True
        if stop.wait(delay):
            raise Cancelled("cancelled")
        delay = min(delay * 2, _POLL[1])
    return partial


class Bringer:
    """Brings what a repository has into a store, under a lease that has pinned it.

    keep: of which layers the compressed form is kept.
    """

    def __init__(
        self,
        root: StoreRoot,
        lease: Lease,
        upstream: Upstream,
        report: Callable[[Progress], object],
        keep: KeepBlob = "auto",
    ) -> None:
        self._root, self._lease, self._upstream, self._report = root, lease, upstream, report
        self._keep = keep
        self._publisher = Publisher(root, lease)
        self.flush = self._publisher.flush  # when something is waited for

    def bring(self, needs: Sequence[Need]) -> None:
        """Returns when all is in the store.

        Raises:
            Corrupt, InvalidArchive, NoSpace: what came of these blobs is forgotten. RegistryError: it is kept, and a
            later pull goes on with it.
        """
        once = {need.blob.digest: need for need in needs}.values()
        self._lease.pin(b"".join(need.blob.digest.raw for need in once))
        for need in once:
            if need.there:
                self._known(need)
        if missing := [_Job(need) for need in once if not need.there]:
            with self._publisher:
                _Work(self, missing).run()

    def tell(self, kind: str, blob: Descriptor, current: int) -> None:
        self._report(Progress(kind, str(blob.digest), current, blob.size))

    def _known(self, need: Need) -> None:
        self.tell("exists", need.blob, need.blob.size)
        if need.diff_id is not None:
            note_source(self._root, need.diff_id, self._source(need.blob))

    def _source(self, blob: Descriptor) -> Source:
        return Source("registry", self._upstream.place, str(blob.digest))

    def is_there(self, need: Need) -> bool:
        """Whether the store has it by now."""
        if need.diff_id is not None:
            return has_layer(self._root, need.diff_id) is not None
        return self._root.blobs.has(need.blob.digest)

    def begin(self, job: _Job) -> None:
        """Claims the blob; then there is a download to run, or nothing is to be done, or its bytes are here already."""
        blob = job.need.blob
        job.partial = claim_when_free(
            self._root, blob.digest, self._upstream.stop, lambda _: self.tell("wait", blob, 0)
        )
        if self.is_there(job.need) or (job.need.diff_id is not None and self._root.blobs.has(blob.digest)):
            job.partial.drop()
            return
        self._check_space(blob, job.partial)
        job.download = self._download(job.partial, blob, self._upstream)

    def _check_space(self, blob: Descriptor, partial: Partial) -> None:
        found = os.statvfs(self._root.path)
        free = found.f_bavail * found.f_frsize
        if blob.size - partial.size > free:
            raise NoSpace(f"blob {blob.digest} has {blob.size} bytes, more than the {free} that are free")

    def _download(self, partial: Partial, blob: Descriptor, upstream: Upstream) -> Download:
        return Download(partial, upstream, blob, lambda count: self.tell("download", blob, count), self.flush)

    def finish(self, job: _Job, over: Callable[[], object]) -> None:
        """Takes a blob in while it comes; `over` is called when it is in the store. One whose beginning an earlier
        process has left, or which a mirror gave, is fetched anew from the registry itself when it is wrong.
        """
        if job.download is None and self._from_store(job.need, over):
            return
        download = job.download or self._damaged(job)
        try:
            self._take(job.need, download, over)
        except (Corrupt, InvalidArchive) as error:
            download.end(Cancelled("cancelled"))
            if not (download.began or len(self._upstream.clients) > 1) or self._upstream.stop.is_set():
                raise self._named(job.need.blob, error) from error
            try:
                self._take(job.need, self._again(download.partial, job.need.blob), over)
            except (Corrupt, InvalidArchive) as again:
                raise self._named(job.need.blob, again) from again

    def _again(self, partial: Partial, blob: Descriptor) -> Download:
        partial.restart()
        download = self._download(partial, blob, self._upstream.own())
        threading.Thread(target=download.run, name="download", daemon=True).start()
        return download

    def _take(self, need: Need, download: Download, over: Callable[[], object]) -> None:
        file = download.partial.path

        def taken() -> None:
            download.partial.drop()  # of a layer in a form that is not kept
            self.tell("done", need.blob, need.blob.size)
            over()

        if need.diff_id is not None:
            self._read(need, download, file, self._keep, taken, download.partial.restart)
            return
        with self._root.blobs.adopt(self._lease, file, need.blob.media_type) as writer:
            while data := download.read():
                writer.write(data)
            writer.commit(need.blob.digest, need.blob.size)
        taken()

    def _from_store(self, need: Need, over: Callable[[], object]) -> bool:
        """Somebody else has brought it, or its bytes are here; False when these are damaged."""

        def known() -> None:
            self._known(need)
            over()

        if self.is_there(need):
            known()
            return True
        try:
            with self._root.blobs.open(need.blob.digest) as file:
                self._read(need, file, self._root.blobs.blob_path(need.blob.digest), "always", known)
        except (Corrupt, InvalidArchive, NotFound):
            return False
        return True

    def _damaged(self, job: _Job) -> Download:
        """The download of a blob whose bytes in the store are no good."""
        job.partial = claim_when_free(self._root, job.need.blob.digest, self._upstream.stop)
        return self._again(job.partial, job.need.blob)

    def _read(
        self,
        need: Need,
        stream: Readable,
        file: Path,
        keep: KeepBlob,
        done: Callable[[], object],
        dropped: Callable[[], object] = lambda: None,
    ) -> None:
        unpack_layer(
            self._publisher,
            stream,
            expected=need.diff_id,
            descriptor=need.blob,
            keep_blob=keep,
            file=file,
            dropped=dropped,
            source=self._source(need.blob),
            progress=self._report,
            done=lambda _: done(),
        )

    def _named(self, blob: Descriptor, error: LayerfsError) -> LayerfsError:
        place = self._upstream.place
        text = error.message if error.message.startswith(place) else f"{place}: layer {blob.digest}: {error.message}"
        return type(error)(text, path=error.filename)

    def cancel(self) -> None:
        self._upstream.cancel()


class _Work:
    """Jobs in two rows of threads: one claims and downloads, the other takes in; both in the order of the jobs."""

    def __init__(self, bringer: Bringer, jobs: Sequence[_Job]) -> None:
        self._bringer, self._jobs = bringer, jobs
        self._changed = threading.Condition()
        self._next, self._left = {"download": 0, "unpack": 0}, len(jobs)
        self._ahead = threading.Semaphore(_AHEAD)
        self._error: BaseException | None = None

    def run(self) -> None:
        rows = [("download", self._fetch)] * DOWNLOADS + [("unpack", self._unpack)] * UNPACKERS
        count = len(self._jobs)
        threads = [
            threading.Thread(target=self._serve, args=row, name=row[0], daemon=True)
            for number, row in enumerate(rows)
            if number % DOWNLOADS < count
        ]
        for thread in threads:
            thread.start()
        try:
            with self._changed:
                while self._left and self._error is None:
                    self._changed.wait(LISTEN)
        except BaseException as error:  # the user interrupts
            self._fail(error)
        finally:
            self._end(threads)
        if self._error is not None:
            raise self._error

    def _serve(self, row: str, work: Callable[[_Job], None]) -> None:
        while True:
            if row == "download":
                self._ahead.acquire()
            with self._changed:
                number = self._next[row]
                if self._error is not None:
                    return
                self._next[row] += 1
            try:
                if number >= len(self._jobs):
                    self._bringer.flush()
                    return
                work(self._jobs[number])
            except BaseException as error:
                self._fail(error)

    def _fetch(self, job: _Job) -> None:
        try:
            self._bringer.begin(job)
        except BaseException as error:
            job.error = error
        finally:
            job.ready.set()
        if job.download is not None and job.error is None:
            job.download.run()
            if job.download.whole:
                self._bringer.tell("downloaded", job.need.blob, job.need.blob.size)

    def _unpack(self, job: _Job) -> None:
        if not job.ready.wait(MOMENT):
            self._bringer.flush()
            job.ready.wait()
        self._ahead.release()
        if job.error is not None:
            raise job.error
        self._bringer.finish(job, lambda: self._over(job))

    def _over(self, job: _Job) -> None:
        if job.partial is not None:
            job.partial.close()
        with self._changed:
            self._left -= 1
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """The first error ends the work of all."""
        with self._changed:
            if self._error is not None:
                return
            self._error = error
            self._changed.notify_all()
        self._bringer.cancel()
        for job in self._jobs:
            if not job.ready.is_set() and job.error is None:
                job.error = Cancelled("cancelled")
            job.ready.set()
            if job.download is not None:
                job.download.end(Cancelled("cancelled"))
        for _ in range(DOWNLOADS):
            self._ahead.release()

    def _end(self, threads: Sequence[threading.Thread]) -> None:
        """Afterwards nothing works on the store, except what hangs in a connection and will see that it is over."""
        for _ in range(DOWNLOADS):
            self._ahead.release()
        for thread in threads:
            hangs = self._error is not None and thread.name == "download"
            thread.join(_GRACE if hangs else None)
        forget = isinstance(self._error, Corrupt | InvalidArchive | NoSpace)
        for job in self._jobs:
            if job.partial is not None:
                with contextlib.suppress(OSError):
                    job.partial.drop() if forget else job.partial.close()
