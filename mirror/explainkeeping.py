"""What `mirror explain` says of how long an image stays. Pure; whatever is missing is left out."""

from __future__ import annotations

from mirror.explainwords import Facts, data, duration, number_of, text_of


def keeping_lines(facts: Facts) -> list[str]:
    """When it was used, and what lets it go."""
    return [line for line in (_used(facts), _age(facts), _size(facts), *_room(facts)) if line]


def _used(facts: Facts) -> str:
    """`used 3 h 5 min ago, 12 times since it came 20 d ago`."""
    used, seen, hits = (number_of(facts, key) for key in ("used_ago", "seen_ago", "hits"))
    if used is None:
        return ""
    said = "used just now" if used < 1 else f"used {duration(used)} ago"
    if not hits:
        return (
            f"{said} or before, by nobody since it came"
            if seen is None
            else f"kept for {duration(seen)}, and not used"
        )
    times = "once" if hits == 1 else f"{hits:.0f} times"
    return f"{said}, {times}" + ("" if seen is None else f" in {duration(seen)}")


def _age(facts: Facts) -> str:
    """What `proxy.ttl` means for it, or a pin."""
    if pin := text_of(facts, "pin"):
        return f"pinned by {pin}: it stays"
    ttl, left = number_of(facts, "ttl"), number_of(facts, "expires_in")
    if ttl is None or left is None:
        return "proxy.ttl is 0: it does not go for its age"
    when = f"in {duration(left)}" if left >= 1 else "now"
    return f"goes {when} if nobody uses it (proxy.ttl is {duration(ttl)})"


def _size(facts: Facts) -> str:
    """What goes before it, where there are limits of size."""
    if number_of(facts, "maxsize") is None and number_of(facts, "minfree") is None:
        return "there is no limit of size"
    longer = number_of(facts, "unused_longer")
    if text_of(facts, "pin") or longer is None:
        return ""
    if facts.get("surveyed") is False:
        return "nothing goes for room before all that is kept was looked at (survey.done)"
    count = "no image was" if not longer else "1 image was" if longer == 1 else f"{longer:.0f} images were"
    goes = (
        "this one goes first" if not longer else "it goes after them" if longer > 1 else "it goes after that"
    )
    return f"when room is needed: {count} unused for longer, {goes}"


def _room(facts: Facts) -> list[str]:
    """How near the limits are."""
    kept, most = number_of(facts, "kept_bytes"), number_of(facts, "maxsize")
    free, least = number_of(facts, "free"), number_of(facts, "minfree")
    found = []
    if kept is not None and most is not None:
        found.append(f"{data(kept)} of {data(most)} are kept (cache.maxsize)")
    if free is not None and least is not None:
        found.append(f"{data(free)} of the disk are free, at least {data(least)} are to be (cache.minfree)")
    return found
