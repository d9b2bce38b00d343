"""Reading manifests and indexes: what they name, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci import manifest as m
from mirror.oci.descriptor import Descriptor
from mirror.oci.digest import Digest
from mirror.oci.manifest import ManifestError, parse
from tests.oci.strategies import bounded, digests

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"


def descriptor(name: str, size: int = 1, media_type: str = LAYER, **more: Any) -> dict[str, Any]:
    """A descriptor as in JSON, of the content `name`."""
    return {"mediaType": media_type, "digest": str(Digest.of(name.encode())), "size": size, **more}


def value(name: str, size: int = 1, media_type: str = LAYER) -> Descriptor:
    """What becomes of `descriptor(name)`."""
    return Descriptor(Digest.of(name.encode()), size, media_type)


def image(**more: Any) -> dict[str, Any]:
    """An OCI image of two layers; a field given as `...` is left out."""
    document = {
        "schemaVersion": 2,
        "mediaType": m.OCI_MANIFEST,
        "config": descriptor("config", 7, CONFIG),
        "layers": [descriptor("one"), descriptor("two")],
    }
    return {key: field for key, field in (document | more).items() if field is not ...}


def index(**more: Any) -> dict[str, Any]:
    """An OCI index of one manifest; a field given as `...` is left out."""
    document = {
        "schemaVersion": 2,
        "mediaType": m.OCI_INDEX,
        "manifests": [descriptor("child", 9, m.OCI_MANIFEST, platform={"os": "linux"})],
    }
    return {key: field for key, field in (document | more).items() if field is not ...}


def read(document: Any, content_type: str | None = None) -> m.Manifest:
    """Parse a document given as a value."""
    return parse(json.dumps(document).encode(), content_type)


def test_an_image_names_its_config_and_its_layers_in_order() -> None:
    """The config first, since clients ask for it first."""
    found = read(image())
    assert found == m.Manifest(
        media_type=m.OCI_MANIFEST,
        blobs=(value("config", 7, CONFIG), value("one"), value("two")),
        children=(),
        subject=None,
        artifact_type=CONFIG,
        annotations={},
        foreign=frozenset(),
    )


def test_an_index_names_its_manifests() -> None:
    """An index has no blobs, and no artifact type of its own making."""
    found = read(index())
    assert found == m.Manifest(
        media_type=m.OCI_INDEX,
        blobs=(),
        children=(value("child", 9, m.OCI_MANIFEST),),
        subject=None,
        artifact_type=None,
        annotations={},
        foreign=frozenset(),
    )


@pytest.mark.parametrize(
    ("entry", "attached"),
    [
        ({"platform": {"os": "unknown", "architecture": "unknown"}}, True),
        ({"platform": {"os": "unknown", "architecture": "unknown", "variant": "v1"}}, True),
        ({"annotations": {"vnd.docker.reference.type": "attestation-manifest"}}, True),
        ({"platform": {"os": "linux", "architecture": "unknown"}}, False),
        ({"platform": {"os": "unknown"}}, False),
        ({"platform": None, "annotations": None}, False),
        ({"platform": "unknown", "annotations": "vnd.docker.reference.type"}, False),
        ({"platform": {"os": ["unknown"], "architecture": {}}, "annotations": [1]}, False),
        ({"annotations": {"vnd.docker.reference.type": ""}}, False),
        ({"annotations": {"vnd.docker.reference.digest": "sha256:1"}}, False),
        ({}, False),
    ],
)
def test_what_is_attached_to_images_is_known(entry: dict[str, Any], attached: bool) -> None:
    """BuildKit lists provenance beside the images of which it tells; no client runs it."""
    child = descriptor("child", **entry)
    found = read(index(manifests=[descriptor("image"), child]))
    assert found.attached == ({Digest.of(b"child")} if attached else set())
    assert len(found.children) == 2
    assert read(index(manifests=[child, descriptor("child")])).attached == set(), "some client may run it"


def test_each_digest_is_named_once() -> None:
    """Images repeat their empty layer; indexes list one manifest for two platforms."""
    found = read(
        image(layers=[descriptor("one"), descriptor("two"), descriptor("one"), descriptor("config")])
    )
    assert [str(blob.digest) for blob in found.blobs] == [
        descriptor(name)["digest"] for name in ("config", "one", "two")
    ]
    assert len(read(index(manifests=[descriptor("a"), descriptor("a")])).children) == 1


@pytest.mark.parametrize(
    ("document", "content_type", "media_type"),
    [
        (image(mediaType=...), None, m.OCI_MANIFEST),
        (index(mediaType=...), None, m.OCI_INDEX),
        (image(mediaType=""), None, m.OCI_MANIFEST),
        (image(mediaType=None), m.DOCKER_MANIFEST, m.DOCKER_MANIFEST),
        (image(mediaType=...), m.DOCKER_MANIFEST, m.DOCKER_MANIFEST),
        (index(mediaType=...), f" {m.DOCKER_LIST.upper()} ; charset=utf-8", m.DOCKER_LIST),
        (index(mediaType=...), "application/json", m.OCI_INDEX),
        (image(mediaType=...), "text/html; a", m.OCI_MANIFEST),
        (image(mediaType=m.DOCKER_MANIFEST), m.OCI_MANIFEST, m.DOCKER_MANIFEST),
        (image(mediaType=m.DOCKER_MANIFEST), m.DOCKER_SCHEMA1_SIGNED, m.DOCKER_MANIFEST),
        (index(mediaType=m.DOCKER_LIST), None, m.DOCKER_LIST),
        (index(mediaType=..., manifests=None, config=descriptor("config")), None, m.OCI_MANIFEST),
        (index(manifests=None), None, m.OCI_INDEX),
        (index(manifests=...), None, m.OCI_INDEX),
    ],
)
def test_the_type_is_found(document: dict[str, Any], content_type: str | None, media_type: str) -> None:
    """The document's own word, then the header's, then its shape."""
    assert read(document, content_type).media_type == media_type


def test_subject_artifact_type_and_annotations_are_read() -> None:
    """What the referrers API needs."""
    found = read(
        image(
            subject=descriptor("subject", 5, m.OCI_MANIFEST),
            artifactType="application/spdx+json",
            annotations={"a": "b", "number": 1, "half": "\ud800"},
        )
    )
    assert found.subject == value("subject", 5, m.OCI_MANIFEST)
    assert found.artifact_type == "application/spdx+json"
    assert found.annotations == {"a": "b", "half": "?"}
    assert read(index(artifactType="x/y", subject=descriptor("subject"))).artifact_type == "x/y"
    assert read(image(artifactType="")).artifact_type == CONFIG
    # Docker's types have no subject: whatever stands there is an unknown field.
    assert read(image(mediaType=m.DOCKER_MANIFEST, subject="?")).subject is None


@pytest.mark.parametrize(
    "document",
    [
        image(layers=[descriptor("one", media_type="application/x-wasm", urls=["https://example.com/x"])]),
        image(layers=[]),
        image(layers=None),
        image(layers=...),
        image(layers=[descriptor("one") | {"mediaType": None}]),
        image(layers=[descriptor("one", size=2**63 - 1)]),
        image(layers=[descriptor("one") | {"digest": "sha512:" + "a" * 128}]),
        image(annotations="?", unknown={"deep": [1, 2.5, None]}, subject=None, manifests=None),
        index(layers=None, config=None),
        image(unknown="\ud800", huge=10**400),
    ],
)
def test_what_names_nothing_is_no_trouble(document: dict[str, Any]) -> None:
    """Unknown fields and types, empty lists, foreign layers."""
    assert read(document).media_type == document["mediaType"]


DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"


@pytest.mark.parametrize(
    "layer",
    [
        descriptor("w", media_type=DOCKER_FOREIGN),
        descriptor("w", media_type=DOCKER_FOREIGN.title(), urls=[]),
        descriptor("w", media_type=OCI_FOREIGN),
        descriptor("w", media_type=f"{OCI_FOREIGN}+gzip"),
        descriptor("w", media_type=f"{OCI_FOREIGN}+zstd", urls=None),
        descriptor("w", urls=["https://example.com/w"]),
        descriptor("w", urls="?"),
        descriptor("w", URLs=["https://example.com/w"]),
        descriptor("w") | {"url\u017f": ["https://example.com/w"]},
    ],
)
def test_what_a_registry_need_not_have_is_foreign(layer: dict[str, Any]) -> None:
    """By its type or its addresses; it is among the blobs too, since some registries keep it."""
    found = read(image(layers=[descriptor("one"), layer]))
    assert found.foreign == {Digest.of(b"w")}
    assert found.blobs[-1].digest == Digest.of(b"w")


def test_a_foreign_blob_stays_foreign_whatever_names_it_again() -> None:
    """A second name for it, before or after, is no proof that the publisher has it; nor is being a config."""
    foreign = descriptor("w", urls=["https://example.com/w"])
    for layers in ([foreign, descriptor("w")], [descriptor("w"), foreign]):
        assert read(image(layers=layers)).foreign == {Digest.of(b"w")}
    assert read(image(config=foreign, layers=None)).foreign == {Digest.of(b"w")}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"layers": [', '"layers": [{"urls": ["https://x"]}], "layers": ['),  # Go: the first's urls stay
        ('"layers": [', '"Layers": [], "layers": ['),
        ('"config": {', '"config": {"urls": ["https://x"]}, "config": {'),
        ('"config": {', '"CONFIG": {}, "config": {'),
        ('"digest": ', '"Digest": "sha256:0", "digest": '),
        ('"digest": ', '"digest": "sha256:0", "digest": '),
        ('"layers": [{', '"layers": [{"urls": ["https://x"], "urls": null, '),
    ],
)
def test_where_another_reader_may_read_other_blobs_all_are_foreign(old: str, new: str) -> None:
    """The upstream may have looked for others when it took the manifest."""
    text = json.dumps(image())
    assert old in text
    found = parse(text.replace(old, new, 1).encode())
    assert found.blobs == read(image()).blobs
    assert found.foreign == {blob.digest for blob in found.blobs}


def test_keys_that_name_nothing_may_be_alike() -> None:
    """As annotations of one tool and another's."""
    found = read(image(annotations={"Author": "a", "author": "b", "Layers": "3"}))
    assert found.foreign == frozenset()


