"""Range and Content-Range: Go's table, the RFC's differences, and a naive model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.oci.ranges import (
    MAX_RANGES,
    ByteRange,
    ContentRange,
    ContentRangeError,
    Unsatisfiable,
    parse_range,
)
from tests.oci.strategies import bounded, texts

MALFORMED = "invalid range"
OUTSIDE = "invalid range: failed to overlap"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("bytes=0-0", [(0, 1)]),
        ("bytes=0-", [(0, 100)]),
        ("bytes=99-", [(99, 100)]),
        ("bytes=0-99", [(0, 100)]),
        ("bytes=10-1000", [(10, 100)]),
        ("bytes=-5", [(95, 100)]),
        ("bytes=-100", [(0, 100)]),
        ("bytes=-200", [(0, 100)]),
        ("bytes=1-2,5-6", [(1, 3), (5, 7)]),
        ("bytes=5-6,1-2", [(5, 7), (1, 3)]),
        ("bytes= 1 - 2 ,\t5-6,", [(1, 3), (5, 7)]),
        ("bytes=0-0,0-0", [(0, 1), (0, 1)]),
        ("bytes=1-2,200-", [(1, 3)]),
        ("bytes=1-2,-0", [(1, 3)]),
        ("bytes=0-60,40-99", None),  # more bytes than there are
        ("bytes=", None),
        ("bytes=,", None),
        # From here on not as in Go.
        ("BYTES=0-1", [(0, 2)]),
        ("bytes=0-99999999999999999999999", [(0, 100)]),
        ("bytes=0-" + "9" * 5000, [(0, 100)]),
        ("bytes=" + "0" * 5000 + "7-", [(7, 100)]),
        ("bytes=-" + "9" * 5000, [(0, 100)]),
        ("items=0-1", None),
        ("bytes =0-1", None),
        ("foo", None),
    ],
)
def test_ranges_are_cut_to_the_content(header: str | None, expected: list[tuple[int, int]] | None) -> None:
    """Of a content of 100 bytes."""
    ranges = None if expected is None else tuple(ByteRange(start, stop) for start, stop in expected)
    assert parse_range(header, 100) == ranges


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("bytes=x", MALFORMED),
        ("bytes=1", MALFORMED),
        ("bytes=-", MALFORMED),
        ("bytes= - ", MALFORMED),
        ("bytes=--1", MALFORMED),
        ("bytes=5-4", MALFORMED),
        ("bytes=1-2-3", MALFORMED),
        ("bytes=1-2,x", MALFORMED),
        ("bytes=+1-2", MALFORMED),
        ("bytes=\u0661-\u0662", MALFORMED),
        ("bytes=1-2\n", MALFORMED),
        ("bytes=200-100", MALFORMED),
        ("bytes=100-", OUTSIDE),
        ("bytes=100-200", OUTSIDE),
        ("bytes=99999999999999999999-", OUTSIDE),
        ("bytes=200-,300-", OUTSIDE),
        ("bytes=-0", OUTSIDE),
    ],
)
def test_a_range_that_cannot_be_served_says_why(header: str, text: str) -> None:
    """416 with Go's text."""
    with pytest.raises(Unsatisfiable) as caught:
        parse_range(header, 100)
    assert str(caught.value) == text


def test_an_empty_content_is_served_whole() -> None:
    """As in Go: some clients ask for a range always. What is malformed stays so."""
    for header in ("bytes=0-", "bytes=-5", "bytes=0-0,7-"):
        assert parse_range(header, 0) is None
    with pytest.raises(Unsatisfiable):
        parse_range("bytes=x", 0)


def test_too_many_ranges_are_ignored() -> None:
    """One more than the bound, and the content is served whole."""
    ranges = ["0-0"] * MAX_RANGES
    found = parse_range("bytes=" + ",".join(ranges), MAX_RANGES)
    assert found is not None
    assert len(found) == MAX_RANGES
    assert parse_range("bytes=" + ",".join([*ranges, "0-0"]), 10**9) is None


specs = st.lists(
    st.tuples(st.none() | st.integers(0, 30), st.none() | st.integers(0, 30)).filter(
        lambda pair: pair != (None, None)
    ),
    min_size=1,
    max_size=5,
)


@bounded
@given(specs, st.integers(0, 25))
def test_ranges_equal_a_naive_model(spec: list[tuple[int | None, int | None]], size: int) -> None:
    """The model filters the list of all positions, one by one."""
    header = "bytes=" + ",".join(
        f"{'' if first is None else first}-{'' if last is None else last}" for first, last in spec
    )
    content = range(size)
    wanted: list[list[int]] = []
    malformed = False
    for first, last in spec:
        if first is None:
            wanted.append([at for at in content if size - at <= (last or 0)])
        else:
            malformed |= last is not None and last < first
            wanted.append([at for at in content if first <= at and (last is None or at <= last)])
    wanted = [positions for positions in wanted if positions]
    if malformed or (size and not wanted):
        with pytest.raises(Unsatisfiable):
            parse_range(header, size)
    elif not size or sum(map(len, wanted)) > size:
        assert parse_range(header, size) is None
    else:
        found = parse_range(header, size)
        assert found is not None
        assert [list(content[one.start : one.stop]) for one in found] == wanted
        assert [one.length for one in found] == [len(positions) for positions in wanted]


@bounded
@given(texts | st.text("0123456789-, \t", max_size=40), st.booleans(), st.integers(0, 2**63 - 1))
def test_any_header_gives_ranges_inside_the_content(text: str, prefixed: bool, size: int) -> None:
    """Whatever is sent, no range is empty or reaches outside."""
    try:
        found = parse_range("bytes=" + text if prefixed else text, size)
    except Unsatisfiable:
        return
    for one in found or ():
        assert 0 <= one.start < one.stop <= size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-99/1000", ContentRange(0, 100, 1000)),
        ("bytes 0-0/1", ContentRange(0, 1, 1)),
        ("bytes 5-9/*", ContentRange(5, 10, None)),
        (" Bytes  5-9/10 ", ContentRange(5, 10, 10)),
        ("bytes 0-9223372036854775806/9223372036854775807", ContentRange(0, 2**63 - 1, 2**63 - 1)),
    ],
)
def test_a_content_range_is_read(text: str, expected: ContentRange) -> None:
    """With the size, or without it."""
    assert ContentRange.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "bytes", "bytes */100", "bytes 0-9", "bytes 0-9/", "bytes 9-0/10", "bytes 0-10/10", "bytes 0-0/0",
        "bytes=0-9/10", "items 0-9/10", "bytes -9/10", "bytes 0-/10", "bytes 0-9/10,", "bytes 0-9/10\n",
        "bytes 0-9/1e3", "bytes +0-9/10", "bytes \u0660-9/10", "bytes 0-9223372036854775807/*",
        "bytes 0-9/99999999999999999999", "bytes 0-" + "9" * 5000 + "/*",
    ],
)  # fmt: skip
def test_a_content_range_that_does_not_fit_is_refused(text: str) -> None:
    """An upstream's answer is not believed half."""
    with pytest.raises(ContentRangeError):
        ContentRange.parse(text)


@bounded
@given(st.integers(0, 2**62), st.integers(1, 2**61), st.none() | st.integers(0, 2**61))
def test_a_content_range_survives_being_written(start: int, length: int, more: int | None) -> None:
    """str() and parse() are each other's inverse."""
    written = ContentRange(start, start + length, None if more is None else start + length + more)
    assert ContentRange.parse(str(written)) == written
