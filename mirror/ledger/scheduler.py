"""What registry:2 remembers of what it keeps: `scheduler-state.json` in its root directory.

A map of `repository@digest` to `{"Key", "ExpiryData": RFC 3339, "EntryType": 0 or 1}`,
written when something is fetched, never when it is used. An entry that makes no sense is passed over.
"""

from __future__ import annotations

import json
from datetime import datetime

import structlog

from mirror.ledger.facts import Use
from mirror.oci.digest import Digest, DigestError
from mirror.oci.names import InvalidNameError, Repository

FILE = "scheduler-state.json"
LIFETIME = 168 * 3600.0  # seconds; registry:2's `proxy.ttl` where none is configured
ENTRIES_LIMIT = 1_000_000  # some 250 MB of file; more than that nobody keeps in one directory

log = structlog.get_logger()


def uses(data: bytes, lifetime: float = LIFETIME) -> list[Use]:
    """When each was fetched: `lifetime` seconds before it expires. Of a broken file nothing; the log says so.

    Takes 1.5 s for 100,000 entries: to be called in a thread.
    """
    try:
        entries = json.loads(data)
        if not isinstance(entries, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        log.warning("scheduler.ignored", file=FILE, reason=str(error))
        return []
    found = [
        use for key, entry in list(entries.items())[:ENTRIES_LIMIT] if (use := _use(key, entry, lifetime))
    ]
    log.info("scheduler.read", file=FILE, entries=len(entries), used=len(found))
    return found


def _use(key: str, entry: object, lifetime: float) -> Use | None:
    expiry = entry.get("ExpiryData") if isinstance(entry, dict) else None
    name, _, digest = key.rpartition("@")
    if not isinstance(expiry, str):
        return None
    try:
        when = datetime.fromisoformat(expiry)
        used = when.timestamp() - lifetime
        return Use(Repository.parse(name), Digest.parse(digest), used) if when.tzinfo and used > 0 else None
    except (ValueError, OverflowError, InvalidNameError, DigestError):
        return None