def test_usual_layers_are_not_foreign() -> None:
    """No addresses, in each way of writing that."""
    layers = [descriptor("a"), descriptor("b", urls=[]), descriptor("c") | {"urls": None, "mediaType": None}]
    assert read(image(layers=layers)).foreign == frozenset()


def test_the_last_of_duplicate_keys_counts() -> None:
    """As for every client that is written in Go."""
    text = json.dumps(image()).replace(
        '"schemaVersion": 2', '"layers": [1], "schemaVersion": 1, "schemaVersion": 2'
    )
    assert len(parse(text.encode()).blobs) == 3


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "not JSON"),
        (b"<html><body>Sign in</body></html>", "not JSON"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        ("{}".encode("utf-16-le"), "not JSON"),
        (b"\xef\xbb\xbf" + json.dumps(image()).encode(), "not JSON"),
        (json.dumps(image()).encode()[:-1], "not JSON"),
        (json.dumps(image(size=float("nan"))).encode(), "not JSON"),
        (json.dumps(image(size=float("-inf"))).encode(), "not JSON"),
        (b'{"schemaVersion":2,"n":' + b"9" * 1001 + b"}", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"sha256:"', "not a JSON object"),
        (b"{}", "schemaVersion is not 2"),
        (b'{"errors":[{"code":"DENIED"}]}', "schemaVersion is not 2"),
        (b'{"schemaVersion":2}', "'config' has no descriptor"),
        (b'{"schemaVersion":2,"errors":[]}', "'config' has no descriptor"),
    ],
)
def test_what_is_no_manifest_is_refused(body: bytes, text: str) -> None:
    """Everything that a broken registry, or a portal before it, may send with 200."""
    with pytest.raises(ManifestError, match=text):
        parse(body)


