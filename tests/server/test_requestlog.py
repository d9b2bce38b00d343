"""The request log and the access log, in distribution's forms."""

from __future__ import annotations

import re
from ipaddress import ip_network

import pytest

from mirror.confighosts import LOOPBACK
from mirror.oci.digest import Digest
from mirror.oci.errors import ErrorCode
from mirror.registry import RegistryError, Unavailable
from mirror.server.requestlog import duration
from mirror.server.routes import Settings
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import ask, exchange, serving


async def test_an_answer_is_one_event_with_distributions_fields(
    registry: MemoryRegistry, events: Events
) -> None:
    """Each by its name, also the route's variables."""
    registry.add_manifest("v1", b"{}")
    sent = {"User-Agent": "docker/27", "Referer": "r", "X-Forwarded-For": "203.0.113.9, 10.0.0.1"}
    proxies = (*LOOPBACK, ip_network("10.0.0.0/8"))
    async with serving(registry, Settings(access_log=False, proxies=proxies)) as port:
        await ask(port, "/v2/library/x/manifests/v1?ns=docker.io", headers=sent)
    [event] = events.all
    assert event.pop("http.response.duration")
    assert re.fullmatch(r"[0-9a-f-]{36}", event.pop("http.request.id"))
    assert event == {
        "event": "response completed",
        "log_level": "info",
        "cache.status": "mirror; detail=local",
        "http.request.host": "mirror.test",
        "http.request.method": "GET",
        "http.request.referer": "r",
        "http.request.remoteaddr": "203.0.113.9",
        "http.request.uri": "/v2/library/x/manifests/v1?ns=docker.io",
        "http.request.useragent": "docker/27",
        "http.response.contenttype": "application/vnd.oci.image.manifest.v1+json",
        "http.response.status": 200,
        "http.response.written": 2,
        "upstream.namespace": "docker.io",
        "vars.name": "library/x",
        "vars.reference": "v1",
    }


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (RegistryError(ErrorCode.MANIFEST_UNKNOWN, detail="unknown tag=v1"), "info"),
        (RegistryError(ErrorCode.TOOMANYREQUESTS, "slow down"), "info"),
        (Unavailable("the upstream is down"), "error"),
    ],
)
async def test_only_what_is_our_trouble_is_an_error(
    error: RegistryError, level: str, registry: MemoryRegistry, events: Events
) -> None:
    """A 404 is not."""
    registry.fails = {"manifest": error}
    async with serving(registry) as port:
        await ask(port, "/v2/library/x/manifests/v1")
    [event] = events.all
    assert (event["event"], event["log_level"]) == ("response completed with error", level)
    assert event["err.code"] == error.code.name.lower().replace("_", " ")
    assert event["err.message"] == error.message
    assert event.get("err.detail") == error.detail


NONE = "sha256:" + "0" * 64
READ_ONLY = "this is a read-only pull-through mirror: push to hub.test/library/x instead"


@pytest.mark.parametrize(
    ("method", "target", "status", "code", "message"),
    [
        ("PUT", "/v2/library/x/manifests/v1", 405, "unsupported", READ_ONLY),
        ("POST", "/v2/library/x/blobs/uploads/", 405, "unsupported", READ_ONLY),
        ("PATCH", "/v2/library/x/manifests/v1", 405, "method not allowed", "Method not allowed"),
        ("GET", "/v2/library/x/manifests/none", 404, "manifest unknown", "manifest unknown"),
        ("HEAD", f"/v2/library/x/blobs/{NONE}", 404, "blob unknown", "blob unknown to registry"),
        ("GET", "/nothing", 404, "not found", "404 page not found"),
        ("GET", "/v2/_catalog?n=x", 400, "pagination number invalid", "invalid number of results requested"),
    ],
)
async def test_every_refusal_is_logged_with_its_reason(
    method: str, target: str, status: int, code: str, message: str, registry: MemoryRegistry, events: Events
) -> None:
    """At info, in the words that the client got."""
    async with serving(
        registry, Settings(namespace_of=lambda _repository: "hub.test", access_log=False)
    ) as port:
        answer = await ask(port, target, method)
    [event] = events.all
    assert (answer.status, event["http.response.status"]) == (status, status)
    assert (event["event"], event["log_level"]) == ("response completed with error", "info")
    assert (event["err.code"], event["err.message"]) == (code, message)
    assert method == "HEAD" or message in answer.body.decode()


