"""What removing an image name or ID does: docker's rules as a pure plan (dockerd's ImageDelete).

A name is untagged; the image goes with its last name, then its untagged parents that nothing uses. An ID goes when
all its names are in one repository. Conflicts are hard (child images, running containers) or soft (more names,
stopped containers); `force` overrides the soft ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from layerfs._record import dataclass, field
from layerfs.digest import DiffID, Digest, chain_ids
from layerfs.errors import InUse
from layerfs.image.record import ImageRecord, Tag
from layerfs.reference import Reference


@dataclass(frozen=True, slots=True)
class ImageUse:
    """A container that stands on an image."""

    container: str  # full ID
    running: bool


Users = Callable[[Digest], Sequence[ImageUse]]


@dataclass(frozen=True, slots=True)
class Removed:
    """One line of `rmi`: `str()` gives `Untagged: NAME` or `Deleted: sha256:…` (an image, then its chain IDs)."""

    kind: str  # "Untagged" or "Deleted"
    what: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"


@dataclass(slots=True)
class Plan:
    """What to do to the tables, and what to tell."""

    images: list[Digest] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)
    lines: list[Removed] = field(default_factory=list)


class Conflict(InUse):
    """A removal that docker refuses; `hard` ones cannot be forced, `used` ones are a container's."""

    def __init__(self, message: str, *, hard: bool = False, used: bool = False, path: str | None = None) -> None:
        super().__init__(message, path=path)
        self.hard, self.used = hard, used


class Remover:
    """Plans over a snapshot of the tables. `names` and `images` shrink as the plan grows."""

    def __init__(self, images: Iterable[ImageRecord], tags: Iterable[Tag], users: Users) -> None:
        self.images = {image.id: image for image in images}
        self.names: dict[Digest, list[Reference]] = {}
        for tag in tags:
            self.names.setdefault(tag.image, []).append(tag.reference)
        self._users = users
        self.plan = Plan()

    def remove(self, image: Digest, given: str, reference: Reference | None, *, force: bool, prune: bool) -> Plan:
        """`reference` is the name that was given, None when `given` is an ID.

        Raises:
            Conflict: docker's words.
        """
        names = self.names.get(image, [])
        if reference is not None:
            if not force and is_single(names) and (uses := self._users(image)):
                raise Conflict(
                    f'conflict: unable to remove repository reference "{given}" (must force) - container '
                    f"{uses[0].container[:12]} is using its referenced image {image.short}",
                    used=True,
                )
            self._untag_name(image, reference)
            if self.names.get(image):
                return self.plan
        elif is_single(names):
            self._check(image, force=force, with_names=False)
            for name in list(names):
                self._untag(image, name)
        self._delete(image, force=force, prune=prune, quiet=reference is not None)
        return self.plan

    def _untag_name(self, image: Digest, reference: Reference) -> None:
        """One name; digest names of a repository go with its last tag."""
        self._untag(image, reference)
        same = [name for name in self.names.get(image, []) if name.name == reference.name]
        if reference.digest is None and all(name.digest is not None for name in same):
            for name in same:
                self._untag(image, name)

    def _untag(self, image: Digest, reference: Reference) -> None:
        self.names[image].remove(reference)
        self.plan.references.append(reference)
        self.plan.lines.append(Removed("Untagged", reference.familiar))

    def _delete(self, image: Digest, *, force: bool, prune: bool, quiet: bool) -> None:
        try:
            self._check(image, force=force, with_names=True)
        except Conflict as conflict:
            if quiet and (self._has_reason_to_stay(image) or conflict.used):
                return
            raise
        record = self.images.pop(image)
        for name in list(self.names.get(image, [])):
            self._untag(image, name)
        self.plan.images.append(image)
        self.plan.lines.append(Removed("Deleted", str(image)))
        self.plan.lines += [Removed("Deleted", str(chain)) for chain in self._freed_chains(record.diff_ids)]
        if prune and record.parent is not None and record.parent in self.images:
            self._delete(record.parent, force=False, prune=True, quiet=True)

    def _has_reason_to_stay(self, image: Digest) -> bool:
        return bool(self.names.get(image)) or self._has_children(image)

    def _has_children(self, image: Digest) -> bool:
        return any(other.parent == image for other in self.images.values())

    def _check(self, image: Digest, *, force: bool, with_names: bool) -> None:
        def conflict(reason: str, *, hard: bool = False, used: bool = False) -> Conflict:
            word = "cannot be forced" if hard else "must be forced"
            return Conflict(f"conflict: unable to delete {image.short} ({word}) - {reason}", hard=hard, used=used)

        if self._has_children(image):
            raise conflict("image has dependent child images", hard=True)
        uses = self._users(image)
        for use in uses:
            if use.running:
                reason = f"image is being used by running container {use.container[:12]}"
                raise conflict(reason, hard=True, used=True)
        if force:
            return
        if with_names and self.names.get(image):
            raise conflict("image is referenced in multiple repositories")
        if uses:
            raise conflict(f"image is being used by stopped container {uses[0].container[:12]}", used=True)

    def _freed_chains(self, diff_ids: tuple[DiffID, ...]) -> list[Digest]:
        """Chain IDs that no other image has, top first."""
        kept = {chain for other in self.images.values() for chain in chain_ids(other.diff_ids)}
        return [chain for chain in reversed(chain_ids(diff_ids)) if chain not in kept]


def is_single(names: Sequence[Reference]) -> bool:
    """At most one tag, and all digest names of the same repository."""
    if len(names) <= 1:
        return True
    tags = [name for name in names if name.digest is None]
    repositories = {name.name for name in names if name.digest is not None}
    return len(tags) <= 1 and repositories == {(tags or names)[0].name}
