"""Manifests and tags: what is asked, what is checked, what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from structlog.testing import capture_logs

from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.oci.manifest import DOCKER_MANIFEST, OCI_MANIFEST, parse
from mirror.oci.names import Repository, Tag
from mirror.registry import MANIFEST_LIMIT, Corrupt, RateLimited, RegistryError, Unavailable
from mirror.upstream import manifests as module
from tests.support.scripted import OCI_INDEX, Bearer, Fault, Upstream, serve, sha256
from tests.upstream.conftest import Connect, client_of

ALPINE = Repository("library/alpine")
THREE = Tag("3")
HEAD = "HEAD /v2/library/alpine/manifests/3"
GET = "GET /v2/library/alpine/manifests/3"


async def test_we_ask_with_our_own_accept_list_and_uncompressed(connect: Connect) -> None:
    """distribution 2.8 gives another manifest to whoever accepts less."""
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    async with connect(upstream, user_agent="mirror/1") as client:
        await client.resolve(ALPINE, THREE)
        await client.manifest(ALPINE, THREE)
    for seen in upstream.seen:
        accepted = {part.strip() for part in seen.headers["Accept"].split(",")}
        assert {OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST} < accepted
        assert len(accepted) == 4, "no schema 1, no wildcard"
        assert seen.headers["Accept-Encoding"] == "identity"
        assert seen.headers["User-Agent"] == "mirror/1"


async def test_a_path_in_the_remote_url_comes_before_v2() -> None:
    upstream = Upstream()
    upstream.fault("*", "", Fault(status=404))
    async with serve(upstream) as url, client_of(f"{url}/some/prefix/") as client:
        with pytest.raises(RegistryError):
            await client.manifest(ALPINE, THREE)
    assert upstream.lines() == ["GET /some/prefix/v2/library/alpine/manifests/3"]


async def test_a_tag_is_resolved_by_head_alone(connect: Connect) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    async with connect(upstream) as client:
        resolved = await client.resolve(ALPINE, THREE)
        stat = await client.stat_manifest(ALPINE, Digest.parse(image.digest))
    assert resolved.manifest is None
    assert resolved.descriptor == stat
    assert (str(stat.digest), stat.size, stat.media_type) == (image.digest, len(image.manifest), OCI_MANIFEST)
    assert upstream.lines() == [HEAD, f"HEAD /v2/library/alpine/manifests/{image.digest}"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 501])
async def test_head_refused_is_asked_by_get_and_remembered(connect: Connect, status: int) -> None:
    """ECR Public answers 401, Harbor 404, old registries 405."""
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    upstream.fault("HEAD", "/manifests/", Fault(status=status))
    async with connect(upstream) as client:
        for _ in range(2):
            resolved = await client.resolve(ALPINE, THREE)
            assert resolved.manifest is not None
            assert resolved.manifest.body == image.manifest
            assert resolved.descriptor == resolved.manifest.descriptor
    assert upstream.lines() == [HEAD, GET, GET]


async def test_head_refused_with_a_token_costs_one_renewal_once(connect: Connect) -> None:
    upstream = Upstream(auth=Bearer())
    upstream.add_image("library/alpine", "3")
    upstream.fault("HEAD", "/manifests/", Fault(status=401))
    async with connect(upstream) as client:
        await client.resolve(ALPINE, THREE)
        await client.resolve(ALPINE, THREE)
    methods = [seen.method if seen.path != "/token" else "token" for seen in upstream.seen]
    assert methods == ["HEAD", "token", "HEAD", "token", "HEAD", "GET", "GET"]


@pytest.mark.parametrize("missing", ["Docker-Content-Digest", "Content-Length", "Content-Type"])
async def test_a_head_that_leaves_out_what_it_is_for_is_asked_by_get(connect: Connect, missing: str) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    upstream.fault("HEAD", "/manifests/", Fault(drop=(missing,)))
    async with connect(upstream) as client:
        resolved = await client.resolve(ALPINE, THREE)
    assert str(resolved.descriptor.digest) == image.digest
    assert resolved.descriptor.media_type == OCI_MANIFEST
    assert upstream.lines() == [HEAD, GET]


@pytest.mark.parametrize("digest", ["sha256:abc", "md5:d41d8cd98f00b204e9800998ecf8427e", "nonsense"])
async def test_a_head_with_a_digest_that_is_none_is_asked_by_get(connect: Connect, digest: str) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    upstream.fault("*", "/manifests/", Fault(headers={"Docker-Content-Digest": digest}))
    async with connect(upstream) as client:
        resolved = await client.resolve(ALPINE, THREE)
    assert str(resolved.descriptor.digest) == image.digest


async def test_a_missing_tag_is_unknown_after_head_and_get(connect: Connect) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    async with connect(upstream) as client:
        with pytest.raises(RegistryError) as caught:
            await client.resolve(ALPINE, Tag("4"))
        assert caught.value.code is ErrorCode.MANIFEST_UNKNOWN
        with pytest.raises(RegistryError) as caught:
            await client.resolve(Repository("library/none"), THREE)
        assert caught.value.code is ErrorCode.NAME_UNKNOWN
        await client.resolve(ALPINE, THREE)
    assert upstream.lines()[-1] == HEAD, "a 404 that GET confirms says nothing about HEAD"


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_head_that_is_limited_or_fails_is_not_followed_by_a_get(
    connect: Connect, status: int
) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("HEAD", "/manifests/", Fault(status=status))
    async with connect(upstream, retries=0) as client:
        with pytest.raises(RegistryError) as caught:
            await client.resolve(ALPINE, THREE)
    assert caught.value.status == status
    assert upstream.lines() == [HEAD]


async def test_a_manifest_with_a_changed_byte_is_corrupt_by_digest_and_by_tag(connect: Connect) -> None:
    """Three of four clients would take the one by tag (podman, skopeo, dockerd)."""
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "/manifests/", Fault(flip_at=100))
    async with connect(upstream) as client:
        for reference in (THREE, Digest.parse(image.digest)):
            with pytest.raises(Corrupt, match="does not have the digest") as caught:
                await client.manifest(ALPINE, reference)
            assert caught.value.status == 502
    assert len(upstream.seen) == 2, "wrong bytes are not asked for again"


async def test_a_manifest_by_tag_without_a_digest_header_gets_its_own(connect: Connect) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "/manifests/", Fault(drop=("Docker-Content-Digest",)))
    async with connect(upstream) as client:
        manifest = await client.manifest(ALPINE, THREE)
    assert str(manifest.descriptor.digest) == image.digest


async def test_a_head_by_digest_that_names_another_is_corrupt(connect: Connect) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    upstream.fault("HEAD", "/manifests/", Fault(headers={"Docker-Content-Digest": sha256(b"other")}))
    async with connect(upstream) as client:
        with pytest.raises(Corrupt):
            await client.stat_manifest(ALPINE, Digest.parse(image.digest))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"<html><body>Log in</body></html>", "cannot be used"),
        (b"", "cannot be used"),
        (b"[]", "cannot be used"),
        (b'{"schemaVersion": 1, "name": "a"}', "cannot be used"),
        (b"\xff\xfe\x00", "cannot be used"),
        (b"[" * 100_000, "cannot be used"),
    ],
)
async def test_what_is_no_manifest_is_corrupt(connect: Connect, body: bytes, text: str) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    page = Fault(body=body, headers={"Content-Type": "text/html"}, drop=("Docker-Content-Digest",))
    upstream.fault("GET", "/manifests/", page)
    async with connect(upstream) as client:
        with pytest.raises(Corrupt, match=text) as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.status == 502


async def test_a_web_site_in_place_of_a_registry_is_told_as_such(connect: Connect) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    headers = {"Content-Type": "text/html; charset=x"}
    upstream.fault("*", "", Fault(body=b"<html></html>", headers=headers, drop=("Docker-Content-Digest",)))
    async with connect(upstream) as client:
        with capture_logs() as logs, pytest.raises(Corrupt) as caught:
            await client.resolve(ALPINE, THREE)
    text = "sent text/html instead of a manifest, which cannot be used"
    assert caught.value.message == f"the upstream registry {text}"
    (failed,) = [log for log in logs if log["event"] == "upstream.failed"]
    assert (failed["log_level"], failed["cause"]) == ("warning", text)
    assert failed["path"] == "/v2/library/alpine/manifests/3"
    assert failed["hint"] == "is this the address of a registry? see remoteurl"


async def test_what_is_no_manifest_and_no_page_either_is_told_without_a_hint(connect: Connect) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "/manifests/", Fault(body=b"[]", drop=("Docker-Content-Digest",)))
    async with connect(upstream) as client:
        with capture_logs() as logs, pytest.raises(Corrupt):
            await client.manifest(ALPINE, THREE)
    (failed,) = [log for log in logs if log["event"] == "upstream.failed"]
    assert "cannot be used" in failed["cause"]
    assert "hint" not in failed


@pytest.mark.parametrize("fault", [Fault(), Fault(chunked=True), Fault(length=1 << 40)])
async def test_a_manifest_over_the_limit_is_refused_and_not_read(connect: Connect, fault: Fault) -> None:
    upstream = Upstream()
    large = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "pad": "x" * (MANIFEST_LIMIT + (8 << 20))}
    digest = upstream.add_manifest("library/alpine", large, "3")
    upstream.fault("GET", "/manifests/", fault)
    async with connect(upstream) as client:
        with pytest.raises(Corrupt, match="more than can be right"):
            await client.manifest(ALPINE, Digest.parse(digest))
        with pytest.raises(Corrupt, match="is the limit"):
            await client.resolve(ALPINE, THREE)
    (get,) = upstream.find("GET")
    assert get.sent < len(json.dumps(large)), "the connection was dropped"


async def test_a_manifest_of_exactly_the_limit_is_fine(connect: Connect) -> None:
    upstream = Upstream()
    start = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()
    body = start + b" " * (MANIFEST_LIMIT - len(start))
    upstream.add_manifest("library/alpine", body, "3")
    async with connect(upstream) as client:
        assert (await client.manifest(ALPINE, THREE)).body == body


@pytest.mark.parametrize(("pad", "on_the_loop"), [(0, True), (1 << 16, False)])
async def test_large_manifests_are_hashed_and_read_in_a_thread(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, pad: int, *, on_the_loop: bool
) -> None:
    """They may take a third of a second, in which every other client would wait; usual ones take 0.1 ms."""
    threads: set[int] = set()

    def noting(real: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            threads.add(threading.get_ident())
            return real(*args)

        return noted

    monkeypatch.setattr(module, "parse", noting(parse))
    monkeypatch.setattr(Digest, "matches", noting(Digest.matches))
    upstream = Upstream()
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [], "pad": "x" * pad}
    digest = upstream.add_manifest("library/alpine", document, "3")
    async with connect(upstream) as client:
        assert str((await client.manifest(ALPINE, THREE)).descriptor.digest) == digest
    assert len(threads) == 1
    assert (threads == {threading.get_ident()}) is on_the_loop


async def test_a_manifest_of_far_too_many_layers_is_corrupt(connect: Connect) -> None:
    """27,000 of them fit into 3 MB, and each would cost whoever looks at it again."""
    layers = [{"digest": f"sha256:{number:064x}", "size": 1} for number in range(27_000)]
    upstream = Upstream()
    config = {"digest": sha256(b"{}"), "size": 2}
    digest = upstream.add_manifest(
        "library/alpine",
        {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers},
        "3",
    )
    async with connect(upstream) as client:
        with pytest.raises(Corrupt, match="has 27000 descriptors; 4096 is the limit"):
            await client.manifest(ALPINE, Digest.parse(digest))


async def test_a_compressed_manifest_is_refused(connect: Connect) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "/manifests/", Fault(headers={"Content-Encoding": "gzip"}))
    async with connect(upstream) as client:
        with pytest.raises(Corrupt, match="compressed"):
            await client.manifest(ALPINE, THREE)


@pytest.mark.parametrize("fault", [Fault(cut_after=50), Fault(cut_after=50, reset=True), Fault(reset=True)])
async def test_a_manifest_cut_short_is_asked_for_again(connect: Connect, fault: Fault) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "/manifests/", fault, times=1)
    async with connect(upstream) as client:
        assert (await client.manifest(ALPINE, THREE)).body == image.manifest


async def test_a_manifest_cut_short_each_time_is_a_bad_gateway(connect: Connect) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "/manifests/", Fault(cut_after=50))
    async with connect(upstream, retries=1) as client:
        with pytest.raises(Unavailable, match="broke off") as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.status == 502
    assert upstream.lines() == [GET, GET]


async def test_a_rate_limit_is_passed_on_with_its_wait_and_words(connect: Connect) -> None:
    upstream = Upstream()
    upstream.add_image("library/alpine", "3")
    body = json.dumps(
        {"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down https://x.test/a?sig=secret"}]}
    ).encode()
    upstream.fault("GET", "/manifests/", Fault(status=429, headers={"Retry-After": "3600"}, body=body))
    async with connect(upstream) as client:
        with pytest.raises(RateLimited, match="upstream says: slow down") as caught:
            await client.manifest(ALPINE, THREE)
    assert caught.value.retry_after == 3600.0
    assert "secret" not in caught.value.message
    assert len(upstream.seen) == 1


async def test_a_short_retry_after_is_waited_for(connect: Connect) -> None:
    upstream = Upstream()
    image = upstream.add_image("library/alpine", "3")
    upstream.fault("GET", "/manifests/", Fault(status=429, headers={"Retry-After": "0"}), times=1)
    async with connect(upstream) as client:
        assert (await client.manifest(ALPINE, THREE)).body == image.manifest
    assert upstream.lines() == [GET, GET]


@pytest.mark.parametrize(
    ("status", "code", "own"),
    [
        (404, ErrorCode.MANIFEST_UNKNOWN, 404),
        (410, ErrorCode.MANIFEST_UNKNOWN, 404),
        (403, ErrorCode.DENIED, 403),
        (451, ErrorCode.DENIED, 403),
        (401, ErrorCode.UNAUTHORIZED, 401),
        (429, ErrorCode.TOOMANYREQUESTS, 429),
        (500, ErrorCode.UNAVAILABLE, 500),
        (504, ErrorCode.UNAVAILABLE, 504),
        (522, ErrorCode.UNAVAILABLE, 502),
        (418, ErrorCode.UNAVAILABLE, 502),
        (204, ErrorCode.UNAVAILABLE, 502),
    ],
)
async def test_a_refusal_is_told_faithfully_and_never_with_the_standards_text(
    connect: Connect, status: int, code: ErrorCode, own: int
) -> None:
    """dockerd tells error codes apart only when the message is not the standard's."""
    upstream = Upstream()
    upstream.fault("GET", "/manifests/", Fault(status=status, body=b"<html>"))
    async with connect(upstream, retries=0) as client:
        with pytest.raises(RegistryError) as caught:
            await client.manifest(ALPINE, THREE)
    assert (caught.value.code, caught.value.status) == (code, own)
    assert caught.value.message != code.message
    assert "127.0.0.1" not in caught.value.message
    assert "html" not in caught.value.message
