"""The form of events, and what a manifest names."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.notify.event import REFERENCES_LIMIT, SIZE_LIMIT, Source, envelope, references_in
from mirror.pulled import Pulled
from tests.oci.strategies import bounded

PULLED = Pulled(
    at=1_800_000_000.25,
    request_id="r",
    address="10.0.0.1:2",
    host="mirror.test",
    method="GET",
    user_agent="docker",
    user="",
    repository="library/x",
    digest="sha256:aa",
    media_type="application/vnd.oci.image.manifest.v1+json",
    size=7,
    tag="1",
    url="http://mirror.test/v2/library/x/manifests/sha256:aa",
)
SOURCE = Source("host:5000", "i")


def test_an_event_has_distributions_fields_in_its_order_and_nothing_empty() -> None:
    (event,) = json.loads(envelope(PULLED, [], SOURCE))["events"]
    assert list(event) == ["id", "timestamp", "action", "target", "request", "actor", "source"]
    assert event["timestamp"] == "2027-01-15T08:00:00.250000Z"
    assert event["action"] == "pull"
    assert event["target"] == {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "size": 7,
        "digest": "sha256:aa",
        "length": 7,
        "repository": "library/x",
        "url": "http://mirror.test/v2/library/x/manifests/sha256:aa",
        "tag": "1",
    }
    assert event["request"] == {
        "id": "r",
        "addr": "10.0.0.1:2",
        "host": "mirror.test",
        "method": "GET",
        "useragent": "docker",
    }
    assert event["actor"] == {}
    assert event["source"] == {"addr": "host:5000", "instanceID": "i"}
    assert envelope(PULLED, [], SOURCE).startswith(b'{\n   "events": [\n      {\n')


def test_each_event_has_an_id_of_its_own() -> None:
    ids = {json.loads(envelope(PULLED, [], SOURCE))["events"][0]["id"] for _ in range(100)}
    assert len(ids) == 100


def test_references_are_configuration_layers_and_children_as_descriptors() -> None:
    config = {"mediaType": "c", "digest": "sha256:1", "size": 1, "data": "e30="}
    layer = {"mediaType": "l", "digest": "sha256:2", "size": 2, "urls": ["http://a"]}
    child = {"mediaType": "m", "digest": "sha256:3", "size": 3, "platform": {"os": "linux"}}
    found = references_in(json.dumps({"layers": [layer, 7], "config": config}).encode())
    assert found == [{"mediaType": "c", "size": 1, "digest": "sha256:1"}, layer]
    assert references_in(json.dumps({"manifests": [child]}).encode()) == [child]


def test_what_is_no_manifest_or_too_large_has_no_references() -> None:
    for body in (b"", b"{", b"[]", b'{"layers": 1, "config": null}', b"[" * 100_000):
        assert references_in(body) == []
    large = json.dumps({"config": {"digest": "sha256:1"}}).encode() + b" " * REFERENCES_LIMIT
    assert references_in(large) == []


# All that a parser of JSON gives, also what is none: NaN, Infinity, and numbers that are one only here.
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from([1 << 63, -1, 10**4000, "sha256:1", "\ud800"]),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
PARTS = st.one_of(
    VALUES,
    st.fixed_dictionaries(
        {"digest": st.one_of(st.just("sha256:1"), VALUES)},
        optional=dict.fromkeys(("mediaType", "size", "urls", "annotations", "platform", "data"), VALUES),
    ),
)
DEEP = [b"[" * depth + b"]" * depth for depth in (200, 500, 900)]


def refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def told(body: bytes) -> list[dict[str, Any]]:
    """The references of a manifest, as whoever is told of its pull reads them. Raises ValueError."""
    pulled = replace(PULLED, user_agent="a", body=body)
    document = json.loads(envelope(pulled, references_in(body), SOURCE), parse_constant=refused)
    (event,) = document["events"]
    found: list[dict[str, Any]] = event["target"].get("references", [])
    return found


@given(
    st.one_of(
        st.binary(max_size=200),
        VALUES.map(json.dumps).map(str.encode),
        st.fixed_dictionaries(
            {},
            optional={
                "config": PARTS,
                "layers": st.one_of(VALUES, st.lists(PARTS, max_size=4)),
                "manifests": st.one_of(VALUES, st.lists(PARTS, max_size=4)),
            },
        )
        .map(json.dumps)
        .map(str.encode),
    )
)
@bounded
def test_whatever_a_manifest_says_its_pull_is_told_in_json(body: bytes) -> None:
    for part in told(body):
        assert isinstance(part["digest"], str)
        assert set(part) <= {"mediaType", "size", "digest", "urls", "annotations", "platform"}
        assert isinstance(part.get("size", 0), int)
        assert 0 <= part.get("size", 0) < SIZE_LIMIT


@pytest.mark.parametrize("value", [b"NaN", b"-Infinity", b"1e999", b"1" * 4000, *DEEP], ids=lambda v: v[:9])
@pytest.mark.parametrize("key", ["size", "annotations", "platform", "urls", "mediaType"])
def test_what_no_json_can_say_or_nobody_could_read_is_left_out_and_the_pull_is_told(
    key: str, value: bytes
) -> None:
    part = b'{"digest": "sha256:1", "%b": %b}' % (key.encode(), value)
    assert told(b'{"layers": [%b]}' % part) == [{"digest": "sha256:1"}]
    inner = b'{"digest": "sha256:1", "%b": {"a": %b}}' % (key.encode(), value)
    assert told(b'{"config": %b}' % inner) == [{"digest": "sha256:1"}]


def test_what_is_no_text_is_told_as_go_tells_it() -> None:
    """A header with a byte that is no UTF-8, as aiohttp gives it, and half a surrogate pair in a manifest."""
    manifest = b'{"layers": [{"digest": "sha256:1", "annotations": {"a": "\\ud800"}}]}'
    pulled = replace(PULLED, user_agent="a\udcffb", host="\udcff")
    (event,) = json.loads(envelope(pulled, references_in(manifest), SOURCE))["events"]
    assert (event["request"]["useragent"], event["request"]["host"]) == ("a\ufffdb", "\ufffd")
    assert event["target"]["references"] == [{"digest": "sha256:1", "annotations": {"a": "\ufffd"}}]
