"""Descriptors, manifests and indexes: both families, and what must be refused."""

import json
from typing import Any

import pytest

from layerfs.digest import Digest
from layerfs.errors import InvalidArchive, InvalidInput
from layerfs.oci import Descriptor, Index, Manifest, Platform, build_index, build_manifest, media, parse_document
from layerfs.oci.fields import Fields

D = str(Digest("ab" * 32))
CONFIG = {"mediaType": media.OCI_CONFIG, "digest": D, "size": 2}
LAYER = {"mediaType": media.OCI_LAYER_GZIP, "digest": D, "size": 7}


def raw(**values: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, **values}).encode()


def entry(platform: str | None, hexdigit: str) -> Descriptor:
    return Descriptor(
        media.OCI_MANIFEST, Digest(hexdigit * 64), 1, platform=Platform.parse(platform) if platform else None
    )


@pytest.mark.parametrize("media_type", [media.OCI_MANIFEST, media.DOCKER_MANIFEST])
def test_a_manifest_keeps_its_bytes_whatever_fields_it_has(media_type: str) -> None:
    data = raw(mediaType=media_type, config=CONFIG, layers=[LAYER], future={"x": 1})
    manifest = Manifest.parse(data)
    assert manifest.raw == data and manifest.digest == Digest.of(data)
    assert (manifest.media_type, manifest.layers[0].size) == (media_type, 7)


def test_a_manifest_without_a_media_type_is_known_by_its_fields() -> None:
    assert isinstance(parse_document(raw(config=CONFIG, layers=[])), Manifest)
    assert isinstance(parse_document(raw(manifests=[])), Index)


@pytest.mark.parametrize(
    ("document", "given_type", "words"),
    [
        (raw(config=CONFIG, layers=[], manifests=[]), "", "manifest and of an index"),
        (raw(mediaType=media.OCI_INDEX, manifests=[]), media.OCI_MANIFEST, "its descriptor says"),
        (b'{"schemaVersion":1,"fsLayers":[]}', "", "schema 1"),
        (raw(mediaType="x/y"), "", "unknown media type"),
        (raw(), "", "unknown media type"),
        (raw(schemaVersion=3, config=CONFIG), "", r"schemaVersion is 3"),
        (raw(layers=[]), media.OCI_MANIFEST, r"manifest\.config is missing"),
        (raw(config={**CONFIG, "size": -1}), media.OCI_MANIFEST, r"config\.size"),
        (raw(config=CONFIG, layers=[{**LAYER, "digest": "md5:x"}]), "", r"layers\[0\]\.digest"),
        (raw(config=CONFIG, layers=[3]), "", r"layers\[0\] is a number"),
        (b" " * (4 << 20) + b"{}", "", "more than the 4194304 allowed"),
    ],
)
def test_a_bad_manifest_is_refused(document: bytes, given_type: str, words: str) -> None:
    with pytest.raises(InvalidArchive, match=words):
        parse_document(document, given_type)


def test_inline_data_must_fit_the_descriptor() -> None:
    good = {"mediaType": media.OCI_EMPTY, "digest": str(Digest.of(b"{}")), "size": 2, "data": "e30="}
    assert Descriptor.read(Fields(good, "x")).data == b"{}"
    for bad in ({"data": "e30"}, {"data": "AAA="}):
        with pytest.raises(InvalidArchive, match=r"x\.data"):
            Descriptor.read(Fields({**good, **bad}, "x"))


def test_a_built_manifest_reads_back_equal() -> None:
    layer = Descriptor(media.OCI_LAYER, Digest("1" * 64), 3, ("https://u",), (("b", "2"), ("a", "1")))
    manifest = build_manifest(entry(None, "2"), (layer,))
    again = Manifest.parse(manifest.raw)
    assert again.config == manifest.config and again.layers[0].urls == ("https://u",)
    assert (
        build_index((entry("linux/arm/v7", "3"),)).manifests
        == Index.parse(build_index((entry("linux/arm/v7", "3"),)).raw).manifests
    )


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("linux/amd64", "1"),
        ("linux/amd64/v3", "1"),
        ("linux/arm/v5", None),
        ("linux/arm/v7", "3"),
        ("linux/arm/v8", "3"),
        ("linux/arm", "3"),  # v7 is meant, as by docker
        ("linux/s390x", None),
        ("arm64", "5"),
    ],
)
def test_an_index_gives_the_first_of_the_manifests_that_fit_best(wanted: str, found: str | None) -> None:
    attestation = entry("unknown/unknown", "0")
    names = ("amd64", "arm/v6", "arm/v7", "amd64", "arm64/v8")
    listed = [entry(name, str(digit)) for digit, name in enumerate(names, 1)]
    index = build_index((attestation, *listed))
    chosen = index.choose(Platform.parse(wanted))
    assert (chosen.digest.hex[0] if chosen else None) == found


def test_a_manifest_without_a_platform_serves_when_no_other_fits() -> None:
    index = build_index((entry("linux/arm64", "1"), entry(None, "2")))
    assert index.choose(Platform.parse("linux/amd64")) == index.manifests[1]


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("arm/v6", "linux/arm/v6"),
        ("mips64le", "linux/mips64le"),
        ("freebsd", f"freebsd/{Platform.host().architecture}"),
        ("linux/new", "linux/new"),
    ],
)
def test_platform_texts(text: str, parsed: str) -> None:
    assert str(Platform.parse(text)) == parsed


@pytest.mark.parametrize("text", ["", "/", "a/b/c/d", "linux/"])
def test_bad_platform_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="invalid platform"):
        Platform.parse(text)


def test_a_word_that_is_no_platform_is_told_in_dockers_words() -> None:
    with pytest.raises(InvalidInput, match='"foo": unknown operating system or architecture: invalid argument'):
        Platform.parse("foo")


def test_layer_types_of_both_families_name_their_compression() -> None:
    assert media.layer_compression(media.DOCKER_LAYER_GZIP) == "gzip"
    assert media.layer_compression(media.OCI_LAYER_ZSTD) == "zstd"
    assert media.layer_compression("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip") == "gzip"
    assert media.layer_compression(media.OCI_CONFIG) is None
    assert media.is_foreign("application/vnd.oci.image.layer.nondistributable.v1.tar")
