"""Pulling: the requests that an upstream sees."""

from __future__ import annotations

from mirror.oci.digest import Digest
from mirror.oci.names import Repository, Tag
from mirror.upstream.client import Client
from tests.support.scripted import Bearer, Image, Upstream
from tests.upstream.conftest import Connect

ALPINE = Repository("library/alpine")


async def pull(client: Client, image: Image) -> dict[str, bytes]:
    """Everything of `library/alpine:3`, as a cache asks for it: the tag by HEAD, the rest by digest."""
    resolved = await client.resolve(ALPINE, Tag("3"))
    manifest = await client.manifest(ALPINE, resolved.descriptor.digest)
    assert manifest.descriptor == resolved.descriptor
    assert manifest.body == image.manifest
    got = {}
    for digest in image.blobs:
        blob = await client.blob(ALPINE, Digest.parse(digest))
        got[digest] = b"".join([part async for part in blob.read(0, blob.descriptor.size)])
        await blob.close()
    return got


async def test_a_cold_pull_costs_one_request_an_object_one_head_one_token_and_the_first_401(
    connect: Connect,
) -> None:
    upstream = Upstream(auth=Bearer())
    image = upstream.add_image("library/alpine", "3", layers=[b"one", b"two" * 1000, b"three" * 100_000])
    async with connect(upstream) as client:
        assert await pull(client, image) == image.blobs
    token = "GET /token?service=registry.test&scope=repository:library/alpine:pull"
    assert upstream.lines() == [
        "HEAD /v2/library/alpine/manifests/3",
        token,
        "HEAD /v2/library/alpine/manifests/3",
        f"GET /v2/library/alpine/manifests/{image.digest}",
        *[f"GET /v2/library/alpine/blobs/{digest}" for digest in image.blobs],
    ]
    assert len({seen.connection for seen in upstream.seen}) == 1, "the connection is kept"
