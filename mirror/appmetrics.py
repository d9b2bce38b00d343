"""The part of the composition root that gathers numbers: for Prometheus, and for `/debug/vars`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from mirror import __version__, appupstreams
from mirror.appkeeping import Keeping
from mirror.appoperations import Operations
from mirror.cache.fills import Fills
from mirror.configsecrets import HIDDEN, redacted
from mirror.ledger.inventory import NotKept
from mirror.log import redact_text
from mirror.metrics import Values
from mirror.notify.endpoint import Endpoint
from mirror.server.connections import Door
from mirror.tally import Distribution, Distributions, Labels, Tally
from mirror.upstream.routes import Routes
from mirror.upstream.traffic import SECONDS
from mirror.upstream.upstreams import Upstreams

STATES = {"closed": 0, "half-open": 1, "open": 2}
TYPES = {"blobs": "blob", "manifests": "manifest"}  # registry:2's names of them
NANOSECONDS = 10**9
NO_READS = Tally([("hit",), ("miss",)])  # of a local disk, where there is none

Scraper = Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Measures:
    """Where the numbers are. `flush` has the fast lane tell what it has answered."""

    operations: Operations
    names: Routes
    upstream: Upstreams
    fills: Fills
    keeping: Keeping
    doors: list[Door]
    flush: Callable[[], None]

    def scraper(self) -> Scraper:
        """What gives what Prometheus reads. The text is made in a thread: it takes some milliseconds."""
        from mirror import exposition

        async def scrape() -> bytes:
            found = exposition.families(await self.values())
            return await asyncio.to_thread(exposition.render, found)

        return scrape

    async def values(self) -> dict[str, Values]:
        """All that is known now, by the names of `metrics.FAMILIES`."""
        self.flush()
        kept = await self._kept()
        return {
            **self._registry(),
            **self._answers(),
            **self._upstreams(),
            **self._fills(),
            **kept,
            **self._process(),
        }

    async def variables(self) -> dict[str, Any]:
        """`/debug/vars`: registry:2's names where there are such, and all metrics beside them."""
        values = await self.values()
        notifier = self.operations.notifier
        endpoints = notifier.endpoints if notifier is not None else ()
        return {
            "cmdline": [redact_text(word) for word in sys.argv],
            "memstats": {"Sys": await asyncio.to_thread(_resident)},
            "registry": {
                "notifications": {"endpoints": [_endpoint(endpoint) for endpoint in endpoints]},
                "proxy": {name: self._proxied(type_) for name, type_ in TYPES.items()},
            },
            "mirror": {name: _readable(value) for name, value in values.items()},
        }

    def _proxied(self, type_: str) -> dict[str, float]:
        account = self.operations.account
        return {
            "Requests": account.asked[type_,],
            "Hits": account.hits[type_,],
            "Misses": account.misses[type_,],
            "BytesPulled": self._pulled()[type_,],
            "BytesPushed": account.pushed[type_,],
        }

    def _pulled(self) -> Tally:
        pulled = Tally((type_,) for type_ in TYPES.values())
        for traffic in self.operations.traffic.values():
            for labels, count in traffic.pulled.values.items():
                pulled.add(*labels, count=count)
        return pulled

    def _registry(self) -> dict[str, Values]:
        """What registry:2 and registry:3 have."""
        account, memory = self.operations.account, self.keeping.memory
        return {
            "registry_proxy_requests_total": account.asked,
            "registry_proxy_hits_total": account.hits,
            "registry_proxy_misses_total": account.misses,
            "registry_proxy_pulled_bytes_total": self._pulled(),
            "registry_proxy_pushed_bytes_total": account.pushed,
            "registry_http_requests_total": account.requests,
            "registry_http_request_duration_seconds": account.seconds,
            "registry_http_request_size_bytes": account.received,
            "registry_http_response_size_bytes": account.sent,
            "registry_http_in_flight_requests": account.in_flight,
            "registry_storage_action_seconds": self.operations.driver.times,
            "registry_storage_cache_requests_total": memory.asked,
            "registry_storage_cache_hits_total": memory.found,
            "registry_storage_cache_errors_total": 0,
            "registry_storage_cache_total": Tally.of(
                {
                    ("Request",): memory.asked,
                    ("Hit",): memory.found,
                    ("Miss",): memory.asked - memory.found,
                }
            ),
            **self._notifications(),
        }

    def _notifications(self) -> dict[str, Values]:
        notifier = self.operations.notifier
        events, pending, statuses, dropped = Tally(), Tally(), Tally(), Tally()
        for endpoint in notifier.endpoints if notifier is not None else ():
            counts, name = endpoint.counts, endpoint.name
            for type_, count in _outcomes(endpoint).items():
                events.add(type_, name, count=count)
            pending.add(name, count=endpoint.pending)
            dropped.add(name, count=counts.dropped)
            for labels, seen in counts.statuses.values.items():
                statuses.add(*labels, name, count=seen)
        return {
            "registry_notifications_events_total": events,
            "registry_notifications_pending_total": pending,
            "registry_notifications_status_total": statuses,
            "mirror_notifications_dropped_total": dropped,
        }

    def _answers(self) -> dict[str, Values]:
        account = self.operations.account
        return {
            "mirror_requests_total": account.outcomes,
            "mirror_sent_bytes_total": account.given,
            "mirror_saved_bytes_total": account.saved,
            "mirror_fastlane_answers_total": account.repeated,
        }

    def _upstreams(self) -> dict[str, Values]:
        requests, received = Tally(), Tally()
        latency = Distributions(SECONDS)
        for name, traffic in self.operations.traffic.items():
            for labels, count in traffic.requests.values.items():
                requests.add(name, *labels, count=count)
            for labels, seen in traffic.latency.values.items():
                latency.values[name, *labels] = seen
            if traffic.requests.values:
                received.add(name, count=traffic.bytes)
        return {
            "mirror_upstream_requests_total": requests,
            "mirror_upstream_latency_seconds": latency,
            "mirror_upstream_bytes_total": received,
            **self._conditions(),
        }

    def _conditions(self) -> dict[str, Values]:
        """Of several upstreams with one label the worst."""
        breakers: dict[Labels, float] = {}
        limits: dict[Labels, float] = {}
        left: dict[Labels, float] = {}
        for namespace, described in self.upstream.described(monotonic()):
            name = appupstreams.label(self.names, namespace)
            for number, endpoint in enumerate(described["endpoints"]):
                place = (name, str(number))
                for breaker in endpoint["breakers"]:
                    labels = (*place, breaker["role"])
                    breakers[labels] = max(breakers.get(labels, 0), STATES[breaker["state"]])
                quota = endpoint["quota"]
                if quota is not None and quota["remaining"] <= left.get(place, quota["remaining"]):
                    limits[place], left[place] = quota["limit"], quota["remaining"]
        return {
            "mirror_upstream_breaker": Tally.of(breakers),
            "mirror_upstream_quota_limit": Tally.of(limits),
            "mirror_upstream_quota_remaining": Tally.of(left),
        }

    def _fills(self) -> dict[str, Values]:
        running, waiting = self.fills.under_way()
        counts = self.fills.counts
        return {
            "mirror_fills_running": running,
            "mirror_fills_waiting": waiting,
            "mirror_fills_total": Tally.of({("done",): counts.done, ("failed",): counts.failed}),
            "mirror_fills_joined_total": counts.joined,
            "mirror_fills_resumed_total": self.fills.resumed,
            "mirror_fills_unkept_total": counts.unkept,
        }

    async def _kept(self) -> dict[str, Values]:
        gone = self.keeping.evictor.total.values()
        counts: dict[Labels, float] = {}
        for each in gone:
            counts[each.reason, "image"], counts[each.reason, "blob"] = each.images, each.blobs
        found: dict[str, Values] = {
            "mirror_evicted_total": Tally.of(counts),
            "mirror_evicted_bytes_total": Tally.of({(each.reason,): each.bytes for each in gone}),
            "mirror_scrubbed_total": self.keeping.scrubber.results,
            "mirror_storage_unusable": int(bool(self.operations.warnings())),
            **self._disk(),
        }
        try:
            total = await self.keeping.inventory.total()
        except (
            NotKept
        ):  # another process writes for long, or the disk hangs: the others are told all the same
            return found
        return {**found, "mirror_store_bytes": total.bytes, "mirror_store_blobs": total.blobs}

    def _disk(self) -> dict[str, Values]:
        """What of object storage is on the local disk as well."""
        tier = self.operations.tier
        if tier is None:
            return {"mirror_disk_bytes": 0, "mirror_disk_blobs": 0, "mirror_disk_reads_total": NO_READS}
        return {
            "mirror_disk_bytes": tier.hot.bytes,
            "mirror_disk_blobs": len(tier.hot),
            "mirror_disk_reads_total": tier.reads,
        }

    def _process(self) -> dict[str, Values]:
        checks = Tally()
        for check in self.operations.checks.all:  # two may look at the same thing
            checks.values[check.name,] = max(checks[check.name,], int(check.error is not None))
        return {
            "mirror_connections_open": sum(door.inside for door in self.doors),
            "mirror_connections_refused_total": sum(door.refused for door in self.doors),
            "mirror_event_loop_lag_seconds": self.operations.lag.seen,
            "mirror_health_check_failing": checks,
            "mirror_info": Tally.of({(__version__,): 1}),
        }


