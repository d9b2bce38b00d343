"""The values of the configuration: one parser for each kind, and how it is written back.

A parser takes the text that stands in the file or in the environment variable and returns the value, or
raises ValueError with a text that says what is allowed there ("a port from 0 to 65535"), never what was
given: the caller shows that, and knows whether it is a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sized
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, PlainSerializer, PlainValidator

_UNITS = {  # nanoseconds; the names are those of Go's time.ParseDuration
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,  # micro sign
    "\u03bcs": 10**3,  # Greek mu, which Go takes as well
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|\u03bcs|ms|s|m|h)")
_DURATION = re.compile(rf"[+-]?(?:0|(?:{_DURATION_PART.pattern})+)\Z")
_NANOSECONDS_MAX = 2**63 - 1  # Go's time.Duration is an int64
_INTEGER = re.compile(r"[+-]?(?:0x[0-9a-f]+|0b[01]+|0o[0-7]+|[0-9]+)\Z", re.IGNORECASE)
_OCTAL = frozenset("01234567")
_TRUE = frozenset({"true", "yes", "on", "y"})  # YAML 1.1, as the registry reads it
_FALSE = frozenset({"false", "no", "off", "n"})
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*(%|[a-z]*)\Z", re.IGNORECASE)
_SHARE = re.compile(r"(0(?=\Z)|[0-9]{1,3}(?:\.[0-9]{1,6})?(?=\s*%))\s*%?\Z")
_DEBUG_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+/?\Z")
_SIZE_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", 1)},
}

DURATION_FORM = "a duration such as 30s or 500ms (units: h, m, s, ms)"
SIZE_FORM = "a size such as 200GiB or 500MB, or a share of the disk such as 5%"
INSTEAD = ": "  # what a text begins with that does not say what is wanted, but what cannot be
EXAMPLE = 30.0  # seconds
PERIOD_MIN = 1.0  # seconds


_Many = TypeVar("_Many", bound=Sized)


@dataclass(frozen=True, slots=True)
class Size:
    """An amount of bytes, or a share of the disk in percent: the other one is 0."""

    bytes: int = 0
    percent: float = 0.0

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.percent else format_bytes(self.bytes)


def parse_text(value: object) -> str:
    """Any single value, as it was written."""
    if isinstance(value, str | int | float):
        return str(value)
    raise ValueError("a single value")


def parse_flag(value: object) -> bool:
    """true or false, and YAML 1.1's other words for them."""
    word = parse_text(value).lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("true or false")


def parse_integer(value: object) -> int:
    """An integer as YAML 1.1 writes it: 100, 1_000, 0x64, 0144 (octal)."""
    text = parse_text(value).replace("_", "")
    if len(text) > 20 or _INTEGER.match(text) is None:  # 20 characters hold any int64
        raise ValueError("an integer")
    digits = text.lstrip("+-")
    if (
        digits.isdigit() and digits[0] == "0"
    ):  # C's octal; with an 8 or 9 in it the registry takes it as decimal
        return int(text, 8 if set(digits) <= _OCTAL else 10)
    return int(text, 0)


def parse_duration(value: object) -> float:
    """Seconds, from Go's form (`1h30m`); an integer without a unit is nanoseconds, as in the registry."""
    text = parse_text(value)
    try:
        nanoseconds = Decimal(parse_integer(text))
    except ValueError:
        if len(text) > 100 or _DURATION.match(text) is None:  # no sensible duration is longer
            raise ValueError(DURATION_FORM) from None
        parts = _DURATION_PART.findall(text)
        nanoseconds = sum((Decimal(amount) * _UNITS[unit] for amount, unit in parts), Decimal(0))
        nanoseconds = -nanoseconds if text.startswith("-") else nanoseconds
    if abs(nanoseconds) > _NANOSECONDS_MAX:
        raise ValueError(f"{DURATION_FORM}, of less than 292 years")
    return float(nanoseconds) / 10**9


def format_duration(seconds: float) -> str:
    """Go's form, and short: 168h, 1h30m, 1.5s, 500ms, 30ns."""
    sign = "-" if seconds < 0 else ""
    nanoseconds = round(abs(seconds) * 10**9)
    for unit in ("ns", "us", "ms"):
        if 0 < nanoseconds < 1000 * _UNITS[unit]:
            return f"{sign}{nanoseconds / _UNITS[unit]:.6f}".rstrip("0").rstrip(".") + unit
    hours, nanoseconds = divmod(nanoseconds, _UNITS["h"])
    minutes, nanoseconds = divmod(nanoseconds, _UNITS["m"])
    whole, fraction = divmod(nanoseconds, _UNITS["s"])
    rest = f"{whole}.{fraction:09d}".rstrip("0").rstrip(".")
    text = (f"{hours}h" if hours else "") + (f"{minutes}m" if minutes else "")
    return sign + (text + (f"{rest}s" if rest != "0" else "") or "0s")


