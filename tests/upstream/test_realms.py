"""Where credentials may go: tables, and attacks by a hostile upstream (CVE-2026-33540)."""

from __future__ import annotations

import pytest
from yarl import URL

from mirror.upstream.realms import Verdict, host_of, judge


@pytest.mark.parametrize(
    ("registry", "realm", "allowed", "verdict"),
    [
        # what exists
        ("https://registry-1.docker.io", "https://auth.docker.io/token", (), Verdict.TRUSTED),
        ("https://ghcr.io", "https://ghcr.io/token", (), Verdict.TRUSTED),
        ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", (), Verdict.TRUSTED),
        ("https://lscr.io", "https://ghcr.io/token", (), Verdict.FOREIGN),
        ("https://lscr.io", "https://ghcr.io/token", ("ghcr.io",), Verdict.TRUSTED),
        ("http://registry:5000", "http://auth:5001/token", (), Verdict.FOREIGN),
        ("http://registry:5000", "http://auth:5001/token", ("auth:5001",), Verdict.TRUSTED),
        ("http://registry:5000", "http://auth:5001/token", ("auth:5002",), Verdict.FOREIGN),
        ("https://registry.example", "https://auth.test:8443/t", ("https://auth.test",), Verdict.TRUSTED),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token", (), Verdict.TRUSTED),
        ("http://localhost:5000", "http://localhost:5001/token", (), Verdict.TRUSTED),
        ("http://registry.example", "https://auth.example/token", (), Verdict.FOREIGN),
        # a public suffix is no common owner
        ("https://a.co.uk", "https://b.co.uk/token", (), Verdict.FOREIGN),
        ("https://a.github.io", "https://evil.github.io/token", (), Verdict.FOREIGN),
        ("https://com", "https://evil.com/token", (), Verdict.FOREIGN),
        # what only looks alike
        ("https://registry-1.docker.io", "https://docker.io.evil.test/token", (), Verdict.FOREIGN),
        ("https://registry-1.docker.io", "https://evildocker.io/token", (), Verdict.FOREIGN),
        ("https://registry.example", "https://registry.example@evil.test/token", (), Verdict.REFUSED),
        ("https://10.1.2.3", "https://10.1.2.4/token", (), Verdict.FOREIGN),
        ("https://[::1]:5000", "https://127.0.0.1/token", (), Verdict.FOREIGN),
        ("https://registry.example", "https://evil.test/token", ("",), Verdict.FOREIGN),
        ("https://registry.example", "https://evil.test/token", ("registry.example", "*"), Verdict.FOREIGN),
        # never weaker than the registry, never off the web
        ("https://registry.example", "http://registry.example/token", (), Verdict.REFUSED),
        ("https://registry.example", "http://auth.test/token", ("auth.test",), Verdict.REFUSED),
        ("http://registry.example", "https://registry.example/token", (), Verdict.TRUSTED),
        ("http://registry.example", "file:///etc/passwd", (), Verdict.REFUSED),
        ("http://registry.example", "ftp://registry.example/token", (), Verdict.REFUSED),
        ("http://registry.example", "//registry.example/token", (), Verdict.REFUSED),
        ("http://registry.example", "/token", (), Verdict.REFUSED),
        ("http://registry.example", "", (), Verdict.REFUSED),
        ("http://registry.example", "http://registry.example:99999/token", (), Verdict.REFUSED),
        ("http://registry.example", "http://[::1/token", (), Verdict.REFUSED),
    ],
)
def test_credentials_go_to_the_same_owner_or_a_listed_host_only(
    registry: str, realm: str, allowed: tuple[str, ...], verdict: Verdict
) -> None:
    assert judge(URL(registry), realm, allowed) is verdict


def test_the_text_names_the_host_as_it_must_be_listed() -> None:
    assert host_of("https://auth.test/token?x=y") == "auth.test"
    assert host_of("https://auth.test:8443/token") == "auth.test:8443"
    assert host_of("https://auth.test:443/token") == "auth.test"