def _outcomes(endpoint: Endpoint) -> dict[str, int]:
    """Under registry:3's names."""
    counts = endpoint.counts
    return {
        "Events": counts.events,
        "Successes": counts.successes,
        "Failures": counts.failures,
        "Errors": counts.errors,
    }


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    """As registry:2 shows one, but for its secrets."""
    settings = endpoint.settings
    return {
        "name": endpoint.name,
        "url": redacted(settings.url),
        "Headers": {name: [HIDDEN] for name, _ in settings.headers},
        "Timeout": round(settings.timeout * NANOSECONDS),
        "Threshold": settings.threshold,
        "Backoff": round(settings.backoff * NANOSECONDS),
        "Ignore": {
            "MediaTypes": sorted(settings.ignored_types),
            "Actions": sorted(settings.ignored_actions),
        },
        "Metrics": {
            "Pending": endpoint.pending,
            **_outcomes(endpoint),
            "Dropped": endpoint.counts.dropped,
            "Statuses": {code: count for (code,), count in endpoint.counts.statuses.values.items()},
        },
    }


def _readable(values: Values) -> Any:
    """A number, or numbers by their labels with spaces between; of a distribution how many and their sum."""
    if isinstance(values, int | float):
        return values
    if isinstance(values, Distribution):
        return {"count": sum(values.counts), "sum": round(values.sum, 6)}
    if isinstance(values, Tally):
        return {" ".join(labels): value for labels, value in values.values.items()}
    return {" ".join(labels): _readable(value) for labels, value in values.values.items()}


def _resident() -> int:
    """Bytes of memory that the process has; 0 where the system does not say it so (not Linux)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0
