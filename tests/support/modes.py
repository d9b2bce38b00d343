"""What a run of the tests may choose for all mirrors that it starts: the fast lane, and the event loop.

    REGISTRY_HTTP_FASTLANE=false REGISTRY_HTTP_EVENTLOOP=uvloop pytest tests/server tests/wire

The variables are the mirror's own; the event loop is the tests', too, where both run in one process.
"""

from __future__ import annotations

import os

VARIABLES = ("REGISTRY_HTTP_FASTLANE", "REGISTRY_HTTP_EVENTLOOP")
ENVIRONMENT = {name: os.environ[name] for name in VARIABLES if name in os.environ}

FASTLANE = ENVIRONMENT.get("REGISTRY_HTTP_FASTLANE", "true") != "false"
UVLOOP = ENVIRONMENT.get("REGISTRY_HTTP_EVENTLOOP") == "uvloop"  # the default here is asyncio
