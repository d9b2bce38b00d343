"""What upstreams may be called, and what the rooms that look names up think of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.confignames import (
    HUB_NAMES,
    NAME_FORM,
    OPEN,
    PATTERN_FORM,
    default_url,
    host_of,
    is_pattern,
    parse_name,
    parse_namespace,
)
from mirror.upstream.routes import Names, Routes

LABEL = "a" * 63


@pytest.mark.parametrize(
    "text",
    [
        "ghcr.io",
        "registry.k8s.io",
        "localhost:5000",
        "127.0.0.1:65535",
        "hub",
        "a-b.c--d",
        "1.dkr.ecr.eu-central-1.amazonaws.com",
        f"{LABEL}.{LABEL}",
    ],
)
def test_a_name_is_a_host_with_or_without_a_port(text: str) -> None:
    assert parse_name(text) == parse_namespace(text) == text
    assert not is_pattern(text)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("GHCR.io", f"{NAME_FORM}: write ghcr.io"),
        ("https://ghcr.io", f"{NAME_FORM}: write ghcr.io"),
        ("http://Localhost:5000/", f"{NAME_FORM}: write localhost:5000"),
        ("ghcr.io/org", NAME_FORM),
        ("https://user:hunter2@ghcr.io", NAME_FORM),
        ("https://[::1", NAME_FORM),
        ("[::1]:5000", NAME_FORM),
        ("a_b:5000", NAME_FORM),  # on disk that would be a:b's
        ("localhost:0", NAME_FORM),
        ("localhost:0443", NAME_FORM),
        ("localhost:65536", NAME_FORM),
        ("localhost:", NAME_FORM),
        ("a..b", NAME_FORM),
        ("a.", NAME_FORM),
        ("-a", NAME_FORM),
        ("a-.b", NAME_FORM),
        ("bücher.example", NAME_FORM),
        ("a b", NAME_FORM),
        ("a\n", NAME_FORM),
        ("", NAME_FORM),
        (f"{LABEL}a", NAME_FORM),
        (".".join([LABEL] * 5), NAME_FORM),
        ("library", "another name: library/ begins the names of Docker Hub's own images"),
    ],
)
def test_what_is_no_name_is_refused_with_the_one_that_was_meant(text: str, allowed: str) -> None:
    for parse in (parse_name, parse_namespace):
        with pytest.raises(ValueError) as refused:
            parse(text)
        assert str(refused.value) == allowed


@pytest.mark.parametrize(
    "text",
    [
        "*",
        "*.example.com",
        "*.example.com:5000",
        "*.dkr.ecr.*.amazonaws.com",
        "*-docker.pkg.dev",
        "registry-*.svc.cluster.local",
        "*.*.*.*.example.co.uk",
    ],
)
def test_a_pattern_ends_in_a_domain_that_somebody_has(text: str) -> None:
    assert parse_namespace(text) == text
    assert is_pattern(text)


@pytest.mark.parametrize(
    "text",
    [
        "*.com",
        "*.co.uk",
        "*example.com",  # also evilexample.com
        "ecr.*",
        "ecr.*.com",
        "*.*",
        "**",
        "*.local",
        "*.0.0.1",
        "10.*.0.1",
        "*.example.com:*",
        "*.example.com:0",
        "localhost:*",
        "*.Example.com",
        "*.*.*.*.*.example.com",
        "*_a.example.com",
        "*..example.com",
        "-*.example.com",
        "https://*.example.com",
        "*.example.com/a",
    ],
)
def test_a_pattern_that_fits_too_much_or_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse_namespace(text)
    assert str(refused.value) == PATTERN_FORM


def test_an_alias_is_no_pattern() -> None:
    for text in ("*", "*.example.com"):
        with pytest.raises(ValueError):
            parse_name(text)


def test_a_name_is_where_its_registry_is() -> None:
    assert default_url("ghcr.io") == "https://ghcr.io"
    assert default_url("localhost:5000") == "https://localhost:5000"
    assert {default_url(name) for name in HUB_NAMES} == {"https://registry-1.docker.io"}
    assert host_of("http://Registry.Example:5000/team") == "registry.example:5000"


@given(
    st.text("ab1.-:*_", max_size=16) | st.from_regex(r"([a1*.-]{1,5}\.)?b\.a(:[0-9*]{1,2})?", fullmatch=True)
)
def test_what_may_be_configured_can_be_looked_up(text: str) -> None:
    """The routes raise ValueError for a name that is none: that would be after the start."""
    try:
        namespace = parse_namespace(text)
    except ValueError:
        return
    routes = Routes(Names("docker.io"), [Names(namespace)], strict=True)
    if namespace != OPEN:
        assert routes.entry(namespace.replace("*", "x")) == namespace
