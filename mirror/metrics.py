"""Every metric, in one list. docs/metrics.md has the same for people.

Names that begin with `registry_` and `process_` are registry:2's and registry:3's. The rooms count in plain
values (`tally`), which costs next to nothing where a request's cost matters; they are read when somebody
scrapes (`exposition`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mirror.tally import Distribution, Distributions, Tally

Values = float | Distribution | Tally | Distributions


@dataclass(frozen=True, slots=True)
class Family:
    """One metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    text: str


def _family(name: str, kind: Literal["counter", "gauge", "histogram"], labels: str, text: str) -> Family:
    return Family(name, kind, tuple(labels.split()), text)


FAMILIES: Final = (
    # registry:3's proxy
    _family("registry_proxy_requests_total", "counter", "type", "Requests of blobs and manifests"),
    _family(
        "registry_proxy_hits_total", "counter", "type", "Of these, answered with what is kept or remembered"
    ),
    _family(
        "registry_proxy_misses_total", "counter", "type", "Of these, those for which the upstream was needed"
    ),
    _family(
        "registry_proxy_pulled_bytes_total", "counter", "type", "Bytes of blobs and manifests from upstreams"
    ),
    _family(
        "registry_proxy_pushed_bytes_total", "counter", "type", "Bytes of blobs and manifests to clients"
    ),
    # registry:2's and registry:3's HTTP server
    _family("registry_http_requests_total", "counter", "handler code method", "Requests answered"),
    _family(
        "registry_http_request_duration_seconds",
        "histogram",
        "handler method",
        "From a request to its answer's end",
    ),
    _family("registry_http_request_size_bytes", "histogram", "handler", "Size of requests, about"),
    _family("registry_http_response_size_bytes", "histogram", "handler", "Size of answers' bodies"),
    _family("registry_http_in_flight_requests", "gauge", "handler", "Requests that are being answered"),
    # their storage
    _family(
        "registry_storage_action_seconds", "histogram", "driver action", "Time of an operation on the storage"
    ),
    _family("registry_storage_cache_requests_total", "counter", "", "Looks into the memory of what is kept"),
    _family("registry_storage_cache_hits_total", "counter", "", "Of these, those that found it"),
    _family("registry_storage_cache_errors_total", "counter", "", "Of these, those that failed: none can"),
    _family("registry_storage_cache_total", "counter", "type", "The same under registry:2's name"),
    # their notifications
    _family(
        "registry_notifications_events_total",
        "counter",
        "type endpoint",
        "Events, and attempts that succeeded (Successes), were refused (Failures) or had no answer (Errors)",
    ),
    _family("registry_notifications_pending_total", "gauge", "endpoint", "Events that are not told yet"),
    _family("registry_notifications_status_total", "counter", "code endpoint", "Answers of endpoints"),
    # ours: answers
    _family(
        "mirror_requests_total",
        "counter",
        "upstream type outcome",
        "Requests of blobs and manifests, by origin",
    ),
    _family("mirror_sent_bytes_total", "counter", "upstream type", "Bytes of blobs and manifests to clients"),
    _family(
        "mirror_saved_bytes_total",
        "counter",
        "upstream type",
        "Of these, bytes that no upstream sent for this answer",
    ),
    _family("mirror_fastlane_answers_total", "counter", "", "Answers that were repeated by the fast lane"),
    # ours: upstreams
    _family(
        "mirror_upstream_requests_total",
        "counter",
        "upstream role code",
        "Requests sent to upstreams, by status or by why no answer came",
    ),
    _family(
        "mirror_upstream_latency_seconds",
        "histogram",
        "upstream role",
        "From such a request to its answer's header",
    ),
    _family("mirror_upstream_bytes_total", "counter", "upstream", "Bytes of all bodies from upstreams"),
    _family(
        "mirror_upstream_breaker",
        "gauge",
        "upstream endpoint role",
        "Whether an upstream's server is asked: 0 yes, 1 on probation, 2 no",
    ),
    _family(
        "mirror_upstream_quota_limit", "gauge", "upstream endpoint", "Requests in its window, as it said last"
    ),
    _family("mirror_upstream_quota_remaining", "gauge", "upstream endpoint", "Of these, those that are left"),
    # ours: fills
    _family("mirror_fills_running", "gauge", "", "Blobs that are being fetched"),
    _family("mirror_fills_waiting", "gauge", "", "Blobs that wait for their turn to be fetched"),
    _family("mirror_fills_total", "counter", "outcome", "Fills that have ended: done or failed"),
    _family(
        "mirror_fills_joined_total", "counter", "", "Requests that read a fill which another had started"
    ),
    _family("mirror_fills_resumed_total", "counter", "", "Transfers that broke off and went on"),
    _family("mirror_fills_unkept_total", "counter", "", "Blobs that were passed on and could not be kept"),
    # ours: what is kept
    _family("mirror_store_bytes", "gauge", "", "Bytes that are kept"),
    _family("mirror_store_blobs", "gauge", "", "Blobs and manifests that are kept"),
    _family("mirror_evicted_total", "counter", "reason kind", "Images, and blobs, that were deleted"),
    _family("mirror_evicted_bytes_total", "counter", "reason", "Bytes that this freed"),
    _family(
        "mirror_scrubbed_total",
        "counter",
        "result",
        "Kept blobs that were read and compared with their digests",
    ),
    _family("mirror_disk_bytes", "gauge", "", "Of these, bytes that are on the local disk (cache.disk)"),
    _family("mirror_disk_blobs", "gauge", "", "Of these, blobs that are on the local disk"),
    _family(
        "mirror_disk_reads_total",
        "counter",
        "result",
        "Blobs that were read on the local disk (hit), or below (miss)",
    ),
    _family("mirror_storage_unusable", "gauge", "", "Whether the storage is away, or refuses: 0 no, 1 yes"),
    # ours: the process
    _family("mirror_connections_open", "gauge", "", "Clients that are connected"),
    _family(
        "mirror_connections_refused_total",
        "counter",
        "",
        "Connections closed at once, because of their limit",
    ),
    _family(
        "mirror_event_loop_lag_seconds", "histogram", "", "How late the event loop is, four times a second"
    ),
    _family("mirror_health_check_failing", "gauge", "check", "Whether a health check fails"),
    _family(
        "mirror_notifications_dropped_total",
        "counter",
        "endpoint",
        "Events that were lost: the queue was full",
    ),
    _family("mirror_info", "gauge", "version", "1"),
)
KNOWN: Final = frozenset(family.name for family in FAMILIES)
