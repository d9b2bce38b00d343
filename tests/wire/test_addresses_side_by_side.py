"""`http.host`, `http.relativeurls`, and what a proxy says of host and scheme, beside docker-registry 2.8.2.

A mirror has no uploads, whose `Location` they are for: all other addresses in answers are paths, in the
registry too. What is left is an event's URL.
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.support.images import AMD64, DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Catalog
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, wait_until
from tests.support.programs import require
from tests.support.registries import Registry, RegistryProcess, push
from tests.wire.test_operators_side_by_side import LIMIT, Sink, sink

__all__ = ["sink"]  # a fixture

IMAGES = ("library/multi:1", "library/small:1")
HOST = "https://mirror.example:8443"
ACCEPT = ", ".join((DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX))
LAST = "the last request"  # as its user agent
FORWARDED = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "front.example"}
# method, path, the header that has an address, and that
ADDRESSES = [
    ("GET", "/v2", "Location", "/v2/"),
    ("GET", "//v2/", "Location", "/v2/"),
    ("GET", "/v2/library//small/tags/list", "Location", "/v2/library/small/tags/list"),
    ("GET", "/v2/_catalog?n=1", "Link", '</v2/_catalog?last=library%2Fmulti&n=1>; rel="next"'),
]


@pytest.fixture
def origin(space: Workspace, catalog: Catalog) -> Registry:
    require("docker-registry")
    registry = Registry(space, "origin")
    push(registry.url, Catalog(catalog.seed, [catalog[ref] for ref in IMAGES], catalog.blobs))
    return registry


def ask(registry: RegistryProcess, method: str, path: str, headers: dict[str, str]) -> dict[str, str]:
    """The answer's headers."""
    connection = http.client.HTTPConnection("127.0.0.1", registry.port, timeout=LIMIT)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        response.read()
        assert response.status < 400, (registry.folder.name, path, response.status)
        return dict(response.headers)
    finally:
        connection.close()


@pytest.fixture(
    params=[{"host": HOST}, {"host": f"{HOST}/", "relativeurls": True}, {"relativeurls": True}, {}], ids=str
)
def both(
    request: pytest.FixtureRequest, space: Workspace, origin: Registry, sink: Sink
) -> Iterator[tuple[dict[str, Any], dict[str, RegistryProcess]]]:
    """The settings, and docker-registry and the mirror with them. Both believe the proxy on this machine."""
    config: dict[str, dict[str, Any]] = {}
    for name in ("theirs", "ours"):
        url = f"http://127.0.0.1:{sink.server_address[1]}/{name}"
        endpoint = {"name": "sink", "url": url, "timeout": "5s"}
        config[name] = {"http": dict(request.param), "notifications": {"endpoints": [endpoint]}}
    config["ours"]["http"]["trustedproxies"] = ["127.0.0.1"]
    mirrors: dict[str, RegistryProcess] = {
        "theirs": Registry(space, "theirs", proxy_of=origin.url, config=config["theirs"]),
        "ours": MirrorProcess(space, origin.url, config=config["ours"]),
    }
    yield request.param, mirrors
    for mirror in mirrors.values():
        mirror.stop()


def _filled(mirror: RegistryProcess, catalog: Catalog) -> None:
    """Until its catalog has both: docker-registry's has repositories of which there is a blob."""
    for image in (catalog[ref] for ref in IMAGES):
        config = image.platforms[AMD64].config
        ask(mirror, "GET", f"/v2/{image.name}/manifests/{image.tag}", {"Accept": ACCEPT})
        ask(mirror, "GET", f"/v2/{image.name}/blobs/{config}", {})
        wait_until(mirror.blob_file(config).exists, f"{image.ref} is kept")
    wait_until(
        lambda: "multi" in ask(mirror, "GET", "/v2/_catalog?n=1", {}).get("Link", ""), "both are listed"
    )


def _of_last(sink: Sink, path: str) -> list[dict[str, Any]]:
    """The events of the request that names `LAST`: those of earlier requests may come after it was asked."""
    return [event for event in sink.of(path) if event["request"]["useragent"] == LAST]


def _has_told(sink: Sink, path: str) -> bool:
    return bool(_of_last(sink, path))


@pytest.mark.parametrize("forwarded", [{}, FORWARDED], ids=["direct", "forwarded"])
def test_answers_hold_paths_and_events_the_url_that_is_configured(
    both: tuple[dict[str, Any], dict[str, RegistryProcess]],
    forwarded: dict[str, str],
    catalog: Catalog,
    sink: Sink,
) -> None:
    settings, mirrors = both
    path = f"/v2/library/small/manifests/{catalog[IMAGES[1]].digest}"
    accept = {"Accept": ACCEPT, "User-Agent": LAST, **forwarded}
    found: dict[str, list[str]] = {}
    urls: dict[str, str] = {}
    for name, mirror in mirrors.items():
        _filled(mirror, catalog)
        found[name] = [ask(mirror, how, each, forwarded)[header] for how, each, header, _ in ADDRESSES]
        ask(mirror, "GET", path, accept)
        wait_until(partial(_has_told, sink, f"/{name}"), f"{name} tells")
        urls[name] = _of_last(sink, f"/{name}")[-1]["target"]["url"].replace(f":{mirror.port}", ":PORT")
    assert found["theirs"] == [address for *_, address in ADDRESSES], (
        "docker-registry is not what the table says"
    )
    assert found["ours"] == found["theirs"]
    if "host" in settings:
        assert urls["ours"] == urls["theirs"] == f"{HOST}{path}"
    elif forwarded:
        assert urls["ours"] == f"https://front.example{path}"
    else:
        assert urls["ours"] == f"http://127.0.0.1:PORT{path}"
