"""What the registry cannot do, as the client sees it; and referrers, which have failures of their own."""

from __future__ import annotations

import json

import pytest

from mirror.oci.errors import ErrorCode
from mirror.registry import RegistryError, Unavailable
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import Answer, ask, serving


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (RegistryError(ErrorCode.UNAUTHORIZED, "the upstream refuses us"), 401, None),
        (RegistryError(ErrorCode.DENIED, "no"), 403, None),
        (RegistryError(ErrorCode.NAME_UNKNOWN), 404, None),
        (RegistryError(ErrorCode.TOOMANYREQUESTS, "slow down", retry_after=29.01), 429, "30"),
        (RegistryError(ErrorCode.TOOMANYREQUESTS, "slow down", retry_after=1e300), 429, "86400"),
        (Unavailable("later", status=504, retry_after=0), 504, "0"),
        (Unavailable("later", status=502), 502, None),
    ],
)
async def test_a_failure_of_the_registry_is_passed_on_faithfully(
    error: RegistryError, status: int, retry_after: str | None, registry: MemoryRegistry
) -> None:
    """Status, code, message, Retry-After; never a challenge."""
    registry.fails = {"manifest": error, "stat_blob": error, "blob": error, "tags": error}
    async with serving(registry) as port:
        answers: list[Answer] = [
            await ask(port, "/v2/library/x/manifests/v1"),
            await ask(port, f"/v2/library/x/blobs/sha256:{'0' * 64}"),
            await ask(port, f"/v2/library/x/blobs/sha256:{'0' * 64}", "HEAD"),
            await ask(port, "/v2/library/x/tags/list"),
        ]
    for answer in answers:
        assert answer.status == status
        assert answer.one("Retry-After") == retry_after
        assert answer.one("WWW-Authenticate") is None
    assert f'"code":"{error.code.name}","message":"{error.message}"' in answers[0].body.decode()


async def test_a_defect_tells_the_client_nothing_but_where_to_look(
    registry: MemoryRegistry, events: Events
) -> None:
    """500 with the request's id; the traceback is in the log under the same id."""
    registry.fails = {"manifest": ZeroDivisionError("secret internals")}
    async with serving(registry) as port:
        answer = await ask(port, "/v2/library/x/manifests/v1")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert (
        b'"code":"UNKNOWN","message":"internal error, see the log of the mirror, request id ' in answer.body
    )
    request_id = answer.body.decode().rpartition("request id ")[2][:36]
    completed = events.named("response completed with error")[0]
    assert completed["http.request.id"] == request_id
    assert completed["log_level"] == "error"
    failed = events.named("request.failed")[0]
    assert (failed["http.request.id"], bool(failed["exc_info"])) == (request_id, True)


async def test_half_a_character_in_an_image_breaks_no_list_of_others(registry: MemoryRegistry) -> None:
    """JSON's `"\\ud800"`: whoever may push a signature could else have all of them answered by 500."""
    registry.referring = ({"digest": "a", "annotations": {"x": "\ud800"}}, {"digest": "b"})
    async with serving(registry) as port:
        answer = await ask(port, f"/v2/library/x/referrers/sha256:{'0' * 64}")
    assert answer.status == 200
    found = json.loads(answer.body)["manifests"]
    assert found == [{"digest": "a", "annotations": {"x": "\ufffd"}}, {"digest": "b"}]


async def test_referrers_are_an_index_and_can_be_filtered(registry: MemoryRegistry) -> None:
    """The spec's media type, filter and header; unknown names have none; no API is 404."""
    registry.referring = ({"digest": "a", "artifactType": "t/a"}, {"digest": "b", "artifactType": "t/b"})
    at = f"/v2/library/x/referrers/sha256:{'0' * 64}"
    async with serving(registry) as port:
        both = await ask(port, at)
        one = await ask(port, at + "?artifactType=t%2Fb")
        registry.fails = {"referrers": RegistryError(ErrorCode.NAME_UNKNOWN)}
        none = await ask(port, at)
        registry.fails = {"referrers": RegistryError(ErrorCode.UNSUPPORTED)}
        unsupported = await ask(port, at)
    index = "application/vnd.oci.image.index.v1+json"
    head = f'{{"schemaVersion":2,"mediaType":"{index}","manifests":['
    assert both.one("Content-Type") == index
    assert both.one("OCI-Filters-Applied") is None
    first, second = '{"digest":"a","artifactType":"t/a"}', '{"digest":"b","artifactType":"t/b"}'
    assert both.body.decode() == f"{head}{first},{second}]}}\n"
    assert one.body.decode() == f"{head}{second}]}}\n"
    assert one.one("OCI-Filters-Applied") == "artifactType"
    assert (none.status, none.body.decode()) == (200, f"{head}]}}\n")
    assert unsupported.status == 404
