"""The form of events, and what a manifest names."""

from __future__ import annotations

import json
from dataclasses import replace

from mirror.notify.event import REFERENCES_LIMIT, Source, envelope, references_in
from mirror.pulled import Pulled

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


def test_what_is_no_text_is_told_as_go_tells_it() -> None:
    """A header with a byte that is no UTF-8, as aiohttp gives it, and half a surrogate pair in a manifest."""
    manifest = b'{"layers": [{"digest": "sha256:1", "annotations": {"a": "\\ud800"}}]}'
    pulled = replace(PULLED, user_agent="a\udcffb", host="\udcff")
    (event,) = json.loads(envelope(pulled, references_in(manifest), SOURCE))["events"]
    assert (event["request"]["useragent"], event["request"]["host"]) == ("a\ufffdb", "\ufffd")
    assert event["target"]["references"] == [{"digest": "sha256:1", "annotations": {"a": "\ufffd"}}]
