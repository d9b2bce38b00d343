"""What long operations say: items, progress, and the sentence at the end."""

from __future__ import annotations

from typing import Any

import pytest

from mirror.commandstext import about, failed, item, progress, summary

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"event": "found", "kind": "blob", "name": DIGEST}, f"blob eligible for deletion: {DIGEST}"),
        (
            {"event": "found", "kind": "manifest", "name": DIGEST, "size": 0},
            f"manifest eligible for deletion: {DIGEST}",
        ),
        (
            {"event": "removed", "kind": "blob", "name": DIGEST, "size": 3 << 20},
            f"blob deleted (3.0 MiB): {DIGEST}",
        ),
        ({"event": "removed", "kind": "tag", "name": "a/b:1"}, "tag deleted: a/b:1"),
        (
            {"event": "bad", "kind": "blob", "name": DIGEST, "size": 5},
            f"blob does not match its digest (5 bytes): {DIGEST}",
        ),
        (
            {"event": "bad", "kind": "blob", "name": DIGEST, "size": 5, "unreadable": True},
            f"blob cannot be read (5 bytes): {DIGEST}",
        ),
        ({"event": "removed", "kind": "tag", "name": "a\x1b[2J"}, "tag deleted: a?[2J"),
        ({"event": "removed"}, "item deleted: without a name"),
        ({"event": "progress", "what": "a"}, ""),
        ({"event": "heartbeat"}, ""),
        ({}, ""),
    ],
)
def test_an_item_is_a_line_with_its_name_at_the_end(event: dict[str, Any], line: str) -> None:
    assert item(event) == line


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"repositories": ["a", "b"], "more": 0, "moved_to": "/q/x"}, "  of a, b; now in /q/x"),
        ({"repositories": ["a"], "more": 3, "moved_to": "/q/x"}, "  of a and 3 more; now in /q/x"),
        ({"repositories": [], "more": 0, "moved_to": None}, "  now deleted"),
        ({"repositories": ["a"], "stays": True}, "  of a; it could be neither moved nor deleted"),
        ({"repositories": "a", "more": "b", "moved_to": "/\x1b"}, "  now in /?"),
    ],
)
def test_of_what_is_bad_it_is_said_whose_it_is_and_where(event: dict[str, Any], line: str) -> None:
    assert about({"event": "bad", **event}) == line
    assert about({"event": "removed", **event}) == ""


@pytest.mark.parametrize(
    ("event", "line"),
    [
        ({"what": "reading manifests", "done": 12, "total": 300}, "reading manifests: 12 of 300 (4%)"),
        ({"what": "reading blobs", "done": 12, "total": None}, "reading blobs: 12"),
        ({"what": "reading blobs", "done": 12, "total": 0}, "reading blobs: 12"),
        (
            {"what": "reading", "done": 1 << 30, "total": 3 << 30, "unit": "bytes"},
            "reading: 1.0 GiB of 3.0 GiB (33%)",
        ),
        ({"what": "reading", "done": 5, "total": 4}, "reading: 5 of 4 (100%)"),
        ({"what": "waiting for the mirror's own pass"}, "waiting for the mirror's own pass"),
        ({"done": float("nan")}, "working"),
        ({}, "working"),
    ],
)
def test_progress_says_how_far_it_is(event: dict[str, Any], line: str) -> None:
    assert progress(event) == line


DRY = {"dry_run": "true", "delete_untagged": "false"}
REAL = {"dry_run": "false", "delete_untagged": "false"}
WHAT = {"what": "quay.io/a:1"}


