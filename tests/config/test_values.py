"""Each kind of value: what is taken, what is refused and with which words."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.confighosts import (
    Address,
    parse_address,
    parse_prefix,
    parse_realm_host,
    parse_remoteurl,
    parse_url,
)
from mirror.configvalues import (
    Size,
    format_duration,
    parse_duration,
    parse_flag,
    parse_integer,
    parse_level,
    parse_path,
    parse_size,
    parse_text,
)

HOUR = 3600.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("30s", 30.0),
        ("1h30m", 1.5 * HOUR),
        ("168h", 168 * HOUR),
        ("1.5h", 1.5 * HOUR),
        (".5s", 0.5),
        ("1.s", 1.0),
        ("100ms", 0.1),
        ("5us", 5e-6),
        ("5µs", 5e-6),
        ("5\u03bcs", 5e-6),
        ("7ns", 7e-9),
        ("-1m", -60.0),
        ("+1m", 60.0),
        ("1m1m", 120.0),
        ("1000000000", 1.0),  # a bare integer: nanoseconds
        ("-1", -1e-9),
        ("1_000_000_000", 1.0),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "1 s", "1d", "1h 30m", "1.5", "h1", "1e3s", "--1s", "1s\n", "²s", "1h" * 60]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"a duration such as 30s or 500ms"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["2562048h", "9223372036854775808", "-2562048h"])
def test_a_duration_beyond_gos_64_bits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="292 years"):
        parse_duration(text)


@given(st.integers(min_value=-(2**50), max_value=2**50))
def test_a_duration_that_is_written_reads_as_the_same(nanoseconds: int) -> None:
    """2**50 ns are 13 days: up to there a float of seconds holds every nanosecond."""
    seconds = nanoseconds / 10**9
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59))
def test_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int) -> None:
    assert parse_duration(f"{hours}h{minutes}m{seconds}s") == hours * HOUR + minutes * 60 + seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (30.0, "30s"),
        (5400.0, "1h30m"),
        (604800.0, "168h"),
        (0.5, "500ms"),
        (-0.0015, "-1.5ms"),
        (30e-9, "30ns"),
        (1.5e-6, "1.5us"),
        (0.999999999, "999.999999ms"),
        (3600.5, "1h0.5s"),
        (-60.0, "-1m"),
        (61.25, "1m1.25s"),
    ],
)
def test_durations_are_written_short(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", Size(0)),
        ("200GiB", Size(200 << 30)),
        ("200 gib", Size(200 << 30)),
        ("1.5MiB", Size(3 << 19)),
        ("1GB", Size(10**9)),
        ("512", Size(512)),
        ("512B", Size(512)),
        ("2TiB", Size(2 << 40)),
        ("5%", Size(percent=5.0)),
        ("0.5 %", Size(percent=0.5)),
        ("0%", Size()),
    ],
)
def test_sizes_are_read(text: str, size: Size) -> None:
    assert parse_size(text) == size
    assert parse_size(str(size)) == size


@pytest.mark.parametrize("text", ["", "G", "200G", "-1GiB", "1XiB", "100%", "5%%", "1e9", "9" * 19])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Also `200G`, which is one thing to docker and another one to du."""
    with pytest.raises(ValueError, match=r"a size such as|a share between"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":5000", Address("", 5000)),
        ("127.0.0.1:5000", Address("127.0.0.1", 5000)),
        ("[::1]:5000", Address("::1", 5000)),
        ("[::]:0", Address("::", 0)),
        ("localhost:5000", Address("localhost", 5000)),
        ("registry_1.local:65535", Address("registry_1.local", 65535)),
    ],
)
def test_addresses_are_read_and_written(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "5000",
        ":",
        ":65536",
        ":http",
        "::1:5000",
        "[::1]",
        "[]:1",
        "[127.0.0.1]:1",
        "http://a:1",
        ":-1",
        ":+1",
        ":²",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape("HOST:PORT, such as :5000")):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://registry-1.docker.io", "https://registry-1.docker.io"),
        ("https://registry-1.docker.io/", "https://registry-1.docker.io"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("https://host/team/a.b/", "https://host/team/a.b"),
        ("https://host/v2/team", "https://host/v2/team"),
        ("https://host/team-v2", "https://host/team-v2"),
    ],
)
def test_an_upstreams_url_is_taken_without_its_last_slash(text: str, url: str) -> None:
    assert parse_remoteurl(text) == url


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("registry-1.docker.io", "write https://registry-1.docker.io"),
        ("localhost:5000/team", "write https://localhost:5000/team"),
        ("https://u:p@host", "give those in username and password beside it"),
        ("https://u@host", "give those in username and password beside it"),
        ("https://host/?x=1", "without ?query and #fragment"),
        ("https://host/?", "without ?query and #fragment"),
        ("https://host/#a", "without ?query and #fragment"),
        ("https://host/v2/", "without the API's own path: write https://host"),
        ("https://host:5000/team/v2", "without the API's own path: write https://host:5000/team"),
        ("https://host/a b", "an http or https URL with a host"),
        ("https://host/a%2fb", "whose path is of letters"),
        ("https://host//a", "whose path is of letters"),
        ("ftp://host", "an http or https URL with a host"),
        ("https://", "an http or https URL with a host"),
        ("https://host:99999", "an http or https URL with a host"),
        ("https://host:x", "an http or https URL with a host"),
        ("https://ho\nst", "an http or https URL with a host"),
        ("https://höst", "an http or https URL with a host"),
        ("https://[::1", "an http or https URL with a host"),
        ("://", "an http or https URL with a host"),
    ],
)
def test_an_upstreams_url_that_cannot_work_is_refused(text: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=re.escape(allowed)):
        parse_remoteurl(text)


