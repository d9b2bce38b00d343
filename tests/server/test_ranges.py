"""Ranges over the wire, compared with slices of the content."""

from __future__ import annotations

import random
import re

import pytest

from mirror.oci.digest import Digest
from tests.server.memory import MemoryRegistry
from tests.server.raw import Answer, ask, serving

CONTENT = bytes(random.Random(7).randbytes(300_007))
SIZE = len(CONTENT)
DIGEST = Digest.of(CONTENT)
TARGET = f"/v2/library/x/blobs/{DIGEST}"
WHOLE = "whole"
REFUSED = "refused"

Expected = str | list[tuple[int, int]]

TABLE: list[tuple[str, Expected]] = [
    ("bytes=0-0", [(0, 1)]),
    ("bytes=5-", [(5, SIZE)]),
    ("bytes=-5", [(SIZE - 5, SIZE)]),
    (f"bytes=-{SIZE * 2}", [(0, SIZE)]),
    (f"bytes=10-{SIZE * 9}", [(10, SIZE)]),
    (f"bytes={SIZE - 1}-", [(SIZE - 1, SIZE)]),
    ("bytes=0-1,5-9", [(0, 2), (5, 10)]),
    ("bytes= 5-9 , 0-1 ,-3", [(5, 10), (0, 2), (SIZE - 3, SIZE)]),
    (f"bytes=0-1,{SIZE}-", [(0, 2)]),
    (f"bytes={SIZE}-", REFUSED),
    ("bytes=-0", REFUSED),
    ("bytes=9-2", REFUSED),
    ("bytes=x", REFUSED),
    ("bytes=1-2-3", REFUSED),
    ("bytes=0-,0-", WHOLE),  # more than there is
    ("items=0-1", WHOLE),
    ("0-1", WHOLE),
    ("bytes=" + "0-0," * 2000, WHOLE),
]


def test_the_model_is_not_the_code_under_test() -> None:
    """Expected slices are within the content and never empty."""
    assert all(0 <= a < b <= SIZE for _, e in TABLE if isinstance(e, list) for a, b in e)


@pytest.mark.parametrize("file", [True, False], ids=["file", "memory"])
@pytest.mark.parametrize(("header", "expected"), TABLE, ids=[header[:30] for header, _ in TABLE])
async def test_a_range_is_answered_as_go_does(
    header: str, expected: Expected, file: bool, registry: MemoryRegistry
) -> None:
    """206 with the right bytes, 416 with the size, or all of it."""
    blob = registry.add_blob(CONTENT, file=file)
    async with serving(registry) as port:
        answer = await ask(port, TARGET, headers={"Range": header})
    _check(answer, expected)
    assert [call.split()[0] for call in registry.calls] == ["blob"]
    assert blob.closed == 1


def _check(answer: Answer, expected: Expected) -> None:
    if expected == REFUSED:
        assert answer.status == 416
        assert answer.body.startswith(b"invalid range")
        assert answer.body.endswith(b"\n")
        assert answer.one("Content-Range") == f"bytes */{SIZE}"
        assert answer.one("ETag") is None
        assert answer.one("Content-Type") == "text/plain; charset=utf-8"
        return
    assert answer.one("ETag") == f'"{DIGEST}"'
    assert answer.one("Accept-Ranges") == "bytes"
    if expected == WHOLE:
        assert (answer.status, answer.body) == (200, CONTENT)
        assert answer.one("Content-Range") is None
        return
    assert answer.status == 206
    assert not isinstance(expected, str)
    if len(expected) == 1:
        start, stop = expected[0]
        assert answer.one("Content-Range") == f"bytes {start}-{stop - 1}/{SIZE}"
        assert answer.body == CONTENT[start:stop]
    else:
        assert _multipart(answer) == [(f"bytes {a}-{b - 1}/{SIZE}", CONTENT[a:b]) for a, b in expected]


def _multipart(answer: Answer) -> list[tuple[str, bytes]]:
    """The parts of a multipart/byteranges body as (Content-Range, bytes)."""
    found = re.fullmatch(r"multipart/byteranges; boundary=([0-9a-f]+)", answer.one("Content-Type") or "")
    assert found is not None
    boundary = found[1].encode()
    assert answer.one("Content-Range") is None
    assert answer.body.endswith(b"\r\n--" + boundary + b"--\r\n")
    parts = []
    for piece in (b"\r\n" + answer.body).split(b"\r\n--" + boundary)[1:-1]:
        head, _, body = piece.partition(b"\r\n\r\n")
        lines = dict(line.split(": ", 1) for line in head.decode().strip().split("\r\n"))
        assert lines["Content-Type"] == "application/octet-stream"
        parts.append((lines["Content-Range"], body))
    return parts


async def test_random_ranges_equal_slices(registry: MemoryRegistry) -> None:
    """First, last, suffix and open-ended ranges, one to three at once."""
    registry.add_blob(CONTENT, file=True)
    chance = random.Random(11)
    async with serving(registry) as port:
        for _ in range(60):
            texts, slices = [], []
            for _ in range(chance.randint(1, 3)):
                start, length = chance.randrange(SIZE * 5 // 4), chance.randrange(SIZE // 4) + 1
                text, (a, b, _) = chance.choice(
                    [
                        (f"{start}-{start + length - 1}", slice(start, start + length).indices(SIZE)),
                        (f"-{length}", slice(-length, None).indices(SIZE)),
                        (f"{SIZE - length}-", slice(SIZE - length, None).indices(SIZE)),
                    ]
                )
                texts.append(text)
                slices += [(a, b)] if a < b else []
            answer = await ask(port, TARGET, headers={"Range": "bytes=" + ",".join(texts)})
            _check(answer, slices or REFUSED)


@pytest.mark.parametrize(
    ("condition", "status"),
    [(f'"{DIGEST}"', 206), (f'W/"{DIGEST}"', 200), ('"other"', 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)],
)
async def test_if_range_decides_whether_the_range_counts(
    condition: str, status: int, registry: MemoryRegistry
) -> None:
    """Only the strong entity tag does."""
    registry.add_blob(CONTENT)
    async with serving(registry) as port:
        answer = await ask(port, TARGET, headers={"Range": "bytes=0-9", "If-Range": condition})
    assert (answer.status, len(answer.body)) == (status, 10 if status == 206 else SIZE)


@pytest.mark.parametrize(
    ("header", "first"),
    [
        ("bytes=900-999", 900),
        ("bytes=900-", 900),
        ("bytes=-5", 0),
        ("bytes=900-999,500-599", 0),
        ("bytes=nonsense", 0),
        (f"bytes={SIZE}-", SIZE),
    ],
)
async def test_one_range_asks_the_registry_for_no_earlier_byte(
    header: str, first: int, registry: MemoryRegistry
) -> None:
    """In one call: a registry over a network is not asked for the size before."""
    registry.add_blob(CONTENT)
    async with serving(registry) as port:
        await ask(port, TARGET, headers={"Range": header})
        await ask(port, TARGET, headers={"Range": header, "If-Range": '"other"'})
    assert registry.calls == [f"blob library/x {first} None", "blob library/x 0 None"]


async def test_an_empty_blob_is_answered_whole(registry: MemoryRegistry) -> None:
    """A range of nothing is nothing."""
    registry.add_blob(b"", file=True)
    target = f"/v2/library/x/blobs/{Digest.of(b'')}"
    async with serving(registry) as port:
        answer = await ask(port, target, headers={"Range": "bytes=0-"})
    assert (answer.status, answer.body, answer.one("Content-Length")) == (200, b"", "0")
