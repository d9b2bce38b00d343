"""What long operations tell, in words for people and for scripts that read registry:2's. Pure.

Events are those of `server.operations`. An item is `{"event": "removed" | "found" | "bad", "kind", "name",
"size"}`: gone, would go, and not what its digest says ("unreadable": nobody knows); this with "repositories",
"more" of them, and where it is now, "moved_to" ("stays": where it was). A summary has numbers: `bytes`, and
how many of what (`images`, `blobs`); of a verification `checked` and `bad`. Where it does not count, the
items are counted. `failed`: how many could not be deleted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from mirror.explainwords import clean, data

COUNTED: Final = {"images": "image", "blobs": "blob"}  # of a summary, and what one of it is called
# registry:2 prints `blob eligible for deletion: sha256:...`, and then deletes it
VERBS: Final = {"removed": "deleted", "found": "eligible for deletion", "bad": "does not match its digest"}

Event = Mapping[str, Any]


def item(event: Event) -> str:
    """One line for what was removed, found or bad, with its name at the end; "" for other events."""
    verb = VERBS.get(str(event.get("event")))
    if verb is None:
        return ""
    if event.get("event") == "bad" and event.get("kind") == "link":
        verb = "is broken"
    if event.get("unreadable") is True:
        verb = "cannot be read"
    size = _number(event, "size")
    amount = f" ({data(size)})" if size else ""
    return clean(f"{event.get('kind') or 'item'} {verb}{amount}: {event.get('name') or 'without a name'}")


def about(event: Event) -> str:
    """Of what is bad, `  of library/a, team/b and 3 more; now in .../quarantine/...`; "" for other events."""
    if event.get("event") != "bad":
        return ""
    named = event.get("repositories")
    names = [str(name) for name in named] if isinstance(named, list) else []
    more = _number(event, "more")
    whose = f"of {', '.join(names)}{f' and {_count(more)} more' if more else ''}" if names else ""
    where = event.get("moved_to")
    left = "it could be neither moved nor deleted" if event.get("stays") is True else "now deleted"
    parts = [part for part in (whose, f"now in {where}" if where else left) if part]
    return clean(f"  {'; '.join(parts)}")


def progress(event: Event) -> str:
    """`reading blobs: 12 of 300 (4 %)`; what is counted in bytes says so by `"unit": "bytes"`."""
    what = str(event.get("what") or "working")
    done, total = _number(event, "done"), _number(event, "total")
    if done is None:
        return clean(what)
    show = data if event.get("unit") == "bytes" else _count
    if not total:
        return clean(f"{what}: {show(done)}")
    return clean(f"{what}: {show(done)} of {show(total)} ({min(done / total, 1):.0%})")


def summary(operation: str, options: Mapping[str, str], event: Event, items: Mapping[str, int]) -> str:
    """What came of it, in a sentence. `items`: how many of each kind were removed, or found."""
    if operation == "verify":
        return _verified(event)
    counts, size = _counts(event, items), data(_number(event, "bytes") or 0)
    if options.get("dry_run") == "true":
        after = _unreadable(event)
        found = f"{counts}, {size}, eligible for deletion" if counts else "nothing is eligible for deletion"
        return f"{found}{after}; nothing was changed"
    before, nothing, left = "", "nothing to collect", _number(event, "failed") or 0
    if operation == "purge":
        before = f"{clean(options.get('what', ''))}: "
        nothing = clean(str(event.get("absent") or "nothing of it is kept"))
    if left:
        nothing = "nothing was deleted"
    done = f"{counts} deleted, {size} freed" if counts else nothing
    after = f"; {_amount(left, 'item')} could not be deleted: see the log" if left else ""
    return f"{before}{done}{after}{_unreadable(event)}"


def failed(operation: str, event: Event, items: Mapping[str, int]) -> bool:
    """Whether the summary is of something that a caller must look at: bad blobs, nothing to purge."""
    if _number(event, "failed") or _number(event, "unreadable"):
        return True
    if operation == "verify":
        return bool(_number(event, "bad") or _number(event, "broken"))
    return operation == "purge" and not _counts(event, items)


def _unreadable(event: Event) -> str:
    """That repositories were left alone, and why; "" for none."""
    count = _number(event, "unreadable") or 0
    if not count:
        return ""
    what = "1 repository was" if count == 1 else f"{_count(count)} repositories were"
    return f"; {what} left alone, with what cannot be read: see the log, and `mirror verify`"


def _verified(event: Event) -> str:
    checked, bad = _number(event, "checked") or 0, _number(event, "bad") or 0
    read = f"{_amount(checked, 'blob')} read, {data(_number(event, 'bytes') or 0)}"
    links = _links(event)
    if not bad:
        return f"{read}: all match their digests{links}"
    verb = "does not match its digest: it was" if bad == 1 else "do not match their digests: they were"
    again = "it is" if bad == 1 else "they are"
    return f"{read}: {_count(bad)} {verb} set aside, and {again} fetched again when asked for{links}"


def _links(event: Event) -> str:
    """`; 12 links read: 1 was broken, and deleted; 3 lead to nothing, and go with the next collection`."""
    links = _number(event, "links")
    if links is None:
        return ""
    broken, nowhere = _number(event, "broken") or 0, _number(event, "nowhere") or 0
    found = []
    if broken:
        found.append(f"{_count(broken)} {'was' if broken == 1 else 'were'} broken, and deleted")
    if nowhere:
        lead = (
            "leads to nothing that is kept, and goes"
            if nowhere == 1
            else "lead to nothing that is kept, and go"
        )
        found.append(f"{_count(nowhere)} {lead} with a later collection")
    return f"; {_amount(links, 'link')} read{': ' if found else ''}{'; '.join(found)}"


def _counts(event: Event, items: Mapping[str, int]) -> str:
    """`3 blobs, 1 image and 2 tags`; "" for none."""
    told = {kind: _number(event, key) for key, kind in COUNTED.items()}
    counts = {**items, **{kind: count for kind, count in told.items() if count is not None}}
    words = [_amount(count, kind) for kind, count in counts.items() if count]
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _amount(count: float, kind: str) -> str:
    """`1 blob`, `2 tags without revision`."""
    first, space, rest = kind.partition(" without")
    return clean(f"{_count(count)} {kind if count == 1 else f'{first}s{space}{rest}'}")


def _count(number: float) -> str:
    return f"{number:.0f}"


def _number(event: Event, key: str) -> float | None:
    value = event.get(key)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable and value is not None else None
