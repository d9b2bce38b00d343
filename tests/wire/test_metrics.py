"""What Prometheus scrapes: true of what the upstream and the clients saw, and bounded."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirror import metrics
from mirror.commandsask import operate
from tests.support.modes import ENVIRONMENT
from tests.support.scripted import Bearer, Fault, Upstream, serve, sha256
from tests.support.waiting import PATIENCE
from tests.wire.conftest import Mirror, running

NAME = "library/a"
TAG = f"{NAME}/manifests/1"
HTTP = {"addr": "127.0.0.1:5000", "debug": {"addr": "127.0.0.1:0", "prometheus": {"enabled": True}}}
SECTIONS: dict[str, Any] = {"http": HTTP}
LAYER = bytes(range(256)) * 1000

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scraped(mirror: Mirror) -> Samples:
    """All samples, by name and labels."""
    async with mirror.session.get(f"{mirror.debug}/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = await response.text()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """The sum of those that have these labels."""
    wanted = labels.items()
    return sum(number for (each, has), number in samples.items() if each == name and has >= wanted)


def by(samples: Samples, name: str, label: str) -> dict[str, float]:
    """The samples of a metric, added up by one label."""
    found: Counter[str] = Counter()
    for (each, labels), number in samples.items():
        if each == name:
            found[dict(labels)[label]] += number  # type: ignore[assignment]
    return dict(found)


async def test_every_metric_of_the_list_is_there_with_its_type_and_labels(
    tmp_path: Path, upstream: Upstream
) -> None:
    """But for what nobody can know yet."""
    image = upstream.add_image(NAME, "1", layers=[LAYER])
    upstream.fault(
        "*", "/v2/", Fault(headers={"RateLimit-Limit": "100;w=60", "RateLimit-Remaining": "70;w=60"})
    )
    sections = {
        **SECTIONS,
        "health": {"tcp": [{"addr": "127.0.0.1:1"}]},
        "notifications": {"endpoints": [{"name": "gone", "url": "http://127.0.0.1:1/"}]},
    }
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=sections) as mirror:
        await mirror.get(TAG)
        await mirror.get(TAG)
        await mirror.get(f"{NAME}/blobs/{sha256(LAYER)}")
        async with mirror.session.get(f"{mirror.debug}/metrics") as response:
            text = await response.text()
        assert image.digest
    found = {family.name: family for family in text_string_to_metric_families(text)}
    for family in metrics.FAMILIES:
        name = family.name.removesuffix("_total") if family.kind == "counter" else family.name
        assert (family.name, found[name].type) == (family.name, family.kind)
        assert found[name].documentation == family.text
        for sample in found[name].samples:
            assert set(sample.labels) - {"le"} == set(family.labels), family.name
    empty = {name for name, family in found.items() if not family.samples}
    assert empty == {"registry_notifications_status"}
    assert {name for name in found if name.startswith("process_")} >= {
        "process_cpu_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
    }


async def filled(mirror: Mirror, count: int) -> None:
    """So many fills have ended: a blob that is here already is a miss until then, as others join its fill."""
    async with asyncio.timeout(PATIENCE):
        while value(await scraped(mirror), "mirror_fills_total", outcome="done") < count:  # noqa: ASYNC110 - a number, not an event
            await asyncio.sleep(0.01)


async def test_counts_are_those_of_the_upstream_and_of_the_clients(
    tmp_path: Path, upstream: Upstream
) -> None:
    upstream.auth = Bearer()
    image = upstream.add_image(NAME, "1", layers=[LAYER, b"small"])
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=SECTIONS) as mirror:
        sent = Counter[str]()
        for _ in range(2):
            sent["manifest"] += len((await mirror.get(TAG)).body)
            for digest in image.blobs:
                sent["blob"] += len((await mirror.get(f"{NAME}/blobs/{digest}")).body)
                await mirror.kept(digest)
            await mirror.kept(image.digest)
            await filled(mirror, len(image.blobs))
        sent["blob"] += len((await mirror.get(f"{NAME}/blobs/{sha256(LAYER)}", Range="bytes=5-9")).body)
        assert (await mirror.get(f"{NAME}/manifests/none")).status == 404
        found = await scraped(mirror)

    assert value(found, "mirror_upstream_requests_total") == len(upstream.seen)
    assert by(found, "mirror_upstream_requests_total", "code") == Counter(
        str(seen.status) for seen in upstream.seen
    )
    # The token server is the registry's own here.
    assert by(found, "mirror_upstream_requests_total", "role") == {"registry": len(upstream.seen)}
    assert value(found, "mirror_upstream_bytes_total") == sum(seen.sent for seen in upstream.seen)
    assert value(found, "mirror_upstream_latency_seconds_count") == len(upstream.seen)

    blobs = {digest: len(data) for digest, data in image.blobs.items()}
    assert by(found, "registry_proxy_pulled_bytes_total", "type") == {
        "blob": sum(blobs.values()),
        "manifest": len(image.manifest),
    }
    assert by(found, "registry_proxy_pushed_bytes_total", "type")["blob"] == sent["blob"]
    assert by(found, "mirror_sent_bytes_total", "type")["blob"] == sent["blob"]
    assert by(found, "registry_proxy_requests_total", "type") == {"blob": 2 * len(blobs) + 1, "manifest": 3}
    assert by(found, "registry_proxy_misses_total", "type") == {"blob": len(blobs), "manifest": 2}
    assert by(found, "registry_proxy_hits_total", "type") == {"blob": len(blobs) + 1, "manifest": 1}
    # Freshness is 0 here: the second pull of the tag asked, and it had not moved.
    assert value(found, "mirror_requests_total", type="manifest", outcome="checked") == 1
    assert by(found, "mirror_saved_bytes_total", "type") == {
        "blob": sum(blobs.values()) + 5,
        "manifest": len(image.manifest),
    }
    assert value(found, "mirror_fills_total", outcome="done") == len(blobs)
    assert value(found, "mirror_store_blobs") == len(blobs) + 1
    assert value(found, "mirror_store_bytes") == sum(blobs.values()) + len(image.manifest)
    assert value(found, "registry_http_requests_total", handler="blob", code="206", method="get") == 1
    assert value(found, "registry_http_requests_total", handler="manifest", code="404") == 1
    assert value(found, "registry_http_request_duration_seconds_count", handler="blob") == 2 * len(blobs) + 1
    assert value(found, "registry_http_response_size_bytes_sum", handler="blob") == sent["blob"]
    assert value(found, "registry_storage_action_seconds_count", action="Move") == len(blobs)
    assert value(found, "mirror_connections_open") >= 1


async def test_many_who_want_one_blob_are_one_fill_which_the_others_join(
    tmp_path: Path, upstream: Upstream
) -> None:
    digest = upstream.add_blob(NAME, LAYER)
    upstream.fault("GET", "/blobs/", Fault(stall_after=1000), times=1)
    many = 8
    slow: dict[str, Any] = {"timeouts": {"connect": "2s", "firstbyte": "20s", "stall": "20s"}}
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=SECTIONS, **slow) as mirror:
        asking = [asyncio.create_task(mirror.get(f"{NAME}/blobs/{digest}")) for _ in range(many)]
        await upstream.arrived("GET", "/blobs/")
        found = await scraped(mirror)
        async with asyncio.timeout(PATIENCE):
            while value(found, "mirror_fills_joined_total") < many - 1:
                found = await scraped(mirror)
        assert value(found, "mirror_fills_running") == 1
        assert value(found, "registry_http_in_flight_requests", handler="blob") == many
        upstream.release()
        assert {(await one).body for one in asking} == {LAYER}
        async with asyncio.timeout(PATIENCE):  # what clients have is still being kept
            while value(found, "mirror_fills_running") or value(found, "registry_http_in_flight_requests"):
                found = await scraped(mirror)
    assert value(found, "mirror_fills_joined_total") == many - 1
    assert value(found, "mirror_requests_total", outcome="joined") == many - 1
    assert value(found, "mirror_requests_total", outcome="miss") == 1
    assert value(found, "mirror_saved_bytes_total") == (many - 1) * len(LAYER)
    assert value(found, "registry_http_in_flight_requests") == 0


async def test_breaks_outages_breakers_and_stale_answers_are_counted(
    tmp_path: Path, upstream: Upstream
) -> None:
    image = upstream.add_image(NAME, "1", layers=[LAYER])
    lost = upstream.add_blob(NAME, b"lost")
    upstream.fault("GET", sha256(LAYER), Fault(cut_after=1000), times=1)
    upstream.fault("GET", lost, Fault(status=500))
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=SECTIONS) as mirror:
        await mirror.get(TAG)
        for digest in image.blobs:
            assert (await mirror.get(f"{NAME}/blobs/{digest}")).status == 200
            await mirror.kept(digest)
        assert (await mirror.get(f"{NAME}/blobs/{lost}")).status >= 500
        found = await scraped(mirror)
        assert value(found, "mirror_fills_resumed_total") == 1
        assert value(found, "mirror_fills_total", outcome="failed") == 1
        upstream.fault("*", "/v2/", Fault(status=503))
        for _ in range(8):
            assert (await mirror.get(TAG)).status == 200
        for number in range(5):  # what only one repository is asked for may be its fault
            assert (await mirror.get(f"library/b{number}/manifests/1")).status == 503
        found = await scraped(mirror)
    stale = value(found, "mirror_requests_total", outcome="stale")
    assert stale == 8
    assert value(found, "mirror_upstream_breaker", role="registry") == 2
    assert value(found, "mirror_upstream_requests_total", code="503") == len(
        [seen for seen in upstream.seen if seen.status == 503]
    )


async def test_evictions_are_counted_by_their_reason(tmp_path: Path, upstream: Upstream) -> None:
    """A reason that never was is there with 0: a rate counts from what was there."""
    image = upstream.add_image(NAME, "1", layers=[LAYER])
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=SECTIONS) as mirror:
        await mirror.get(TAG)
        await mirror.kept(image.digest)
        for digest in image.blobs:
            assert (await mirror.get(f"{NAME}/blobs/{digest}")).status == 200
            await mirror.kept(digest)
        await filled(mirror, len(image.blobs))
        before = await scraped(mirror)
        asked = {"what": f"{urlsplit(url).netloc}/{NAME}"}
        socket = mirror.root / "mirror" / "control.sock"
        events = await asyncio.to_thread(lambda: list(operate(socket, "purge", asked)))
        assert (events[-1]["images"], events[-1]["failed"]) == (1, 0)
        found = await scraped(mirror)
    reasons = {"ttl", "limit", "room", "purge"}
    assert by(before, "mirror_evicted_total", "reason") == dict.fromkeys(reasons, 0)
    assert by(before, "mirror_evicted_bytes_total", "reason") == dict.fromkeys(reasons, 0)
    assert value(found, "mirror_evicted_total", reason="purge", kind="image") == 1
    assert value(found, "mirror_evicted_total", reason="purge", kind="blob") == len(image.blobs) + 1
    freed = value(found, "mirror_evicted_bytes_total", reason="purge")
    assert freed == len(image.manifest) + sum(len(data) for data in image.blobs.values())
    assert value(found, "mirror_evicted_total") == len(image.blobs) + 2


async def test_what_is_left_of_a_quota_is_shown(tmp_path: Path, upstream: Upstream) -> None:
    upstream.add_image(NAME, "1")
    upstream.fault(
        "*", "/v2/", Fault(headers={"RateLimit-Limit": "100;w=60", "RateLimit-Remaining": "70;w=60"})
    )
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=SECTIONS) as mirror:
        await mirror.get(TAG)
        found = await scraped(mirror)
    assert value(found, "mirror_upstream_quota_limit") == 100
    assert value(found, "mirror_upstream_quota_remaining") == 70


async def test_no_client_can_make_a_label(tmp_path: Path, upstream: Upstream) -> None:
    """Names, tags, methods, namespaces, statuses and user agents of clients are in none of them."""
    upstream.add_image(NAME, "1")
    async with (
        serve(upstream) as url,
        running(tmp_path / "data", url, sections=SECTIONS, upstreams={"*": {}}) as mirror,
    ):
        await mirror.get(TAG)
        before = {name for name, _labels in await scraped(mirror)}
        odd = "canary"
        for number in range(5):
            await mirror.ask("GET", f"library/{odd}{number}/manifests/{odd}{number}")
            await mirror.ask("GET", f"{NAME}/manifests/1?ns={odd}{number}.invalid")
            await mirror.ask("GET", f"{odd}{number}/{odd}")
            async with mirror.session.request(f"{odd}{number}".upper(), f"{mirror.url}/v2/") as response:
                await response.read()
            await mirror.get(TAG, User_Agent=odd, X_Forwarded_For=odd)
        found = await scraped(mirror)
    assert {name for name, _labels in found} >= before
    shown = json.dumps([sorted(labels) for _name, labels in found]).lower()
    assert odd not in shown
    upstreams = {dict(labels).get("upstream") for _name, labels in found} - {None}
    assert upstreams <= {url.removeprefix("http://"), "other"}
    assert {dict(labels)["method"] for name, labels in found if name == "registry_http_requests_total"} <= {
        "get",
        "other",
    }


def steady(found: Samples) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    """What must be the same however answers are given: counts and bytes, and no times."""
    names = (
        "registry_proxy_requests_total",
        "registry_proxy_hits_total",
        "registry_proxy_misses_total",
        "registry_proxy_pushed_bytes_total",
        "registry_http_requests_total",
        "registry_http_request_duration_seconds_count",
        "registry_http_request_size_bytes_sum",
        "registry_http_request_size_bytes_count",
        "registry_http_response_size_bytes_sum",
        "registry_http_response_size_bytes_count",
    )
    kept: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
    for (name, labels), number in found.items():
        if name in names:
            kept[name, labels] = number
        elif name in ("mirror_requests_total", "mirror_sent_bytes_total", "mirror_saved_bytes_total"):
            without = frozenset(pair for pair in labels if pair[0] != "upstream")  # a port
            kept[name, without] = number
    return kept


async def test_the_fast_lane_counts_what_is_counted_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what it has not told of a moment ago, and with its events."""
    monkeypatch.delitem(ENVIRONMENT, "REGISTRY_HTTP_FASTLANE", raising=False)  # the sections say it
    counted, told = [], []
    for fast in (True, False):
        upstream = Upstream()
        layer = b"a small layer"
        image = upstream.add_image(NAME, "1", layers=[layer])
        sections = {
            "http": {**HTTP, "fastlane": fast},
            "notifications": {"endpoints": [{"name": "gone", "url": "http://127.0.0.1:1/"}]},
        }
        freshness: dict[str, Any] = {"freshness": {"default": "60s"}}
        async with (
            serve(upstream) as url,
            running(tmp_path / str(fast), url, sections=sections, **freshness) as mirror,
        ):
            blob = f"{NAME}/blobs/{sha256(layer)}"
            await mirror.get(TAG)
            for digest in image.blobs:  # all: else each answer hangs on when the upstream was last heard of
                await mirror.get(f"{NAME}/blobs/{digest}")
                await mirror.kept(digest)
            await mirror.kept(image.digest)
            await mirror.tagged(NAME, "1")
            while value(await scraped(mirror), "mirror_fills_running"):  # noqa: ASYNC110 - told by nobody
                await asyncio.sleep(0.01)
            for path in (TAG, f"{NAME}/manifests/{image.digest}", blob):
                for method in ("GET", "HEAD"):
                    for _ in range(10):
                        assert (await mirror.ask(method, path)).status == 200
            assert (await mirror.get(TAG, If_None_Match=f'"{image.digest}"')).status == 304
            found = await scraped(mirror)
        assert (value(found, "mirror_fastlane_answers_total") > 20) == fast
        counted.append(steady(found))
        told.append(value(found, "registry_notifications_events_total", type="Events"))
    assert counted[0] == counted[1]
    assert told == [63, 63]