@given(st.text(max_size=60))
def test_no_text_makes_a_parser_fail_otherwise_than_by_valueerror(text: str) -> None:
    parsers = (parse_address, parse_duration, parse_flag, parse_integer, parse_path, parse_prefix)
    for parse in (*parsers, parse_realm_host, parse_remoteurl, parse_size, parse_url, parse_level):
        with contextlib.suppress(ValueError):
            parse(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("100", 100),
        ("-3", -3),
        ("0", 0),
        ("00", 0),
        ("1_000", 1000),
        ("0x10", 16),
        ("0b11", 3),
        ("010", 8),
        ("08", 8),
        ("-0x10", -16),
        ("019", 19),
        ("0o10", 8),
    ],
)
def test_integers_are_read_as_yaml_1_1_has_them(text: str, number: int) -> None:
    assert parse_integer(text) == number


@pytest.mark.parametrize("text", ["", "1.0", "1e3", "x", "٣", "9" * 21, "0x"])
def test_what_is_no_integer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="an integer"):
        parse_integer(text)


def test_flags_are_yamls_words_in_any_case() -> None:
    assert [parse_flag(word) for word in ("true", "Yes", "ON", "y")] == [True] * 4
    assert [parse_flag(word) for word in ("false", "No", "OFF", "n")] == [False] * 4
    with pytest.raises(ValueError, match="true or false"):
        parse_flag("1")


def test_a_prefix_has_a_slash_before_and_none_behind() -> None:
    assert [parse_prefix(text) for text in ("", "/", "/a", "/a/b/")] == ["", "", "/a", "/a/b"]
    for text in ("a", "/a//b", "/a?b", "/../a", "/a b", "//"):
        with pytest.raises(ValueError, match="a path such as /registry/"):
            parse_prefix(text)


def test_a_realm_is_a_host_in_lower_case() -> None:
    assert parse_realm_host("Auth.Example.com:8443") == "auth.example.com:8443"
    assert parse_realm_host("[::1]:5001") == "[::1]:5001"
    for text in ("https://auth.example.com", "auth.example.com/token", "a@b", "", "*.example.com"):
        with pytest.raises(ValueError, match="a host such as"):
            parse_realm_host(text)


def test_a_path_is_not_empty_and_has_no_nul() -> None:
    assert parse_path("./data") == Path("data")
    for text in ("", "a\0b"):
        with pytest.raises(ValueError, match="a path"):
            parse_path(text)


def test_a_section_is_no_text() -> None:
    with pytest.raises(ValueError, match="a single value"):
        parse_text({"a": 1})
