"""What is kept, and for how long: `proxy.ttl` and the `cache` section."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.configcache import Cache, parse_rate
from mirror.configfile import ConfigError
from mirror.configvalues import Size, format_bytes, parse_size
from tests.support.configs import MINIMAL, load_env, load_text


def cache_of(folder: Path, text: str) -> Cache:
    """The `cache` section that this YAML comes to."""
    return load_text(folder, f"{MINIMAL}cache: {text}\n").config.cache


def test_nothing_is_limited_unless_it_is_said(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, "{}")
    assert (cache.maxsize, cache.minfree, cache.pin) == (None, None, ())
    assert (cache.scrub.interval, cache.scrub.rate) == (720 * 3600.0, 10 << 20)
    assert (cache.segments.from_, cache.segments.connections) == (32 << 20, 4)
    assert (cache.disk.folder, cache.disk.maxsize) == (None, None)
    assert cache.requests == 250


def test_all_of_it_is_read(tmp_path: Path) -> None:
    text = (
        "{maxsize: 200GiB, minfree: 5%, pin: ['library/*', 'quay.io/org/app:1'], "
        "scrub: {interval: 1h, rate: 1MiB/s}, segments: {from: 1GiB, connections: 1}, "
        "disk: {folder: /fast, maxsize: 50GiB}, requests: 1000}"
    )
    cache = cache_of(tmp_path, text)
    assert (cache.maxsize, cache.minfree) == (Size(200 << 30), Size(percent=5.0))
    assert cache.pin == ("library/*", "quay.io/org/app:1")
    assert (cache.scrub.interval, cache.scrub.rate) == (3600.0, 1 << 20)
    assert (cache.segments.from_, cache.segments.connections) == (1 << 30, 1)
    assert (cache.disk.folder, cache.disk.maxsize) == (Path("/fast"), Size(50 << 30))
    assert cache.requests == 1000


def test_variables_reach_it() -> None:
    cache = load_env(
        {
            "REGISTRY_CACHE_MAXSIZE": "80%",
            "REGISTRY_CACHE_PIN_0": "'*:latest'",
            "REGISTRY_CACHE_SCRUB_INTERVAL": "0",
            "REGISTRY_CACHE_SCRUB_RATE": "65536",
            "REGISTRY_CACHE_SEGMENTS_FROM": "64KiB",
            "REGISTRY_CACHE_SEGMENTS_CONNECTIONS": "12",
            "REGISTRY_CACHE_DISK_MAXSIZE": "1MiB",
            "REGISTRY_CACHE_REQUESTS": "0",
        }
    ).config.cache
    assert (cache.maxsize, cache.pin) == (Size(percent=80.0), ("*:latest",))
    assert (cache.scrub.interval, cache.scrub.rate) == (0.0, 65536)
    assert (cache.segments.from_, cache.segments.connections) == (64 << 10, 12)
    assert cache.disk.maxsize == Size(1 << 20)
    assert cache.requests == 0


@pytest.mark.parametrize("none", ["0", "0GiB", "0%", ""])
def test_zero_is_no_limit(tmp_path: Path, none: str) -> None:
    cache = cache_of(tmp_path, f"{{maxsize: {none}, minfree: {none}}}")
    assert (cache.maxsize, cache.minfree) == (None, None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0.0), ("0s", 0.0), ("-1h", 0.0), ("1s", 1.0), ("2h", 7200.0)]
)
def test_a_ttl_of_zero_or_less_is_never(tmp_path: Path, text: str, seconds: float) -> None:
    assert load_text(tmp_path, f"{MINIMAL}proxy: {{ttl: {text}}}\n").config.proxy.ttl == seconds


@pytest.mark.parametrize(
    ("pin", "said"),
    [
        ("[alpine]", "cache.pin[0]: got 'alpine', wanted a pattern of repository:tag"),
        ("['a:1', 'a b:*']", "cache.pin[1]: got 'a b:*', wanted a pattern of repository:tag"),
        (f"[{', '.join(['a:1'] * 257)}]", "cache.pin: got a list, wanted at most 256 patterns; here are 257"),
    ],
)
def test_a_pin_that_can_fit_nothing_is_refused(tmp_path: Path, pin: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        cache_of(tmp_path, f"{{pin: {pin}}}")
    assert said in str(refused.value)


@given(st.integers(0, 10**17))
def test_bytes_are_written_as_they_are_read(count: int) -> None:
    assert parse_size(format_bytes(count)) == Size(count)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (1000, "1000"),
        (1024, "1KiB"),
        (1536 << 10, "1536KiB"),
        (10 << 20, "10MiB"),
        (3 << 50, "3PiB"),
    ],
)
def test_bytes_are_written_short(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize("text", ["10MiB", "10MiB/s", " 10 MiB/s", "10485760"])
def test_a_rate_is_bytes_a_second(text: str) -> None:
    assert parse_rate(text) == 10 << 20
