"""What an operator reads of an image."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.explaintext import lines
from mirror.explainwords import data, duration
from mirror.ledger import notes

D = "sha256:" + "a" * 64
CHILD = "sha256:" + "b" * 64
BLOB = "sha256:" + "c" * 64

FULL: dict[str, Any] = {
    "image": "quay.io/org/app:1",
    "namespace": "quay.io",
    "repository": "quay.io/org/app",
    "upstream_repository": "org/app",
    "routed_by": "the name's first part",
    "endpoints": [
        {
            "url": "https://quay.io",
            "state": "ok",
            "retry_in": None,
            "failures": 0,
            "breakers": [
                {"host": "quay.io", "role": "registry", "state": "open", "retry_in": 3.0},
                {"host": "auth.quay.io", "role": "token server", "state": "closed", "retry_in": None},
                {"host": "cdn.quay.io", "role": "blobs", "state": "open", "retry_in": 12.3},
                {"host": "x.quay.io", "state": "half-open", "failures": 5},
            ],
            "quota": {"limit": 100, "remaining": 76, "window": 21600, "reset_in": 7800.0},
        },
        {"url": "https://second.example", "state": "half-open", "failures": 5, "breakers": [], "quota": None},
    ],
    "reference": {
        "tag": "1",
        "kept": True,
        "digest": D,
        "media_type": "application/vnd.oci.image.index.v1+json",
        "size": 1229,
        "checked_ago": 12.4,
        "fresh_for": 60.0,
        "fresh_left": 47.6,
        "stale_left": 2591940.0,
        "refused": None,
        "rule": "*:1",
    },
    "blobs": {
        "total": 4,
        "kept": 3,
        "bytes_total": 31_666_995,
        "bytes_kept": 28_416_410,
        "filling": [BLOB],
    },
    "platforms": [
        {"digest": CHILD, "platform": "linux/amd64", "kept": True, "blobs_kept": 3, "blobs": 4},
        {"digest": D, "platform": "linux/s390x/v1", "kept": False, "blobs_kept": None, "blobs": None},
        {"digest": BLOB, "platform": "", "kept": False},
    ],
    "history": [
        {"digest": D, "ago": 3600.0, "origin": "quay.io"},
        {"digest": None, "ago": 90000.0, "origin": ""},
    ],
    "keeping": {
        "used_ago": 7200.0,
        "seen_ago": 864000.0,
        "hits": 12,
        "pin": None,
        "ttl": 604800.0,
        "expires_in": 597600.0,
        "unused_longer": 120,
        "surveyed": True,
        "kept_bytes": 180 << 30,
        "maxsize": 200 << 30,
        "free": 5 << 30,
        "minfree": 1 << 30,
    },
    "next_pull": "nothing for another 47 s",
}

SAID = f"""\
image        quay.io/org/app:1
upstream     quay.io (the name's first part)
             repository org/app, kept as quay.io/org/app
tag          1: kept
             {D}
             application/vnd.oci.image.index.v1+json, 1.2 KiB
             checked 12 s ago, fresh for another 47 s (1 min by the rule *:1)
             when the upstream cannot be asked: usable for another 29 d 23 h
blobs        3 of 4 kept, 27.1 MiB of 30.2 MiB
             being fetched: {BLOB}
platforms    linux/amd64     kept      3 of 4 blobs    {CHILD}
             linux/s390x/v1  not kept                  {D}
             unknown         not kept                  {BLOB}
history      pointed to {D}, 1 h ago (quay.io)
             was not there any more, 1 d 1 h ago
stays        used 2 h ago, 12 times in 10 d
             goes in 6 d 22 h if nobody uses it (proxy.ttl is 7 d)
             when room is needed: 120 images were unused for longer, it goes after them
             180.0 GiB of 200.0 GiB are kept (cache.maxsize)
             5.0 GiB of the disk are free, at least 1.0 GiB are to be (cache.minfree)
endpoint 1   https://quay.io: asked as usual
             its blob storage cdn.quay.io: not asked for another 12 s: its last requests failed
             x.quay.io: tried again by the next request: its last 5 requests failed
             quota: 76 of 100 left per 6 h, anew in 2 h 10 min
endpoint 2   https://second.example: tried again by the next request: its last 5 requests failed
next pull    nothing for another 47 s"""


def test_all_that_is_known_stands_in_two_columns() -> None:
    assert "\n".join(lines(FULL)) == SAID


def one(part: str, **facts: Any) -> list[str]:
    """The lines of one part, without the labels' column."""
    return [line[13:] for line in lines({part: facts})]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"tag": "1"}, ["1: not kept"]),
        ({"digest": D, "kept": True}, [f"{D}: kept"]),
        ({"tag": "1", "kept": True, "size": 5}, ["1: kept", "5 bytes"]),
        ({"tag": "1", "checked_ago": None}, ["1: not kept", "never checked"]),
        (
            {"tag": "1", "kept": True, "checked_ago": None},
            ["1: kept", "never checked, as far as is known"],
        ),
        (
            {"tag": "1", "kept": True, "checked_ago": 90.0, "fresh_left": -30.0, "rule": "default"},
            ["1: kept", "checked 1 min 30 s ago, due for a check (by default)"],
        ),
        (
            {"tag": "1", "kept": True, "checked_ago": 0.2, "fresh_for": 0.0, "fresh_left": 0.0},
            ["1: kept", "checked just now, each pull checks"],
        ),
        (
            {"tag": "1", "checked_ago": 5.0, "fresh_for": 0.0, "fresh_left": 0.0, "rule": "*:latest"},
            ["1: not kept", "checked 5 s ago, each pull checks (rule *:latest)"],
        ),
        (
            {"tag": "1", "checked_ago": None, "fresh_for": 0.0, "fresh_left": 0.0, "rule": "default"},
            ["1: not kept", "never checked, each pull checks (by default)"],
        ),
        (
            {"tag": "1", "checked_ago": 1.0, "fresh_for": 0.5, "fresh_left": -0.5, "rule": "default"},
            ["1: not kept", "checked 1 s ago, due for a check (500 ms by default)"],
        ),
        (
            {"tag": "1", "checked_ago": 59.5, "fresh_for": 60.0, "fresh_left": 0.5, "stale_left": 0.5},
            [
                "1: not kept",
                "checked 59 s ago, fresh for a moment (1 min)",
                "when the upstream cannot be asked: usable for a moment",
            ],
        ),
        (
            {"tag": "1", "kept": True, "stale_left": 0.0},
            ["1: kept", "when the upstream cannot be asked: too old to be given"],
        ),
        (
            {"tag": "1", "refused": "quay.io does not have it"},
            ["1: not kept", "refused by the upstream: quay.io does not have it"],
        ),
        (
            {"tag": "1", "checked_ago": 2.0, "fresh_for": 60.0, "fresh_left": 8.0, "rule": "default"}
            | {"refused": "not there"},
            [
                "1: not kept",
                "checked 2 s ago: refused, asked again in 8 s",
                "refused by the upstream: not there",
            ],
        ),
        (
            {"tag": "1", "checked_ago": 9.8, "fresh_left": 0.2, "refused": "no"},
            [
                "1: not kept",
                "checked 9 s ago: refused, asked again in a moment",
                "refused by the upstream: no",
            ],
        ),
        (
            {"tag": "1", "checked_ago": 90.0, "fresh_for": 0.0, "fresh_left": 0.0, "refused": "no"},
            [
                "1: not kept",
                "checked 1 min 30 s ago: refused, asked again by the next pull",
                "refused by the upstream: no",
            ],
        ),
    ],
)
def test_a_reference_is_told_as_far_as_it_is_known(facts: dict[str, Any], expected: list[str]) -> None:
    assert one("reference", **facts) == expected