async def test_a_range_that_cannot_be_is_logged_with_its_reason(
    registry: MemoryRegistry, events: Events
) -> None:
    """416 is a plain text too."""
    blob = registry.add_blob(b"x" * 10)
    async with serving(registry) as port:
        answer = await ask(
            port, f"/v2/library/x/blobs/{blob.descriptor.digest}", headers={"Range": "bytes=10-"}
        )
    [event] = events.all
    assert (answer.status, event["err.code"]) == (416, "requested range not satisfiable")
    assert event["err.message"] == answer.body.decode().strip()


async def test_a_success_has_no_reason(registry: MemoryRegistry, events: Events) -> None:
    """Nor does what is only moved."""
    async with serving(registry) as port:
        await ask(port, "/v2/")
        await ask(port, "/v2")
    assert [event["event"] for event in events.all] == ["response completed"] * 2
    assert not any(name.startswith("err.") for event in events.all for name in event)


async def test_written_is_what_left(registry: MemoryRegistry, events: Events) -> None:
    """Of a streamed body the bytes that were sent, of a HEAD none."""
    blob = registry.add_blob(b"x" * 1000)
    broken = registry.add_blob(b"y" * 100_000)
    broken.breaks, broken.break_at = Unavailable("gone"), 70_000
    at = "/v2/library/x/blobs/"
    async with serving(registry) as port:
        await ask(port, f"{at}{blob.descriptor.digest}")
        await ask(port, f"{at}{blob.descriptor.digest}", "HEAD")
        await exchange(port, f"GET {at}{broken.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n".encode())
    completed = [event for event in events.all if event["event"].startswith("response")]
    assert [event["http.response.written"] for event in completed] == [1000, 0, 70_000]
    assert completed[2]["event"] == "response completed with error"
    assert completed[2]["err.message"] == "gone"


@pytest.mark.parametrize("enabled", [True, False])
async def test_the_access_log_is_apaches_combined_form(
    enabled: bool, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str], events: Events
) -> None:
    """On standard output, unless disabled; a missing referer is an empty string."""
    digest = Digest.of(b"x")
    registry.add_blob(b"x")
    async with serving(registry, Settings(access_log=enabled)) as port:
        await ask(port, f"/v2/library/x/blobs/{digest}?n=1", headers={"User-Agent": 'a"b\\'})
    out = capsys.readouterr().out
    form = (
        r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "
        rf'"GET /v2/library/x/blobs/{digest}\?n=1 HTTP/1\.1" 200 1 "" "a\\"b\\\\"\n'
    )
    assert (re.fullmatch(form, out) is not None) is enabled
    assert enabled or out == ""
    assert len(events.all) == 1  # the request log is another matter


async def test_the_access_log_shows_no_secrets(
    registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same words as in the request log; what is harmless stays."""
    sent = {"Referer": "https://user:hunter2@x/?sig=hunter2"}
    async with serving(registry, Settings(access_log=True)) as port:
        await ask(port, "/v2/?access_token=hunter2&n=5", headers=sent)
        await ask(port, "/v2/", headers={"Referer": "https://user:hunter2@x/"})
    first, second = (line for line in capsys.readouterr().out.splitlines() if " - - [" in line)
    assert '"GET /v2/?access_token=REDACTED&n=5 HTTP/1.1"' in first
    assert '"https://REDACTED@x/?sig=REDACTED"' in first
    assert '"https://REDACTED@x/"' in second


async def test_a_standard_output_that_is_gone_fails_nothing(
    registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch, events: Events
) -> None:
    """The answer is complete, the request log is written."""

    class Gone:
        def write(self, _text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

        def flush(self) -> None:
            raise BrokenPipeError(32, "Broken pipe")

    async with serving(registry, Settings(access_log=True)) as port:
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", Gone())
            answer = await ask(port, "/v2/")
    assert answer.status == 200
    assert len(events.named("response completed")) == 1


async def test_a_false_client_address_is_not_believed(registry: MemoryRegistry, events: Events) -> None:
    """Only what is an address can be one."""
    async with serving(registry, Settings(access_log=False, proxies=LOOPBACK)) as port:
        await ask(port, "/v2/", headers={"X-Forwarded-For": "evil name", "X-Real-Ip": "2001:db8::1"})
        await ask(port, "/v2/", headers={"X-Forwarded-For": "x"})
    assert events.all[0]["http.request.remoteaddr"] == "2001:db8::1"
    assert re.fullmatch(r"127\.0\.0\.1:\d+", events.all[1]["http.request.remoteaddr"])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0µs"), (0.000851692, "851.692µs"), (0.0125, "12.5ms"), (1.5, "1.5s"), (75, "75s"), (-1, "0µs")],
)
def test_a_duration_is_written_as_go_does(seconds: float, text: str) -> None:
    """For what parses the log."""
    assert duration(seconds) == text
