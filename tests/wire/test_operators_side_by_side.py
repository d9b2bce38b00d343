"""Health, metrics' names and events beside Debian's docker-registry 2.8.2 with the same configuration."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.images import DOCKER_MANIFEST, Catalog
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, free_port, wait_until
from tests.support.programs import require
from tests.support.registries import Registry, RegistryProcess, push

IMAGE = "library/small:1"
LIMIT = 30.0  # seconds
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Sink(ThreadingHTTPServer):
    """Takes events, as (Content-Type, document), by the path that they were sent to."""

    def __init__(self) -> None:
        self.events: dict[str, list[tuple[str, dict[str, Any]]]] = {}
        super().__init__(("127.0.0.1", 0), _Taking)

    def of(self, path: str) -> list[dict[str, Any]]:
        """The events that came there."""
        return [event for _, body in self.events.get(path, []) for event in body["events"]]


class _Taking(BaseHTTPRequestHandler):
    server: Sink

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.events.setdefault(self.path, []).append((self.headers["Content-Type"], body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_args: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def sink() -> Iterator[Sink]:
    made = Sink()
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


class Pair:
    """Both mirrors of one registry; `debug` are the ports of their debug servers."""

    def __init__(self, space: Workspace, catalog: Catalog, sink: Sink, down: Path) -> None:
        require("docker-registry")
        self.catalog = catalog
        origin = Registry(space, "origin")
        push(origin.url, Catalog(catalog.seed, [catalog[IMAGE]], catalog.blobs))
        self.debug = {"theirs": free_port(), "ours": free_port()}
        self.mirrors: dict[str, RegistryProcess] = {
            "theirs": Registry(
                space, "theirs", proxy_of=origin.url, config=self._config("theirs", sink, down)
            ),
            "ours": MirrorProcess(space, origin.url, config=self._config("ours", sink, down)),
        }

    def _config(self, name: str, sink: Sink, down: Path) -> dict[str, Any]:
        url = f"http://127.0.0.1:{sink.server_address[1]}/{name}"
        return {
            "http": {"debug": {"addr": f"127.0.0.1:{self.debug[name]}", "prometheus": {"enabled": True}}},
            "health": {"file": [{"file": str(down), "interval": "100ms"}]},
            "notifications": {
                "events": {"includereferences": True},
                "endpoints": [{"name": "sink", "url": url, "timeout": "5s"}],
            },
        }

    def ask(self, port: int, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()
        finally:
            connection.close()

    def both(self, method: str, path: str, *, debug: bool = False, **headers: str) -> Any:
        """(status, headers, body) of theirs and of ours."""
        for name, mirror in self.mirrors.items():
            yield self.ask(self.debug[name] if debug else mirror.port, method, path, **headers)


@pytest.fixture
def pair(space: Workspace, catalog: Catalog, sink: Sink, tmp_path: Path) -> Pair:
    return Pair(space, catalog, sink, tmp_path / "down")


def test_health_says_the_same_before_while_and_after_a_check_fails(pair: Pair, tmp_path: Path) -> None:
    down = tmp_path / "down"

    def found(text: bytes) -> bool:
        return all(body == text for _, _, body in pair.both("GET", "/debug/health", debug=True))

    failing = json.dumps({str(down): "file exists"}, separators=(",", ":")).encode()
    for text, status in ((b"{}", 200), (failing, 503)):
        if status == 503:
            down.touch()
        wait_until(partial(found, text), "the checks")
        theirs, ours = pair.both("GET", "/debug/health", debug=True)
        assert theirs[0] == ours[0] == status
        assert theirs[1]["Content-Type"] == ours[1]["Content-Type"]
        for path in ("/", "/v2/", "/v2/library/small/tags/list"):
            theirs, ours = pair.both("GET", path)
            assert theirs[0] == ours[0] == status
            if status == 503:
                assert theirs[2] == ours[2]
                assert set(ours[1]) - {"Cache-Status"} == set(theirs[1])
    down.unlink()
    wait_until(lambda: found(b"{}"), "the checks")
    for method, path in (("HEAD", "/debug/health"), ("POST", "/debug/health"), ("GET", "/debug/health/up")):
        theirs, ours = pair.both(method, path, debug=True)
        assert (theirs[0], theirs[2]) == (ours[0], ours[2])
        assert theirs[0] == 404


def _pull(pair: Pair) -> list[str]:
    """One image by GET and HEAD, and a tag that is not there, from both; the requests."""
    image = pair.catalog[IMAGE]
    name = f"/v2/{image.name}"
    (parts,) = image.platforms.values()
    asked = [
        f"GET {name}/manifests/1",
        f"HEAD {name}/manifests/1",
        f"GET {name}/manifests/{image.digest}",
        f"GET {name}/blobs/{parts.config}",
        f"HEAD {name}/blobs/{parts.config}",
        f"GET {name}/manifests/none",
        f"GET {name}/tags/list",
        "GET /v2/",
    ]
    for line in asked:
        method, path = line.split()
        for mirror in pair.mirrors.values():
            pair.ask(mirror.port, method, path, Accept=DOCKER_MANIFEST)
    return asked


def _steady(event: dict[str, Any], port: int) -> dict[str, Any]:
    """Without what is each one's own; with what that looks like checked."""
    assert list(event) == ["id", "timestamp", "action", "target", "request", "actor", "source"]
    assert UUID.fullmatch(event.pop("id"))
    assert UUID.fullmatch(event["request"].pop("id"))
    assert UUID.fullmatch(event["source"].pop("instanceID"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", event.pop("timestamp"))
    assert event["source"].pop("addr").endswith(f":{port}")
    assert re.fullmatch(r"127\.0\.0\.1:\d+", event["request"].pop("addr"))
    event["target"]["url"] = event["target"]["url"].replace(str(port), "PORT")
    event["request"]["host"] = event["request"]["host"].replace(str(port), "PORT")
    return event


def test_the_same_pulls_are_the_same_events_in_the_same_order(pair: Pair, sink: Sink) -> None:
    _pull(pair)
    wait_until(lambda: len(sink.of("/theirs")) == len(sink.of("/ours")) == 5, "the events")
    theirs, ours = (
        [_steady(event, pair.mirrors[name].port) for event in sink.of(f"/{name}")]
        for name in ("theirs", "ours")
    )
    for event in theirs:  # 2.8.2 forgets that a HEAD was one
        event["request"].setdefault("method", "HEAD")
    assert ours == theirs
    assert [event["target"].get("tag") for event in ours] == ["1", "1", None, None, None]
    assert len(ours[0]["target"]["references"]) == 4
    assert {kind for kind, _ in sink.events["/theirs"]} == {
        "application/vnd.docker.distribution.events.v1+json"
    }
    assert {kind for kind, _ in sink.events["/ours"]} == {
        "application/vnd.docker.distribution.events.v2+json"
    }


def _series(text: str) -> dict[str, set[tuple[tuple[str, str], ...]]]:
    """The labels of each sample, but for those of buckets and with the value of `le` left out."""
    found: dict[str, set[tuple[tuple[str, str], ...]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(pair for pair in sample.labels.items() if pair[0] != "le"))
            found.setdefault(sample.name, set()).add(labels)
    return found


def test_each_metric_of_registry_2_is_there_with_the_same_labels_and_counts(pair: Pair, sink: Sink) -> None:
    """But for Go's own, and what 2.8.2 calls its drivers' actions where ours has none of them."""
    _pull(pair)
    wait_until(lambda: len(sink.of("/ours")) == 5, "the events")
    theirs, ours = (body.decode() for _, _, body in pair.both("GET", "/metrics", debug=True))
    their_series, our_series = _series(theirs), _series(ours)
    # Of Go's runtime and its HTTP handler; a limit that is 2^64-1 where nobody set one.
    foreign = ("go_", "promhttp_", "process_virtual_memory_max_bytes")
    for name, labels in their_series.items():
        if name.startswith(foreign) or name.startswith("process_network"):
            continue
        assert name in our_series, name
        if name.startswith("registry_http"):
            extra = {(("handler", "referrers"),), (("handler", "options"),)}
            assert our_series[name] - extra == labels, name
    buckets = [
        {float(bound) for bound in re.findall(rf'{name}_bucket{{.*?le="([^"]+)"', text)}
        for name in ("registry_http_request_duration_seconds", "registry_http_request_size_bytes")
        for text in (theirs, ours)
    ]
    assert buckets[0] == buckets[1]
    assert buckets[2] == buckets[3]
    lines = [
        {line for line in text.splitlines() if line.startswith("registry_http_requests_total{")}
        for text in (theirs, ours)
    ]
    assert {line.removesuffix(".0") for line in lines[1]} == lines[0]


def test_registry_2s_variables_are_there_without_the_secrets(pair: Pair) -> None:
    theirs, ours = (json.loads(body) for _, _, body in pair.both("GET", "/debug/vars", debug=True))
    assert set(theirs) <= set(ours)
    for kind in ("blobs", "manifests"):
        assert set(theirs["registry"]["proxy"][kind]) == set(ours["registry"]["proxy"][kind])
    (their_endpoint,) = theirs["registry"]["notifications"]["endpoints"]
    (our_endpoint,) = ours["registry"]["notifications"]["endpoints"]
    assert set(their_endpoint) - {"IgnoredMediaTypes"} == set(our_endpoint)
    assert set(their_endpoint["Metrics"]) <= set(our_endpoint["Metrics"])
