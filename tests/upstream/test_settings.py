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
    assert "hush" not in repr(Settings("https://h", "user", "hush", "hush"))


def test_a_name_without_a_password_is_no_login() -> None:
    assert not Settings("https://h", username="user").has_credentials
    assert not Settings("https://h", password="p").has_credentials
    assert Settings("https://h", username="user", password="p").has_login
    assert Settings("https://h", identity_token="t").has_credentials


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