@pytest.mark.parametrize(
    ("operation", "options", "items", "numbers", "line", "is_failed"),
    [
        ("garbage-collect", REAL, {"blob": 1}, {"bytes": 5}, "1 blob deleted, 5 bytes freed", False),
        (
            "garbage-collect",
            REAL,
            {"empty folder": 2, "tag without revision": 2, "layer link": 1, "blob": 12},
            {"seen": 900, "removed": 17, "bytes": 3 << 30, "dry_run": False},
            "2 empty folders, 2 tags without revision, 1 layer link and 12 blobs deleted, 3.0 GiB freed",
            False,
        ),
        ("garbage-collect", REAL, {}, {"removed": 0, "bytes": 0}, "nothing to collect", False),
        ("garbage-collect", REAL, {}, {}, "nothing to collect", False),
        (
            "garbage-collect",
            DRY,
            {"blob": 2, "broken link": 1},
            {"bytes": 5000},
            "2 blobs and 1 broken link, 4.9 KiB, eligible for deletion; nothing was changed",
            False,
        ),
        ("garbage-collect", DRY, {}, {}, "nothing is eligible for deletion; nothing was changed", False),
        (
            "garbage-collect",
            {},
            {"blob": 2},
            {"bytes": 1024, "failed": 1},
            "2 blobs deleted, 1.0 KiB freed; 1 item could not be deleted: see the log",
            True,
        ),
        (
            "garbage-collect",
            {},
            {},
            {"failed": 2},
            "nothing was deleted; 2 items could not be deleted: see the log",
            True,
        ),
        (
            "garbage-collect",
            {},
            {},
            {"unreadable": 1},
            (
                "nothing to collect; 1 repository was left alone, with what cannot be read: see the log, "
                "and `mirror verify`"
            ),
            True,
        ),
        (
            "verify",
            {},
            {},
            {"checked": 1200, "bytes": 31 << 30, "bad": 0},
            "1200 blobs read, 31.0 GiB: all match their digests",
            False,
        ),
        (
            "verify",
            {},
            {},
            {"checked": 1, "bytes": 5, "bad": 1},
            (
                "1 blob read, 5 bytes: 1 does not match its digest: it was set aside, "
                "and it is fetched again when asked for"
            ),
            True,
        ),
        (
            "verify",
            {},
            {},
            {"checked": 9, "bytes": 5, "bad": 2},
            (
                "9 blobs read, 5 bytes: 2 do not match their digests: they were set aside, "
                "and they are fetched again when asked for"
            ),
            True,
        ),
        (
            "verify",
            {},
            {},
            {"checked": 9, "bytes": 5, "bad": 0, "links": 12, "broken": 0, "nowhere": 0},
            "9 blobs read, 5 bytes: all match their digests; 12 links read",
            False,
        ),
        (
            "verify",
            {},
            {},
            {"checked": 9, "bytes": 5, "bad": 0, "links": 12, "broken": 1, "nowhere": 2},
            (
                "9 blobs read, 5 bytes: all match their digests; 12 links read: 1 was broken, and deleted; "
                "2 lead to nothing that is kept, and go with a later collection"
            ),
            True,
        ),
        (
            "purge",
            WHAT,
            {"image": 2},
            {"images": 2, "blobs": 3, "bytes": 1024},
            "quay.io/a:1: 2 images and 3 blobs deleted, 1.0 KiB freed",
            False,
        ),
        (
            "purge",
            WHAT,
            {"tag": 1},
            {"images": 0, "bytes": 0},
            "quay.io/a:1: 1 tag deleted, 0 bytes freed",
            False,
        ),
        ("purge", WHAT, {}, {"images": 0, "bytes": 0}, "quay.io/a:1: nothing of it is kept", True),
        ("purge", WHAT, {}, {"images": 0, "absent": "no tag 1"}, "quay.io/a:1: no tag 1", True),
    ],
)
def test_a_summary_is_a_sentence(
    operation: str,
    options: dict[str, str],
    items: dict[str, int],
    numbers: dict[str, Any],
    line: str,
    is_failed: bool,
) -> None:
    event = {"event": "summary", **numbers}
    assert summary(operation, options, event, items) == line
    assert failed(operation, event, items) == is_failed
