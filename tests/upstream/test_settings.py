"""What a Client is told."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

import mirror.upstream
from mirror.upstream.settings import Settings, public_name, registry_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://registry-1.docker.io", "https://registry-1.docker.io"),
        ("https://registry-1.docker.io/", "https://registry-1.docker.io"),
        (" http://h:5000/a/b// ", "http://h:5000/a/b"),
    ],
)
def test_a_remote_url_keeps_its_path_and_loses_its_last_slash(text: str, url: str) -> None:
    assert f"{registry_url(text)}/v2/x" == f"{url}/v2/x"


@pytest.mark.parametrize(
    "text",
    [
        *("", "registry", "registry:5000", "ftp://h", "https://", "https://h:0", "https://h:99999"),
        *("https://[::1", "https://user:hush@h", "https://h/?hush=1", "https://h/#hush"),
    ],
)
def test_what_is_no_registry_is_refused_without_repeating_a_secret(text: str) -> None:
    with pytest.raises(ValueError, match="URL of a registry") as caught:
        Settings(text)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("limits", [{"connect": 0}, {"firstbyte": -1}, {"retries": -1}, {"connections": 0}])
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Settings("https://h", **limits)


def test_secrets_are_not_shown() -> None:
    settings = Settings(
        "https://h", "user", "hush", "hush", "hush", headers={"A": "hush"}, http_proxy="http://a:hush@p"
    )
    assert "hush" not in repr(settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"helper": "docker-credential-x 'hush"}, "helper is not a command"),
        ({"helper": "  "}, "helper is not a command"),
        ({"helper_lifetime": -1.0}, "lifetime"),
        ({"helper_lifetime": float("nan")}, "lifetime"),
        ({"client_key": Path("key.pem")}, "without its certificate"),
        ({"http_proxy": "socks5://me:hush@p.test"}, "the configured proxy is not the URL of an HTTP proxy"),
        ({"http_proxy": "http://me:hush@[::1"}, "the configured proxy is not a URL"),
        ({"headers": {"authorization": "hush"}}, "the header authorization"),
        ({"headers": {"Range": "hush"}}, "the header Range"),
        ({"headers": {"Content-Length": "1"}}, "the header Content-Length"),
        ({"headers": {"X-Key: x\r\nX-Evil": "hush"}}, "header's name"),
        ({"headers": {"": "hush"}}, "header's name"),
        ({"headers": {"X-Key": "hush\r\nX-Evil: 1"}}, "the header X-Key"),
        ({"headers": {"X-Key": "hush\n"}}, "the header X-Key"),
        ({"headers": {"X-Key": "hush\u20ac"}}, "the header X-Key"),
        ({"headers": {"X-Key": "hush" * 1025}}, "the header X-Key"),
        ({"headers": {f"X-{number}": "hush" for number in range(33)}}, "more than 32 headers"),
    ],
)
def test_what_can_never_work_is_refused_without_repeating_a_secret(
    settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        Settings("https://h", **settings)
    assert "hush" not in str(caught.value)


def test_headers_that_can_be_sent_are_taken() -> None:
    headers = {"X-Key": "a b\tc~", "CF-Access-Client-Id": "x", "User-Agent": "us", "Cookie": "a=b"}
    assert Settings("https://h", headers=headers).headers == headers


@pytest.mark.parametrize("host", ["10.0.0.1", "[fd00::1]", "localhost", "registry"])
def test_internal_hosts_are_not_named_to_clients(host: str) -> None:
    assert public_name(URL(f"http://{host}:5000")) == "the upstream registry"
    assert public_name(URL("https://ghcr.io")) == "ghcr.io"


def test_the_room_has_nothing_of_the_server_side() -> None:
    """import-linter cannot forbid a part of an external package."""
    (folder,) = mirror.upstream.__path__
    for path in Path(folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith("aiohttp.web") for name in names), path.name