def parse_size(value: object) -> Size:
    """Bytes (KiB, MiB, GiB, TiB, PiB by 1024; KB, MB, GB, TB, PB by 1000; none: bytes) or percent."""
    match = _SIZE.match(parse_text(value).strip())
    unit = match.group(2).lower() if match else "?"
    if match is None or (unit != "%" and unit not in _SIZE_UNITS):
        raise ValueError(SIZE_FORM)
    amount = Decimal(match.group(1))
    if unit == "%":
        if not 0 <= amount < 100:
            raise ValueError("a share between 0% and 100%")
        return Size(percent=float(amount))
    return Size(bytes=int(amount * _SIZE_UNITS[unit]))


def format_bytes(count: int) -> str:
    """In the largest unit that leaves nothing over, so that it is read as the same: 10MiB, 1536KiB, 1000."""
    for power, letter in reversed(list(enumerate("KMGTP", 1))):
        whole, rest = divmod(count, 1024**power)
        if whole and not rest:
            return f"{whole}{letter}iB"
    return str(count)


def parse_share(value: object) -> float:
    """`10%` -> 0.1; `0` is none."""
    text = parse_text(value).strip()
    match = _SHARE.match(text)
    if match is None or Decimal(match.group(1)) > 100:
        raise ValueError("a share from 0% to 100%, such as 10%")
    return float(Decimal(match.group(1)) / 100)


def parse_level(value: object) -> str:
    """error, warn, info or debug, in any case of letters."""
    return one_of("error", "warn", "info", "debug")(parse_text(value).lower())


def parse_path(value: object) -> Path:
    """A path of a file or folder; relative ones count from the working directory."""
    text = parse_text(value)
    if not text or "\0" in text:
        raise ValueError("a path")
    return Path(text)


def debug_path(value: object) -> str:
    """A path of the debug server, `/metrics`."""
    text = parse_text(value)
    if _DEBUG_PATH.match(text) is None:
        raise ValueError("a path such as /metrics, of letters, digits and . _ ~ - only")
    return text


def one_of(*words: str) -> Callable[[object], str]:
    """A parser of one of these words."""

    def parse(value: object) -> str:
        text = parse_text(value)
        if text not in words:
            raise ValueError("one of " + ", ".join(word or '""' for word in words))
        return text

    return parse


def within(low: float, high: float) -> Callable[[float], float]:
    """A check that a duration is from `low` to `high` seconds."""
    example = format_duration(EXAMPLE if low <= EXAMPLE <= high else min(max(1.0, low), high))

    def check(seconds: float) -> float:
        if not low <= seconds <= high:
            bounds = f"from {format_duration(low)} to {format_duration(high)}"
            raise ValueError(f"a duration {bounds}, such as {example}")
        return seconds

    return check


def never_or(low: float) -> Callable[[float], float]:
    """A check that a duration is `low` seconds or more; 0 and less is 0, for never (as registry:3's ttl)."""

    def check(seconds: float) -> float:
        if 0 < seconds < low:
            raise ValueError(f"0 (never), or a duration of at least {format_duration(low)}, such as 168h")
        return max(seconds, 0.0)

    return check


def positive_or(default: float) -> Callable[[float], float]:
    """0 and less are `default`, as the registry takes them."""
    return lambda seconds: seconds if seconds > 0 else default


def between(low: int, high: int) -> Callable[[int], int]:
    """A check that an integer is from `low` to `high`."""

    def check(number: int) -> int:
        if not low <= number <= high:
            raise ValueError(f"an integer from {low} to {high}")
        return number

    return check


def bytes_within(low: int, high: int) -> Callable[[Size], Size]:
    """A check for AfterValidator: an amount between two, no share."""

    def check(size: Size) -> Size:
        if size.percent or not low <= size.bytes <= high:
            raise ValueError(f"an amount between {format_bytes(low)} and {format_bytes(high)}")
        return size

    return check


def at_most(count: int, what: str) -> Callable[[_Many], _Many]:
    """A check that there are no more than `count` of them."""

    def check(given: _Many) -> _Many:
        if len(given) > count:
            raise ValueError(f"at most {count} {what}; here are {len(given)}")
        return given

    return check


Text = Annotated[str, PlainValidator(parse_text)]
Flag = Annotated[bool, PlainValidator(parse_flag)]
Integer = Annotated[int, PlainValidator(parse_integer)]
Count = Annotated[Integer, AfterValidator(between(0, 2**31 - 1))]
Duration = Annotated[float, PlainValidator(parse_duration), PlainSerializer(format_duration)]
# NB: a number without a unit is in nanoseconds, and `ttl: 168` would delete everything at once.
Period = Annotated[Duration, AfterValidator(never_or(PERIOD_MIN))]
SizeValue = Annotated[Size, PlainValidator(parse_size), PlainSerializer(str)]
Share = Annotated[
    float, PlainValidator(parse_share), PlainSerializer(lambda share: f"{round(share * 100, 6):g}%")
]
PathValue = Annotated[Path, PlainValidator(parse_path), PlainSerializer(str)]
Level = Annotated[str, PlainValidator(parse_level)]