@pytest.mark.parametrize(
    "document",
    [
        image(schemaVersion=1),
        image(schemaVersion=1, mediaType=...),
        image(mediaType=m.DOCKER_SCHEMA1),
        {"mediaType": m.DOCKER_SCHEMA1_SIGNED},
    ],
)
def test_schema_1_is_refused_by_name(document: dict[str, Any]) -> None:
    """The user must learn that the image is too old, not that it is broken."""
    with pytest.raises(ManifestError, match="schema version 1"):
        read(document)
    with pytest.raises(ManifestError, match="schema version 1"):
        read(image(mediaType=...), f"{m.DOCKER_SCHEMA1_SIGNED}; charset=utf-8")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (image(schemaVersion=3), "schemaVersion"),
        (image(schemaVersion="2"), "schemaVersion"),
        (image(schemaVersion=2.0), "schemaVersion"),
        (image(schemaVersion=...), "schemaVersion"),
        (image(mediaType="application/json"), "'application/json' are not supported"),
        (image(mediaType=["x"]), "mediaType is not a text"),
        (image(mediaType={}), "mediaType is not a text"),
        (image(manifests=[]), "must not have 'manifests'"),
        (image(mediaType=..., manifests=[descriptor("a")]), "must not have 'config'"),
        (index(layers=[]), "must not have 'layers'"),
        (index(config={}), "must not have 'config'"),
        (image(config=...), "'config' has no descriptor"),
        (image(config=[]), "'config' has no descriptor"),
        (image(layers={}), "'layers' is not a list"),
        (image(layers="x"), "'layers' is not a list"),
        (image(layers=[[]]), "'layers' has no descriptor"),
        (image(layers=[{}]), "has no digest"),
        (image(layers=[descriptor("a") | {"digest": 5}]), "has no digest"),
        (image(layers=[descriptor("a") | {"digest": "sha256:abc"}]), "invalid checksum digest length"),
        (image(layers=[descriptor("a") | {"digest": "blake3:" + "a" * 64}]), "unsupported digest algorithm"),
        (image(layers=[descriptor("a") | {"digest": "sha256:" + "a" * 64 + "\n"}]), "no valid digest"),
        (image(layers=[descriptor("a", size=-1)]), "no valid size"),
        (image(layers=[descriptor("a", size=2**63)]), "no valid size"),
        (image(layers=[descriptor("a") | {"size": 1.0}]), "no valid size"),
        (image(layers=[descriptor("a") | {"size": "1"}]), "no valid size"),
        (image(layers=[descriptor("a") | {"size": True}]), "no valid size"),
        (image(layers=[descriptor("a") | {"size": None}]), "no valid size"),
        (image(layers=[descriptor("a", media_type="a/b\r\nX: y")]), "no valid mediaType"),
        (image(layers=[descriptor("a", media_type="a/\u00e9")]), "no valid mediaType"),
        (image(layers=[descriptor("a", media_type="a" * 256)]), "no valid mediaType"),
        (image(layers=[descriptor("a") | {"mediaType": 5}]), "no valid mediaType"),
        (index(manifests=[{}]), "'manifests' has no digest"),
        (image(subject={}), "'subject' has no digest"),
        (image(subject=5), "'subject' has no descriptor"),
    ],
)  # fmt: skip
def test_what_could_not_be_served_is_refused(document: dict[str, Any], text: str) -> None:
    """A digest that cannot be checked, a size that is none, a document that is two things at once."""
    with pytest.raises(ManifestError, match=text):
        read(document)


