"""What the mirror knows of an image, as lines for people. Pure; whatever is missing is left out."""

from __future__ import annotations

from collections.abc import Iterator

from mirror.explainkeeping import keeping_lines
from mirror.explainwords import Facts, clean, data, duration, first_of, items_of, number_of, part_of, text_of

LABEL_WIDTH = 12  # characters

# Whom a breaker is for; the registry's own is told by the endpoint's state.
ROLES = {"token server": "its token server", "blobs": "its blob storage", "manifests": "its manifest storage"}
AS_USUAL = "asked as usual"
TREE = "tree"  # as `ledger.notes.TREE`
FOUND = "found in the storage, not noted when it came"


def lines(facts: Facts) -> Iterator[str]:
    """Two columns: what it is about, and what there is to say."""
    for label, values in _sections(facts):
        for number, value in enumerate(values):
            yield f"{label if number == 0 else '':<{LABEL_WIDTH}} {clean(value)}".rstrip()


def _sections(facts: Facts) -> Iterator[tuple[str, list[str]]]:
    if image := text_of(facts, "image"):
        yield "image", [image]
    yield "upstream", _route(facts)
    reference = part_of(facts, "reference")
    if reference:
        yield _label(reference), _reference(reference)
    blobs = part_of(facts, "blobs")
    if blobs:
        yield "blobs", _blobs(blobs)
    yield "platforms", _platforms(items_of(facts, "platforms"))
    yield "history", _history(items_of(facts, "history"))
    if keeping := part_of(facts, "keeping"):
        yield "stays", keeping_lines(keeping)
    endpoints = items_of(facts, "endpoints")
    for number, endpoint in enumerate(endpoints, 1):
        yield f"endpoint {number}" if len(endpoints) > 1 else "endpoint", _endpoint(endpoint)
    if following := text_of(facts, "next_pull"):
        yield "next pull", [following]


def _route(facts: Facts) -> list[str]:
    found = []
    namespace, by = text_of(facts, "namespace"), text_of(facts, "routed_by")
    if namespace or by:
        login = text_of(facts, "login")
        found.append(
            (f"{namespace or 'unknown'} ({by})" if by else namespace) + (f", login: {login}" if login else "")
        )
    kept, there = text_of(facts, "repository"), text_of(facts, "upstream_repository")
    if there and kept and there != kept:
        found.append(f"repository {there}, kept as {kept}")
    elif there or kept:
        found.append(f"repository {there or kept}")
    return found


def _label(reference: Facts) -> str:
    tag = text_of(reference, "tag")
    return "tag" if tag else "digest"


def _reference(reference: Facts) -> list[str]:
    tag, digest = text_of(reference, "tag"), text_of(reference, "digest")
    state = "kept" if reference.get("kept") else "not kept"
    found = [f"{tag}: {state}" if tag else f"{digest}: {state}"]
    if tag and digest:
        found.append(digest)
    size, media_type = number_of(reference, "size"), text_of(reference, "media_type")
    described = [media_type] if media_type else []
    if size is not None:
        described.append(data(size))
    if described:
        found.append(", ".join(described))
    if freshness := _freshness(reference):
        found.append(freshness)
    left = number_of(reference, "stale_left")
    if left is not None:
        usable = f"usable for {_another(left)}" if left > 0 else "too old to be given"
        found.append(f"when the upstream cannot be asked: {usable}")
    if refused := text_of(reference, "refused"):
        found.append(f"refused by the upstream: {refused}")
    return found


def _freshness(reference: Facts) -> str:
    """`checked 12 s ago, fresh for another 48 s (60 s by the rule *:latest)`; "" for digests."""
    if "checked_ago" not in reference:
        return ""
    ago, left = number_of(reference, "checked_ago"), number_of(reference, "fresh_left")
    # What is kept may have come with another registry's tree, which does not say when it asked.
    text = "never checked, as far as is known" if reference.get("kept") else "never checked"
    if ago is not None:
        text = f"checked {duration(ago)} ago" if ago >= 1 else "checked just now"
    if text_of(reference, "refused"):  # its time is that of refusals, not that of the rule
        when = f"in {_moment(left)}" if left is not None and left > 0 else "by the next pull"
        return f"{text}: refused, asked again {when}"
    whole, rule = number_of(reference, "fresh_for"), text_of(reference, "rule")
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
    total, kept = number_of(blobs, "total"), number_of(blobs, "kept")
    found = []
    if total is not None and kept is not None:
        found.append(f"{kept:.0f} of {total:.0f} kept{_share_of_bytes(blobs)}")
    filling = blobs.get("filling")
    if isinstance(filling, list):
        found += [f"being fetched: {digest}" for digest in first_of(filling)]
    return found


