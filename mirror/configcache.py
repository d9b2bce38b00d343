"""The `cache` section: how much is kept, what is always kept, and how often it is read again.

What is kept for how long stands beside the registry's own keys: `proxy.ttl`. Times are in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final

from pydantic import AfterValidator, Field, PlainSerializer, PlainValidator

from mirror.configproxy import parse_match
from mirror.configsections import Section
from mirror.configvalues import (
    Integer,
    PathValue,
    Period,
    Size,
    SizeValue,
    at_most,
    between,
    format_bytes,
    parse_size,
    parse_text,
)

MAXSIZE_MIN: Final = 1 << 20  # bytes; less holds no image: it was meant with a unit
RATE_MIN: Final = 64 << 10  # bytes a second; at less, a disk's reads never come to an end
RATE_FORM: Final = "a size for each second such as 10MiB, of at least 64KiB"
SEGMENTED_MIN: Final = 64 << 10  # bytes; of less than that, requests cost more than they bring
SEGMENTED_FORM: Final = "a size such as 32MiB, of at least 64KiB"
CONNECTIONS_MAX: Final = 12  # for one blob; an upstream has 12 more than one for each, for all blobs together
REQUESTS_MIN: Final = 50  # a second; at less, who writes what is being deleted would wait for seconds
REQUESTS_MAX: Final = 10_000  # a second; more than any bucket takes of one program
PINS_MAX: Final = 256  # they are tried one after the other, for each candidate of an eviction


def parse_rate(value: object) -> int:
    """Bytes a second: `10MiB`, also `10MiB/s`."""
    try:
        size = parse_size(parse_text(value).strip().removesuffix("/s"))
    except ValueError:
        raise ValueError(RATE_FORM) from None
    if size.bytes < RATE_MIN:  # a share is of nothing here, and has no bytes
        raise ValueError(RATE_FORM)
    return size.bytes


def parse_segmented(value: object) -> int:
    """Bytes of a blob."""
    try:
        size = parse_size(value)
    except ValueError:
        raise ValueError(SEGMENTED_FORM) from None
    if size.bytes < SEGMENTED_MIN:
        raise ValueError(SEGMENTED_FORM)
    return size.bytes


def _limit(size: Size) -> Size | None:
    """0 is no limit."""
    return size if size.bytes or size.percent else None


def _large(size: Size | None) -> Size | None:
    if size is not None and not size.percent and size.bytes < MAXSIZE_MIN:
        raise ValueError(f"0 (no limit), or at least {format_bytes(MAXSIZE_MIN)}; without a unit it is bytes")
    return size


def _zero_or(least: int, most: int) -> Callable[[int], int]:
    def check(number: int) -> int:
        if number != 0 and not least <= number <= most:
            raise ValueError(f"0 (no limit), or an integer from {least} to {most}")
        return number

    return check


Rate = Annotated[int, PlainValidator(parse_rate), PlainSerializer(format_bytes)]
Limit = Annotated[SizeValue, AfterValidator(_limit)]


class Scrub(Section):
    """Kept blobs are read and compared with their digests: each once in `interval` seconds, 0: never;
    `rate` bytes a second."""

    interval: Period = 720 * 3600.0
    rate: Rate = 10 << 20


class Segments(Section):
    """A blob of `from` bytes or more may come over so many connections at once; 1: over one, as others do."""

    from_: Annotated[int, PlainValidator(parse_segmented), PlainSerializer(format_bytes)] = Field(
        default=32 << 20, alias="from"
    )
    connections: Annotated[Integer, AfterValidator(between(1, CONNECTIONS_MAX))] = 4


class Disk(Section):
    """`maxsize` bytes of what object storage keeps are kept in a local `folder` too; None: none are."""

    folder: PathValue | None = None
    maxsize: Annotated[Limit, AfterValidator(_large)] | None = None


class Cache(Section):
    """A limit that is None does not count. What fits a pattern of `pin` is evicted by no limit.

    `folder`: a local one for what is the mirror's own, where images are kept elsewhere. So many `requests` a
    second are sent there to look after them; 0: as many as are answered.
    """

    folder: PathValue | None = None
    maxsize: Annotated[Limit, AfterValidator(_large)] | None = None
    minfree: Limit | None = None
    pin: Annotated[
        tuple[Annotated[str, PlainValidator(parse_match)], ...], AfterValidator(at_most(PINS_MAX, "patterns"))
    ] = ()
    scrub: Scrub = Scrub()
    requests: Annotated[Integer, AfterValidator(_zero_or(REQUESTS_MIN, REQUESTS_MAX))] = 250
    segments: Segments = Segments()
    disk: Disk = Disk()