def numbered(count: int) -> list[dict[str, Any]]:
    """So many descriptors, as a large index of artifacts has them."""
    more = {"platform": {"os": "linux", "architecture": "a"}, "annotations": {"a": "b", "c": "d"}}
    return [descriptor(str(number)) | more for number in range(count)]


def test_as_many_descriptors_as_an_honest_index_has_are_read() -> None:
    """The limit itself, in a list of each kind."""
    assert len(read(index(manifests=numbered(m.MAX_DESCRIPTORS))).children) == m.MAX_DESCRIPTORS
    assert len(read(image(layers=numbered(m.MAX_DESCRIPTORS))).blobs) == m.MAX_DESCRIPTORS + 1


@pytest.mark.parametrize("name", ["layers", "manifests"])
def test_more_descriptors_are_refused_before_any_is_read(name: str) -> None:
    """Each costs ten microseconds and memory wherever the manifest is known; 4 MiB hold tens of thousands."""
    document = (image if name == "layers" else index)(**{name: [None] * (m.MAX_DESCRIPTORS + 1)})
    with pytest.raises(ManifestError, match=f"{name!r} has 4097 descriptors; 4096 is the limit"):
        read(document)


@pytest.mark.parametrize("part", ["[]", "{}", "0", '"a"'])
def test_a_document_of_too_many_parts_is_refused_unread(part: str) -> None:
    """Wherever they are: json.loads, which lets no other thread run, would be long about them."""
    body = json.dumps(index()).encode()[:-1] + b', "x": [' + ",".join([part] * m.MAX_PARTS).encode()
    with pytest.raises(ManifestError, match="more than 131072 parts"):
        parse(body)  # without its end, which nobody comes to miss


