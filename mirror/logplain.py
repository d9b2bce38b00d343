"""Events of the log as sentences, for who runs a command: what it says beside its own words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from structlog.typing import EventDict, WrappedLogger

# Of what may stand in the way of a command. Any other event is told by its name and its fields.
SENTENCES: Final[Mapping[str, str]] = {
    "eviction.failed": "{what} could not be deleted: {reason}",
    "collection.unreadable": "{repository} is left alone, for a part of it cannot be read: {reason}",
    "inventory.lost": "what is kept is not known for certain any more: {reason}",
    "inventory.not_closed": "{file} could not be closed well: {reason}",
    "inventory.not_kept": "{file} cannot be used, so that memory has to do: {reason}",
    "inventory.not_opened": "{file} cannot be used: {reason}",
    "ledger.replaced": "{file} was deleted, or replaced, just now: a new one is begun",
    "ledger.set_aside": "what was in its place made no sense ({reason}), and is {file} now",
    "scheduler.ignored": "{file} is ignored: {reason}",
    "scrub.holders_unknown": "which repositories have {digest} could not be read: {reason}",
    "scrub.not_put_aside": "{digest} could not be moved to the quarantine: {reason}",
    "scrub.stays": "{digest} could not be deleted: do it by hand ({reason})",
    "store.link.broken": "{path} is no link, and counts as missing: {reason}",
    "store.read.failed": "{path} could not be read: {cause}",
    "survey.unreadable": "the manifest {repository}@{digest} cannot be read: what its repository has stays",
}


def sentence(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """`warning: library/a@sha256:... could not be deleted: Permission denied`, a line or more."""
    level, name = str(event.pop("level", "")), str(event.pop("event", ""))
    exception = event.pop("exception", None)
    try:
        text = SENTENCES[name].format_map(event)
    except (KeyError, ValueError, IndexError):
        text = _words(name, event)
    return "\n".join(filter(None, (f"{level}: {text}", exception)))


def _words(name: str, event: Mapping[str, Any]) -> str:
    """`keeper no locks (file /data/mirror/keeper.lock): Function not implemented`."""
    said = name.replace(".", " ").replace("_", " ") if " " not in name else name
    reason = event.get("reason")
    told = ", ".join(f"{key} {event[key]}" for key in sorted(event) if key != "reason")
    return said + (f" ({told})" if told else "") + (f": {reason}" if reason else "")