def _share_of_bytes(blobs: Facts) -> str:
    total, kept = number_of(blobs, "bytes_total"), number_of(blobs, "bytes_kept")
    return "" if total is None or kept is None else f", {data(kept)} of {data(total)}"


def _platforms(platforms: list[Facts]) -> list[str]:
    names = [text_of(platform, "platform") or "unknown" for platform in platforms]
    width = max(map(len, names), default=0)
    found = []
    for name, platform in zip(names, platforms, strict=True):
        state = "kept" if platform.get("kept") else "not kept"
        kept, total = number_of(platform, "blobs_kept"), number_of(platform, "blobs")
        blobs = "" if kept is None or total is None else f"{kept:.0f} of {total:.0f} blobs"
        cells = f"{name:<{width}}  {state:<8}  {blobs:<14}  {text_of(platform, 'digest')}"
        found.append(cells.rstrip())
    return found


def _endpoint(endpoint: Facts) -> list[str]:
    breakers = items_of(endpoint, "breakers")
    own = next((part_of(each, "failed") for each in breakers if text_of(each, "role") == "registry"), {})
    state, behind = _state({**endpoint, "failed": own}), number_of(endpoint, "behind_for")
    if behind is not None and behind > 0:
        last = f"asked after the others for {_another(behind)}"
        state = f"{last}: it failed" if state == AS_USUAL else f"{state}; {last}"
    found = [f"{text_of(endpoint, 'url')}: {state}".removeprefix(": ")]
    for breaker in breakers:
        role = text_of(breaker, "role")
        said = _state(breaker)
        if role != "registry" and said not in ("unknown", AS_USUAL):
            host = " ".join(part for part in (ROLES.get(role, role), text_of(breaker, "host")) if part)
            found.append(f"{host}: {said}".removeprefix(": "))
    quota = part_of(endpoint, "quota")
    limit, remaining = number_of(quota, "limit"), number_of(quota, "remaining")
    if remaining is not None:
        of = "" if limit is None else f" of {limit:.0f}"
        window, reset = number_of(quota, "window"), number_of(quota, "reset_in")
        per = "" if window is None else f" per {duration(window)}"
        anew = "" if reset is None or reset <= 0 else f", anew in {_moment(reset)}"
        found.append(f"quota: {remaining:.0f}{of} left{per}{anew}")
    return found


def _history(moves: list[Facts]) -> list[str]:
    """`pointed to sha256:..., 3 h 5 min ago (quay.io)`, the newest first."""
    found = []
    for move in moves:
        ago, digest = number_of(move, "ago"), text_of(move, "digest")
        what = f"pointed to {digest}" if digest else "was not there any more"
        since = "" if ago is None else f", {duration(ago)} ago"
        origin = text_of(move, "origin")
        origin = FOUND if origin == TREE else origin
        found.append(f"{what}{since}{f' ({origin})' if origin else ''}")
    return found


def _state(endpoint: Facts) -> str:
    """What its breaker or its limit means for the next request."""
    state = text_of(endpoint, "state")
    wait, failures = number_of(endpoint, "retry_in"), number_of(endpoint, "failures")
    pause = f"not asked for {_another(wait)}" if wait is not None and wait > 0 else "not asked for now"
    failed = f"its last {failures:.0f} requests failed" if failures else "its last requests failed"
    last = part_of(endpoint, "failed")
    cause = text_of(last, "cause")
    failed += f" ({cause})" if cause else ""
    asked = f"asked; {_last_failure(last, failures)}" if last else AS_USUAL
    return {
        "": "unknown",
        "ok": asked,
        "closed": asked,
        "open": f"{pause}: {failed}",
        "half-open": f"tried again by the next request: {failed}",
        "limited": f"{pause}: it limits the rate of our requests",
    }.get(state, state)


def _last_failure(last: Facts, failures: float | None) -> str:
    """`its last request failed 2 s ago: connection refused (3 of 5 in a row)`."""
    ago, limit, cause = number_of(last, "ago"), number_of(last, "limit"), text_of(last, "cause")
    when = "" if ago is None else f" {duration(ago)} ago" if ago >= 1 else " just now"
    of = "" if limit is None else f" of {limit:.0f}"
    row = f" ({failures:.0f}{of} in a row)" if failures else ""
    return f"its last request failed{when}{f': {cause}' if cause else ''}{row}"