def test_we_accept_what_we_can_read() -> None:
    """Each of the four types once, and never schema 1: an upstream would convert to it."""
    assert sorted(m.ACCEPT) == sorted(m.INDEXES | m.MANIFESTS)


@bounded
@given(st.lists(st.tuples(digests, st.integers(0, 2**63 - 1)), max_size=12), st.booleans())
def test_what_is_named_comes_back(contents: list[tuple[Digest, int]], images: bool) -> None:
    """Digests and sizes, in order, the first of each digest."""
    listed = [{"mediaType": LAYER, "digest": str(digest), "size": size} for digest, size in contents]
    first = dict(reversed(contents))
    order = list(dict.fromkeys(digest for digest, _ in contents))
    wanted = [Descriptor(digest, first[digest], LAYER) for digest in order]
    if images:
        config = Digest.of(b"config")
        assert list(read(image(layers=listed)).blobs[1:]) == [one for one in wanted if one.digest != config]
    else:
        assert list(read(index(manifests=listed)).children) == wanted


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.just(descriptor("x")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    "schemaVersion",
    "mediaType",
    "config",
    "layers",
    "manifests",
    "subject",
    "artifactType",
    "annotations",
)


@bounded
@given(st.sampled_from([image(), index(), {}]), st.dictionaries(st.sampled_from(FIELDS), values, max_size=3))
def test_nothing_else_is_raised_for_any_document(document: dict[str, Any], changes: dict[str, Any]) -> None:
    """Any JSON in any field gives a Manifest that can be written as UTF-8, or a ManifestError."""
    try:
        found = read(document | changes)
    except ManifestError as error:
        said = str(error)
    else:
        said = found.media_type
        # Raises for half a character, which JSON can carry and UTF-8 cannot.
        "".join([found.artifact_type or "", *found.annotations, *found.annotations.values()]).encode()
    assert said.isprintable()


@bounded
@given(st.binary(max_size=60), st.none() | st.text(max_size=20))
def test_nothing_else_is_raised_for_any_bytes(body: bytes, content_type: str | None) -> None:
    """No short random text is a manifest."""
    with pytest.raises(ManifestError):
        parse(body, content_type)
