"""docker's config.json: what it means, then as a file that changes."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mirror.registry import Unavailable
from mirror.upstream.credentials import ANONYMOUS, Credentials
from mirror.upstream.dockerconfig import HUB_KEY, DockerConfig, DockerConfigError
from mirror.upstream.dockerlogin import LOOK_SECONDS, SIZE_LIMIT, DockerLogin
from tests.upstream.conftest import Clock
from tests.upstream.scripts import Scripted

HOST = "registry.example"
LOGIN = Credentials("user", "hush")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


def encoded(text: str = "user:hush") -> dict[str, str]:
    """An entry of `auths`."""
    return {"auth": base64.b64encode(text.encode()).decode()}


def config(**document: Any) -> DockerConfig:
    """A config.json of these parts."""
    return DockerConfig.parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    ("key", "host", "found"),
    [
        ("registry.example", HOST, True),
        ("https://registry.example", HOST, True),
        ("https://registry.example/", HOST, True),
        ("http://registry.example/v1/", HOST, True),
        ("registry.example/v2/", HOST, True),
        ("https://Registry.Example/v2", HOST, True),
        ("registry.example:5000", "registry.example:5000", True),
        ("registry.example:5000", HOST, False),
        (HOST, "registry.example:5000", False),
        (HOST, "evil-registry.example", False),
        (HOST, "registry.example.evil.test", False),
        ("example", HOST, False),
        ("https://registry.example@evil.test", HOST, False),
        ("registry.example/team", HOST, False),
        ("registry.example/v1/team", HOST, False),
        ("", HOST, False),
        (HUB_KEY, "registry-1.docker.io", True),
        (HUB_KEY, "docker.io", True),
        ("docker.io", "registry-1.docker.io", True),
        ("index.docker.io", "registry-1.docker.io", True),
        (HUB_KEY, "auth.docker.io", False),
        (HUB_KEY, "registry-1.docker.io:5000", False),
    ],
)
def test_a_key_is_for_the_host_that_it_names_and_for_no_other(key: str, host: str, *, found: bool) -> None:
    assert config(auths={key: encoded()}).login(host) == (LOGIN if found else ANONYMOUS)
    assert config(credHelpers={key: "x"}).helper(host) == ("docker-credential-x" if found else "")


def test_dockers_own_key_goes_before_one_that_means_the_same() -> None:
    auths = {f"https://{HOST}/v1/": encoded("a:b"), HOST: encoded("c:d")}
    assert config(auths=auths).login(HOST) == Credentials("c", "d")
    auths = {"docker.io": encoded("a:b"), HUB_KEY: encoded("c:d")}
    assert config(auths=auths).login("registry-1.docker.io") == Credentials("c", "d")


@pytest.mark.parametrize(
    ("entry", "credentials"),
    [
        (encoded("user:a:b"), Credentials("user", "a:b")),
        (encoded("user:hush\0\0"), LOGIN),
        (encoded("üser:hüsh"), Credentials("üser", "hüsh")),
        ({"username": "user", "password": "hush"}, LOGIN),
        ({**encoded("user:"), "identitytoken": "t"}, Credentials("user", "", "t")),
        ({}, ANONYMOUS),
        ({"auth": "", "email": "a@b"}, ANONYMOUS),
        ({"auth": None}, ANONYMOUS),
    ],
)
def test_an_entry_is_a_login_a_token_or_nobody(entry: dict[str, Any], credentials: Credentials) -> None:
    assert config(auths={HOST: entry}).login(HOST) == credentials


def test_the_helper_of_a_host_goes_before_the_store_of_all() -> None:
    both = config(credHelpers={HOST: "own"}, credsStore="all")
    assert both.helper(HOST) == "docker-credential-own"
    assert both.helper("other.example") == "docker-credential-all"
    assert config(credsStore="").helper(HOST) == ""


@pytest.mark.parametrize(
    "document",
    [
        *("hush", ["hush"], {"auths": ["hush"]}, {"auths": {HOST: "hush"}}, {"credHelpers": "hush"}),
        *({"auths": {HOST: {"auth": "hush!"}}}, {"auths": {HOST: {"auth": ["hush"]}}}),
        {"auths": {HOST: encoded("hush")}},
        {"auths": {HOST: {"auth": base64.b64encode(b"\xff:hush").decode()}}},
        *({"credsStore": "../hush"}, {"credsStore": "hush x"}, {"credHelpers": {HOST: "/bin/hush"}}),
        *({"credHelpers": {HOST: ""}}, {"credsStore": ["hush"]}, {"credsStore": "hush\n"}),
    ],
)
def test_what_is_broken_is_refused_without_repeating_it(document: Any) -> None:
    with pytest.raises(DockerConfigError) as caught:
        DockerConfig.parse(json.dumps(document).encode())
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None, "it holds the document"


@given(JSON | st.fixed_dictionaries({"auths": JSON, "credHelpers": JSON, "credsStore": JSON}) | st.binary())
def test_no_document_makes_any_other_error(document: Any) -> None:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    try:
        parsed = DockerConfig.parse(body)
    except DockerConfigError:
        return
    assert "/" not in parsed.helper(HOST)


def write(path: Path, **document: Any) -> None:
    """Replace the file as docker does: a new one under the same name."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(document))
    new.replace(path)