def test_a_tag_that_nobody_noted_was_found_in_the_storage() -> None:
    (line,) = lines({"history": [{"digest": D, "ago": 3600.0, "origin": notes.TREE}]})
    assert line.endswith(f"pointed to {D}, 1 h ago (found in the storage, not noted when it came)")


def failing(role: str = "registry", **facts: Any) -> dict[str, Any]:
    """A breaker that lets through, and whose last request failed."""
    return {"role": role, "state": "closed", "failed": {"ago": 2.5, "limit": 5, **facts}}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            {"failures": 3, "breakers": [failing(cause="connection refused")]},
            ["asked; its last request failed 2 s ago: connection refused (3 of 5 in a row)"],
        ),
        ({"breakers": [failing(ago=0.2)]}, ["asked; its last request failed just now"]),
        (
            {"behind_for": 40.0, "breakers": [failing(cause="answered 502")]},
            ["asked; its last request failed 2 s ago: answered 502; asked after the others for another 40 s"],
        ),
        (
            {"breakers": [failing("token server", cause="no such host") | {"host": "a.test:443"}]},
            [
                "asked as usual",
                "its token server a.test:443: asked; its last request failed 2 s ago: no such host",
            ],
        ),
        (
            {"state": "open", "retry_in": 3.0, "failures": 5, "breakers": [failing(cause="no such host")]},
            ["not asked for another 3 s: its last 5 requests failed (no such host)"],
        ),
    ],
)
def test_an_endpoint_whose_last_request_failed_is_not_asked_as_usual(
    facts: dict[str, Any], expected: list[str]
) -> None:
    said = [line[13:] for line in lines({"endpoints": [{"state": "ok", **facts}]})]
    assert said == expected


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"url": "https://a.test", "state": "ok"}, "https://a.test: asked as usual"),
        ({"url": "https://a.test"}, "https://a.test: unknown"),
        ({"state": "ok"}, "asked as usual"),
        (
            {"url": "https://a.test", "state": "open", "retry_in": 30, "failures": 5},
            "https://a.test: not asked for another 30 s: its last 5 requests failed",
        ),
        ({"state": "open"}, "not asked for now: its last requests failed"),
        (
            {"state": "limited", "retry_in": 61.0},
            "not asked for another 1 min 1 s: it limits the rate of our requests",
        ),
        (
            {"url": "https://a.test", "state": "open", "retry_in": 0.3, "failures": 5},
            "https://a.test: not asked for a moment: its last 5 requests failed",
        ),
        ({"state": "new word"}, "new word"),
    ],
)
def test_an_endpoints_state_is_what_it_means_for_the_next_request(
    facts: dict[str, Any], expected: str
) -> None:
    assert [line[13:] for line in lines({"endpoints": [facts]})] == [expected]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"state": "ok", "behind_for": 40.0}, "asked after the others for another 40 s: it failed"),
        ({"state": "ok", "behind_for": 0.4}, "asked after the others for a moment: it failed"),
        ({"state": "ok", "behind_for": 0.0}, "asked as usual"),
        (
            {"state": "open", "retry_in": 3.0, "failures": 5, "behind_for": 40.0},
            "not asked for another 3 s: its last 5 requests failed; asked after the others for another 40 s",
        ),
    ],
)
def test_an_endpoint_that_failed_comes_after_the_others_and_is_not_asked_as_usual(
    facts: dict[str, Any], expected: str
) -> None:
    said = [line[13:] for line in lines({"endpoints": [{"url": "https://a.test", **facts}]})]
    assert said == [f"https://a.test: {expected}"]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"namespace": "a.test", "login": "robot"}, "a.test, login: robot"),
        ({"namespace": "a.test", "routed_by": "?ns=a", "login": "none"}, "a.test (?ns=a), login: none"),
        ({"namespace": "a.test", "login": None}, "a.test"),
        ({"namespace": "a.test", "login": "a\nb"}, "a.test, login: a?b"),
    ],
)
def test_who_is_logged_in_stands_beside_the_upstream(facts: dict[str, Any], expected: str) -> None:
    assert [line[13:] for line in lines(facts)] == [expected]


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ({"remaining": 0}, ["quota: 0 left"]),
        ({"limit": 100, "remaining": 3, "reset_in": -1}, ["quota: 3 of 100 left"]),
        ({"limit": 100}, []),
        (None, []),
    ],
)
def test_a_quota_is_told_where_the_upstream_says_one(quota: object, expected: list[str]) -> None:
    said = [line[13:] for line in lines({"endpoints": [{"state": "ok", "quota": quota}]})]
    assert said == ["asked as usual", *expected]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.0001, "0 s"),
        (0.5, "500 ms"),
        (1, "1 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3600, "1 h"),
        (3659, "1 h"),
        (7800, "2 h 10 min"),
        (86400, "1 d"),
        (30 * 86400 - 1, "29 d 23 h"),
        (1e300, "11574074 d 1 h"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1229, "1.2 KiB"), (5 << 30, "5.0 GiB"), (3 << 40, "3.0 TiB")],
)
def test_sizes_are_in_powers_of_1024(count: float, text: str) -> None:
    assert data(count) == text


