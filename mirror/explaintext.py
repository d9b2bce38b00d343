"""What the mirror knows of an image, as lines for people. Pure; whatever is missing is left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

LABEL_WIDTH = 12  # characters
LINE_LIMIT = 400  # characters of one value; names and digests are shorter, texts come from upstreams
ROWS_LIMIT = 200  # lines of one list

# Whom a breaker is for; the registry's own is told by the endpoint's state.
ROLES = {"token server": "its token server", "blobs": "its blob storage", "manifests": "its manifest storage"}
AS_USUAL = "asked as usual"

Facts = Mapping[str, Any]


def lines(facts: Facts) -> Iterator[str]:
    """Two columns: what it is about, and what there is to say."""
    for label, values in _sections(facts):
        for number, value in enumerate(values):
            yield f"{label if number == 0 else '':<{LABEL_WIDTH}} {clean(value)}".rstrip()


def _sections(facts: Facts) -> Iterator[tuple[str, list[str]]]:
    if image := _text(facts, "image"):
        yield "image", [image]
    yield "upstream", _route(facts)
    reference = _part(facts, "reference")
    if reference:
        yield _label(reference), _reference(reference)
    blobs = _part(facts, "blobs")
    if blobs:
        yield "blobs", _blobs(blobs)
    yield "platforms", _platforms(_items(facts, "platforms"))
    endpoints = _items(facts, "endpoints")
    for number, endpoint in enumerate(endpoints, 1):
        yield f"endpoint {number}" if len(endpoints) > 1 else "endpoint", _endpoint(endpoint)
    if following := _text(facts, "next_pull"):
        yield "next pull", [following]


def _route(facts: Facts) -> list[str]:
    found = []
    namespace, by = _text(facts, "namespace"), _text(facts, "routed_by")
    if namespace or by:
        login = _text(facts, "login")
        found.append(
            (f"{namespace or 'unknown'} ({by})" if by else namespace) + (f", login: {login}" if login else "")
        )
    kept, there = _text(facts, "repository"), _text(facts, "upstream_repository")
    if there and kept and there != kept:
        found.append(f"repository {there}, kept as {kept}")
    elif there or kept:
        found.append(f"repository {there or kept}")
    return found


def _label(reference: Facts) -> str:
    tag = _text(reference, "tag")
    return "tag" if tag else "digest"


def _reference(reference: Facts) -> list[str]:
    tag, digest = _text(reference, "tag"), _text(reference, "digest")
    state = "kept" if reference.get("kept") else "not kept"
    found = [f"{tag}: {state}" if tag else f"{digest}: {state}"]
    if tag and digest:
        found.append(digest)
    size, media_type = _number(reference, "size"), _text(reference, "media_type")
    described = [media_type] if media_type else []
    if size is not None:
        described.append(data(size))
    if described:
        found.append(", ".join(described))
    if freshness := _freshness(reference):
        found.append(freshness)
    left = _number(reference, "stale_left")
    if left is not None:
        usable = f"usable for {_another(left)}" if left > 0 else "too old to be given"
        found.append(f"when the upstream cannot be asked: {usable}")
    if refused := _text(reference, "refused"):
        found.append(f"refused by the upstream: {refused}")
    return found


def _freshness(reference: Facts) -> str:
    """`checked 12 s ago, fresh for another 48 s (60 s by the rule *:latest)`; "" for digests."""
    if "checked_ago" not in reference:
        return ""
    ago, left = _number(reference, "checked_ago"), _number(reference, "fresh_left")
    text = "never checked"
    if ago is not None:
        text = f"checked {duration(ago)} ago" if ago >= 1 else "checked just now"
    if _text(reference, "refused"):  # its time is that of refusals, not that of the rule
        when = f"in {_moment(left)}" if left is not None and left > 0 else "by the next pull"
        return f"{text}: refused, asked again {when}"
    whole, rule = _number(reference, "fresh_for"), _text(reference, "rule")
    by = {"": "", "default": "by default"}.get(rule, f"by the rule {rule}")
    if whole == 0 and not left:
        text, because = f"{text}, each pull checks", by.removeprefix("by the ")
    else:
        text += "" if left is None or ago is None else f", {_due(left)}"
        because = " ".join(part for part in ("" if whole is None else duration(whole), by) if part)
    return f"{text} ({because})" if because else text


def _due(left: float) -> str:
    return f"fresh for {_another(left)}" if left > 0 else "due for a check"


def _moment(seconds: float) -> str:
    """How long until something: there is no need to be exact about less than a second."""
    return duration(seconds) if seconds >= 1 else "a moment"


def _another(seconds: float) -> str:
    """How much longer."""
    return f"another {duration(seconds)}" if seconds >= 1 else "a moment"


def _blobs(blobs: Facts) -> list[str]:
    total, kept = _number(blobs, "total"), _number(blobs, "kept")
    found = []
    if total is not None and kept is not None:
        found.append(f"{kept:.0f} of {total:.0f} kept{_share_of_bytes(blobs)}")
    filling = blobs.get("filling")
    if isinstance(filling, list):
        found += [f"being fetched: {digest}" for digest in _first(filling)]
    return found


def _share_of_bytes(blobs: Facts) -> str:
    total, kept = _number(blobs, "bytes_total"), _number(blobs, "bytes_kept")
    return "" if total is None or kept is None else f", {data(kept)} of {data(total)}"


def _platforms(platforms: list[Facts]) -> list[str]:
    names = [_text(platform, "platform") or "unknown" for platform in platforms]
    width = max(map(len, names), default=0)
    found = []
    for name, platform in zip(names, platforms, strict=True):
        state = "kept" if platform.get("kept") else "not kept"
        kept, total = _number(platform, "blobs_kept"), _number(platform, "blobs")
        blobs = "" if kept is None or total is None else f"{kept:.0f} of {total:.0f} blobs"
        cells = f"{name:<{width}}  {state:<8}  {blobs:<14}  {_text(platform, 'digest')}"
        found.append(cells.rstrip())
    return found


def _endpoint(endpoint: Facts) -> list[str]:
    state, behind = _state(endpoint), _number(endpoint, "behind_for")
    if behind is not None and behind > 0:
        last = f"asked after the others for {_another(behind)}"
        state = f"{last}: it failed" if state == AS_USUAL else f"{state}; {last}"
    found = [f"{_text(endpoint, 'url')}: {state}".removeprefix(": ")]
    for breaker in _items(endpoint, "breakers"):
        role = _text(breaker, "role")
        if role != "registry" and _text(breaker, "state") not in ("", "ok", "closed"):
            host = " ".join(part for part in (ROLES.get(role, role), _text(breaker, "host")) if part)
            found.append(f"{host}: {_state(breaker)}".removeprefix(": "))
    quota = _part(endpoint, "quota")
    limit, remaining = _number(quota, "limit"), _number(quota, "remaining")
    if remaining is not None:
        of = "" if limit is None else f" of {limit:.0f}"
        window, reset = _number(quota, "window"), _number(quota, "reset_in")
        per = "" if window is None else f" per {duration(window)}"
        anew = "" if reset is None or reset <= 0 else f", anew in {_moment(reset)}"
        found.append(f"quota: {remaining:.0f}{of} left{per}{anew}")
    return found


def _state(endpoint: Facts) -> str:
    """What its breaker or its limit means for the next request."""
    state = _text(endpoint, "state")
    wait, failures = _number(endpoint, "retry_in"), _number(endpoint, "failures")
    pause = f"not asked for {_another(wait)}" if wait is not None and wait > 0 else "not asked for now"
    failed = f"its last {failures:.0f} requests failed" if failures else "its last requests failed"
    return {
        "": "unknown",
        "ok": AS_USUAL,
        "closed": AS_USUAL,
        "open": f"{pause}: {failed}",
        "half-open": f"tried again by the next request: {failed}",
        "limited": f"{pause}: it limits the rate of our requests",
    }.get(state, state)


def duration(seconds: float) -> str:
    """In words, two units at most: `500 ms`, `12 s`, `3 min 20 s`, `29 d 23 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "0 s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    left = int(min(seconds, 1e12))
    at = next(at for at, (_, size) in enumerate(units) if left >= size)
    name, size = units[at]
    whole, rest = divmod(left, size)
    next_name, next_size = units[at + 1] if at + 1 < len(units) else ("", 1)
    part = rest // next_size
    return f"{whole} {name} {part} {next_name}" if part and next_name else f"{whole} {name}"


def data(count: float) -> str:
    """Bytes: `512 bytes`, `1.2 KiB`, `30.0 MiB`."""
    if count < 1024:
        return f"{count:.0f} bytes"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def _text(facts: Facts, key: str) -> str:
    value = facts.get(key)
    return value if isinstance(value, str) else ""


def _number(facts: Facts, key: str) -> float | None:
    value = facts.get(key)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable and value is not None else None


def _part(facts: Facts, key: str) -> Facts:
    value = facts.get(key)
    return value if isinstance(value, dict) else {}


def _items(facts: Facts, key: str) -> list[Facts]:
    value = facts.get(key)
    return [item for item in _first(value) if isinstance(item, dict)] if isinstance(value, list) else []


def _first(items: list[Any]) -> list[Any]:
    return items[:ROWS_LIMIT]


def clean(text: str) -> str:
    """Without control characters: what upstreams say must not reach the terminal's own language."""
    return "".join(c if c.isprintable() else "?" for c in text[:LINE_LIMIT])