async def test_a_file_that_changes_is_read_again_within_five_seconds(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "config.json"
    write(path, auths={HOST: encoded()})
    source = DockerLogin(path)
    assert await source.get(HOST) == LOGIN
    assert await source.get("other.example") == ANONYMOUS
    write(path, auths={HOST: encoded("user:new")})
    clock.advance(LOOK_SECONDS - 0.5)
    assert await source.get(HOST) == LOGIN, "it is not looked at for every request"
    clock.advance(0.5)
    assert await source.get(HOST) == Credentials("user", "new")


async def test_a_file_that_is_as_it_was_is_not_read_again(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "config.json"
    write(path, auths={HOST: encoded()})
    source = DockerLogin(path)
    await source.get(HOST)
    before = path.stat()
    path.write_text(path.read_text().replace(encoded()["auth"], encoded("user:hash")["auth"]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    clock.advance(LOOK_SECONDS)
    assert await source.get(HOST) == LOGIN
    path.touch()
    clock.advance(LOOK_SECONDS)
    assert await source.get(HOST) == Credentials("user", "hash")


async def test_a_file_that_is_broken_or_gone_takes_nothing_away_and_is_told_once(
    tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "config.json"
    write(path, auths={HOST: encoded()})
    source = DockerLogin(path)
    with capture_logs() as logs:
        await source.get(HOST)
        for spoil in (lambda: path.write_text('{"auths": hush'), path.unlink, lambda: None):
            spoil()
            for _ in range(3):
                clock.advance(LOOK_SECONDS)
                assert await source.get(HOST) == LOGIN
        write(path, auths={HOST: encoded("user:new")})
        clock.advance(LOOK_SECONDS)
        assert await source.get(HOST) == Credentials("user", "new")
    told = {
        "event": "upstream.dockerconfig.unusable",
        "log_level": "warning",
        "path": str(path),
        "kept": True,
    }
    assert logs == [{**told, "cause": "it is not JSON"}, {**told, "cause": "No such file or directory"}]


async def test_without_any_good_file_the_upstream_is_unavailable_until_there_is_one(
    tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "config.json"
    source = DockerLogin(path)
    for _ in range(2):
        with pytest.raises(Unavailable, match=r"config\.json cannot be used") as caught:
            await source.get(HOST)
        assert str(tmp_path) not in caught.value.message
        assert caught.value.retry_after == pytest.approx(LOOK_SECONDS, abs=1)
    write(path, auths={HOST: encoded()})
    clock.advance(LOOK_SECONDS)
    assert await source.get(HOST) == LOGIN


@pytest.mark.parametrize("kind", ["pipe", "folder", "flood"])
async def test_what_is_no_file_of_a_sensible_size_holds_nobody(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "config.json"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.write_bytes(b" " * (SIZE_LIMIT + 1))
    with capture_logs() as logs, pytest.raises(Unavailable):
        await DockerLogin(path).get(HOST)
    causes = {"pipe": "it is not a file", "folder": "Is a directory", "flood": "it is larger than 1 MiB"}
    assert logs[0]["cause"] == causes[kind]


async def test_helpers_are_asked_by_dockers_names_and_auths_is_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted = Scripted(tmp_path, "docker-credential-mine")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    write(tmp_path / "config.json", credsStore="mine", auths={HOST: encoded("from:auths"), HUB_KEY: {}})
    source = DockerLogin(tmp_path / "config.json")
    scripted.has_none()
    assert await source.get(HOST) == Credentials("from", "auths")
    scripted.says("<token>", "t")
    assert await source.get("registry-1.docker.io") == Credentials(identity_token="t")
    assert scripted.runs == [f"get {HOST}", f"get {HUB_KEY}"]
    await source.close()


async def test_a_refused_login_of_a_helper_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    scripted = Scripted(tmp_path, "docker-credential-mine")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    write(tmp_path / "config.json", credHelpers={HOST: "mine"})
    source = DockerLogin(tmp_path / "config.json")
    scripted.says("user", "hush")
    assert await source.get(HOST) == LOGIN
    scripted.says("user", "new")
    clock.advance(3600)
    assert await source.get(HOST) == LOGIN
    source.refused(LOGIN)
    assert await source.get(HOST) == Credentials("user", "new")
    await source.close()
