"""What a run of the tests may choose for all mirrors that it starts: the fast lane, the event loop, and from
which size on, and over how many connections, blobs come in segments.

    REGISTRY_HTTP_FASTLANE=false REGISTRY_HTTP_EVENTLOOP=uvloop pytest tests/server tests/wire
    REGISTRY_CACHE_SEGMENTS_FROM=64KiB pytest tests/wire

The variables are the mirror's own; the event loop is the tests', too, where both run in one process.
Tests of the whole mirror (`each_mode`: tests/wire, and the real clients' pulls) run in each of MODES.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

VARIABLES = (
    "REGISTRY_HTTP_FASTLANE",
    "REGISTRY_HTTP_EVENTLOOP",
    "REGISTRY_CACHE_SEGMENTS_FROM",
    "REGISTRY_CACHE_SEGMENTS_CONNECTIONS",
)
ENVIRONMENT = {name: os.environ[name] for name in VARIABLES if name in os.environ}

FASTLANE = ENVIRONMENT.get("REGISTRY_HTTP_FASTLANE", "true") != "false"
UVLOOP = ENVIRONMENT.get("REGISTRY_HTTP_EVENTLOOP") == "uvloop"  # the default here is asyncio

# With all that makes it quick, also for small blobs, and with none of that. What a run chooses holds in
# the first.
MODES: Mapping[str, Mapping[str, str]] = {
    "quick": {"REGISTRY_CACHE_SEGMENTS_FROM": ENVIRONMENT.get("REGISTRY_CACHE_SEGMENTS_FROM", "64KiB")},
    "plain": {
        "REGISTRY_HTTP_FASTLANE": "false",
        "REGISTRY_HTTP_EVENTLOOP": "asyncio",
        "REGISTRY_CACHE_SEGMENTS_CONNECTIONS": "1",
    },
}


def comes_in_one() -> bool:
    """Whether each blob comes over one connection in the mode that the test runs in now."""
    return ENVIRONMENT.get("REGISTRY_CACHE_SEGMENTS_CONNECTIONS") == "1"
