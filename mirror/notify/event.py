"""A pull as distribution's event: the envelope of registry:3 (notifications/event.go). No I/O."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from mirror import jsontext
from mirror.pulled import Pulled

CONTENT_TYPE: Final = "application/vnd.docker.distribution.events.v2+json"  # registry:2 says v1, of the same
ACTION: Final = "pull"  # the only one of a mirror: what it fetches for itself is no push
REFERENCES_LIMIT: Final = 256 << 10  # bytes of a manifest of which the references are told
SIZE_LIMIT: Final = 1 << 63  # Go's int64


@dataclass(frozen=True, slots=True)
class Source:
    """This mirror: `address` is its host's name with the port, `instance` an id of this process."""

    address: str
    instance: str


def envelope(pulled: Pulled, references: list[dict[str, Any]], source: Source) -> bytes:
    """The body of one notification. What is empty is left out, as Go does."""
    target = {
        "mediaType": pulled.media_type,
        "size": pulled.size,
        "digest": pulled.digest,
        "length": pulled.size,
        "repository": pulled.repository,
        "url": pulled.url,
        "tag": pulled.tag,
        "references": references,
    }
    request = {
        "id": pulled.request_id,
        "addr": pulled.address,
        "host": pulled.host,
        "method": pulled.method,
    }
    event = {
        "id": str(uuid.uuid4()),
        "timestamp": datetime.fromtimestamp(pulled.at, UTC).isoformat().replace("+00:00", "Z"),
        "action": ACTION,
        "target": _without_empty(target),
        "request": {**_without_empty(request), "useragent": pulled.user_agent},
        "actor": _without_empty({"name": pulled.user}),
        "source": {"addr": source.address, "instanceID": source.instance},
    }
    return jsontext.encoded({"events": [event]}, indent=3)


def references_in(body: bytes) -> list[dict[str, Any]]:
    """What a manifest names, configuration first, as descriptors; nothing of what is no manifest.

    NB: a manifest is somebody else's. Only what has a descriptor's form is told: `NaN`, which is no JSON,
    would be refused by whoever is told, and hold up all events behind it; what is nested deeply could not be
    told at all.
    """
    if len(body) > REFERENCES_LIMIT:
        return []
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return []
    if not isinstance(document, dict):
        return []
    parts = [document.get("config")]
    for name in ("layers", "manifests"):
        listed = document.get(name)
        parts += listed if isinstance(listed, list) else []
    described = [
        {key: part[key] for key, fits in _DESCRIBED.items() if key in part and fits(part[key])}
        for part in parts
        if isinstance(part, dict)
    ]
    return [part for part in described if "digest" in part]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < SIZE_LIMIT


def _is_list(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_table(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_platform(value: object) -> bool:
    return isinstance(value, dict) and all(_is_text(each) or _is_list(each) for each in value.values())


_DESCRIBED: Final[Mapping[str, Callable[[object], bool]]] = {
    "mediaType": _is_text,
    "size": _is_size,
    "digest": _is_text,
    "urls": _is_list,
    "annotations": _is_table,
    "platform": _is_platform,
}


def _without_empty(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value}