def test_what_upstreams_say_cannot_speak_to_the_terminal() -> None:
    said = one("reference", tag="1", refused="a\x1b[2Jb\nimage  forged" + "x" * 1000)[1]
    assert said.startswith("refused by the upstream: a?[2Jb?image  forged")
    assert len(said) == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(FULL)), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(FULL)), JSON), st.sampled_from(sorted(FULL)), JSON)
def test_whatever_is_there_or_not_is_told(facts: dict[str, Any], missing: str, instead: Any) -> None:
    """Another version's answer, or a part of one, never fails."""
    assert all(line.isprintable() for line in lines(facts))
    assert all(line.isprintable() for line in lines({**FULL, missing: instead}))
    for part in ("reference", "blobs"):
        assert all(
            line.isprintable() for line in lines({part: {**FULL[part], **dict.fromkeys(FULL[part], instead)}})
        )


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (
            {"used_ago": 0.1, "seen_ago": 5.0, "hits": 1, "pin": "library/*", "ttl": 60.0, "maxsize": 10},
            ["used just now, once in 5 s", "pinned by library/*: it stays"],
        ),
        (
            {"used_ago": 5.0, "seen_ago": 5.0, "hits": 0, "ttl": None},
            [
                "kept for 5 s, and not used",
                "proxy.ttl is 0: it does not go for its age",
                "there is no limit of size",
            ],
        ),
        (
            {"ttl": 60.0, "expires_in": 0.0, "maxsize": 1, "unused_longer": 0},
            [
                "goes now if nobody uses it (proxy.ttl is 1 min)",
                "when room is needed: no image was unused for longer, this one goes first",
            ],
        ),
        (
            {"ttl": 60.0, "expires_in": 9.0, "minfree": 1, "unused_longer": 1, "surveyed": False},
            [
                "goes in 9 s if nobody uses it (proxy.ttl is 1 min)",
                "nothing goes for room before all that is kept was looked at (survey.done)",
            ],
        ),
    ],
)
def test_how_long_it_stays(facts: dict[str, Any], expected: list[str]) -> None:
    assert one("keeping", **facts) == expected
