"""Random operations on a store against a plain model; gc and fsck after any of them keep to it."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from layerfs.digest import Digest
from layerfs.store import ContentValue, Lease, Roots, StoreRoot, Txn, check, collect
from layerfs.store.format import UNKNOWN
from tests.unit.store.layers import add_layer

SIZES = st.sampled_from([1, 5000, 100_000, 131_072, 131_073, 200_000])
FILES = st.dictionaries(st.sampled_from(["p", "q", "r", "s"]), SIZES, min_size=1, max_size=4)


def data_of(size: int) -> bytes:
    return b"%d" % (size % 7) * size


class StoreMachine(RuleBasedStateMachine):
    layers = Bundle("layers")
    blobs = Bundle("blobs")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(prefix="layerfs-property-")
        self.root = StoreRoot.open(Path(self.directory.name) / "store")
        self.wanted: dict[bytes, dict[str, bytes]] = {}
        self.kept_blobs: dict[Digest, bytes] = {}
        self.leases: list[Lease] = []

    def roots(self, txn: Txn) -> Roots:
        return Roots(layers=frozenset(self.wanted), blobs=frozenset(digest.raw for digest in self.kept_blobs))

    @rule(target=layers, sizes=FILES)
    def import_layer(self, sizes: dict[str, int]) -> bytes:
        files = {name: data_of(size) for name, size in sizes.items()}
        layer = add_layer(self.root, files)
        self.wanted[layer] = files
        return layer

    @rule(layer=layers)
    def forget_layer(self, layer: bytes) -> None:
        self.wanted.pop(layer, None)

    @rule(target=blobs, data=st.binary(max_size=64))
    def put_blob(self, data: bytes) -> Digest:
        digest = self.root.blobs.put(data, media_type="x")
        self.kept_blobs[digest] = data
        return digest

    @rule(digest=blobs)
    def forget_blob(self, digest: Digest) -> None:
        self.kept_blobs.pop(digest, None)

    @rule()
    def hold_a_lease(self) -> None:
        self.leases.append(self.root.leases.acquire("property"))

    @rule()
    def let_leases_go(self) -> None:
        while self.leases:
            self.leases.pop().release()

    @rule()
    def reopen(self) -> None:
        second = StoreRoot.open(self.root.path)
        self.root.contents.forget_packs()
        second.close()

    @rule()
    def gc(self) -> None:
        said = collect(self.root, self.roots, dry_run=True)
        done = collect(self.root, self.roots)
        assert (said.layers, said.contents, said.packs, said.blobs) == (
            done.layers,
            done.contents,
            done.packs,
            done.blobs,
        )
        if not self.leases:
            with self.root.index.view() as txn:
                assert set(txn.keys("layers")) == set(self.wanted)
                assert set(txn.keys("blobs")) == {digest.raw for digest in self.kept_blobs}
                assert set(txn.keys("contents")) == self.identities()

    def identities(self) -> set[bytes]:
        return {hashlib.sha256(data).digest() for files in self.wanted.values() for data in files.values()}

    @invariant()
    def what_is_wanted_is_there(self) -> None:
        identities = sorted(self.identities())
        values = self.root.contents.lookup(b"".join(identities))
        for number, identity in enumerate(identities):
            value = values[number * 32 : number * 32 + 32]
            assert value != UNKNOWN
            assert hashlib.sha256(self.root.contents.read(identity)).digest() == identity
            assert ContentValue.decode(value).size == len(self.root.contents.read(identity))
        for digest, data in self.kept_blobs.items():
            assert self.root.blobs.read(digest) == data

    def teardown(self) -> None:
        self.let_leases_go()
        assert check(self.root) == []
        collect(self.root, lambda txn: Roots())
        left = [path for name in ("packs", "objects", "trees", "tmp") for path in (self.root.path / name).rglob("*")]
        assert left == []
        self.root.close()
        self.directory.cleanup()


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
