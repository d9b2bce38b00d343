"""A cold image whose blobs cannot be had: clients must hear it at the manifest, and can still go back.

podman and skopeo ask whoever gave them the manifest for all blobs, and fail when one is missing; a manifest
that fails makes them ask the origin for everything.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.clients import Client, Podman, Skopeo
from tests.support.images import Catalog
from tests.support.mirror_process import MirrorProcess
from tests.support.procs import Workspace, free_port, wait_until
from tests.support.pulls import fetch, manifest_url
from tests.support.recorder import Recorder

pytestmark = pytest.mark.clients

REF = "library/small:1"
TELLING = 5  # failures in a row, after which the mirror counts the upstream as away


@pytest.fixture(params=["0s", "1h"], ids=["due", "fresh"])
def half(
    request: pytest.FixtureRequest,
    start_mirror: Callable[..., MirrorProcess],
    recorder: Recorder,
    catalog: Catalog,
) -> MirrorProcess:
    """A mirror that has the image's manifest under its tag, none of its blobs, and no upstream any more."""
    recorder.clear()
    fresh = {"proxy": {"freshness": {"default": request.param}}}
    mirror, image = start_mirror(recorder.url, config=fresh), catalog[REF]
    assert fetch(manifest_url(mirror.url, image)).digest == image.digest
    kept = mirror.storage / f"docker/registry/v2/repositories/{image.name}/_manifests/tags/{image.tag}"
    wait_until((kept / "current/link").exists, "the tag is kept")
    mirror.stop()
    mirror.point_at(f"http://127.0.0.1:{free_port()}")
    mirror.start()
    recorder.clear()
    return mirror


def test_a_kept_manifest_whose_blobs_cannot_be_had_fails_with_503(
    half: MirrorProcess, catalog: Catalog
) -> None:
    """By tag; and by digest, as soon as the mirror knows."""
    image = catalog[REF]
    for _ in range(TELLING):
        answer = fetch(manifest_url(half.url, image))
        assert answer.status == 503
        [error] = json.loads(answer.body)["errors"]
        assert error["code"] == "UNAVAILABLE"
        assert error["message"] != "service unavailable", "the standard's text says nothing"
    for method in ("HEAD", "GET"):
        assert fetch(manifest_url(half.url, image, image.digest), method=method).status == 503, method


@pytest.mark.parametrize("kind", [Podman, Skopeo])
def test_podman_and_skopeo_then_pull_from_the_origin(
    kind: type[Podman] | type[Skopeo],
    space: Workspace,
    half: MirrorProcess,
    recorder: Recorder,
    catalog: Catalog,
) -> None:
    """The recorder plays the origin: it is where the name of the image points."""
    image, origin = catalog[REF], f"127.0.0.1:{recorder.port}"
    client: Client = kind(space, half.url, {origin: ""})
    done = client.pull(f"{origin}/{REF}")
    assert done.ok, done.output
    client.verify(image, f"{origin}/{REF}")
    assert f"/manifests/{image.tag}" in half.log, "the mirror was not asked first"
    assert recorder.select("GET", f"/manifests/{image.tag}")
    blobs = {e.target.rsplit("/", 1)[1] for e in recorder.select("GET", "/blobs/")}
    assert blobs == set(catalog.objects(image)[1]), recorder.trace()