async def test_the_path_of_the_metrics_is_configured_and_without_it_there_are_none(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with serve(upstream) as url:
        for prometheus, path, status in (
            ({"enabled": True, "path": "/m/x"}, "/m/x", 200),
            ({"enabled": True, "path": "/m/x"}, "/metrics", 404),
            ({"enabled": False}, "/metrics", 404),
        ):
            http = {**HTTP, "debug": {"addr": "127.0.0.1:0", "prometheus": prometheus}}
            async with (
                running(tmp_path / "data", url, sections={"http": http}) as mirror,
                mirror.session.get(f"{mirror.debug}{path}") as response,
            ):
                assert response.status == status


async def test_the_loop_is_looked_at(tmp_path: Path, upstream: Upstream) -> None:
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=SECTIONS) as mirror:
        found: Samples = {}

        async def look() -> None:
            while value(found, "mirror_event_loop_lag_seconds_count") < 2:
                found.update(await scraped(mirror))

        async with asyncio.timeout(PATIENCE):
            await look()
    assert value(found, "mirror_event_loop_lag_seconds_bucket", le="+Inf") >= 2


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_variables_are_all_numbers_under_registry_2s_names_and_ours(
    tmp_path: Path, upstream: Upstream, method: str
) -> None:
    image = upstream.add_image(NAME, "1")
    async with serve(upstream) as url, running(tmp_path / "data", url, sections=SECTIONS) as mirror:
        await mirror.get(TAG)
        async with mirror.session.request(method, f"{mirror.debug}/debug/vars") as response:
            assert response.status == 200
            text = await response.text()
        if method == "HEAD":
            return
        shown = json.loads(text)
    assert set(shown) == {"cmdline", "memstats", "registry", "mirror"}
    assert shown["memstats"]["Sys"] > 10_000_000
    assert shown["registry"]["proxy"]["manifests"] == {
        "Requests": 1,
        "Hits": 0,
        "Misses": 1,
        "BytesPulled": len(image.manifest),
        "BytesPushed": len(image.manifest),
    }
    assert set(shown["mirror"]) == {family.name for family in metrics.FAMILIES}
    assert shown["mirror"]["registry_http_requests_total"] == {"manifest 200 get": 1}
