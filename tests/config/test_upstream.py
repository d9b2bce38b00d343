"""Which upstream is meant is said, never guessed where a login would go there."""

from __future__ import annotations

from pathlib import Path

import pytest

from mirror.configfile import ConfigError
from tests.support.configs import MINIMAL, load_env, load_text, remarks

HUB = "https://registry-1.docker.io"
REGISTRY = f"the registry that it is for (Docker Hub's is {HUB})"
LOGIN = {"REGISTRY_PROXY_USERNAME": "u", "REGISTRY_PROXY_PASSWORD": "p"}


def refusal(folder: Path, text: str, **environ: str) -> list[str]:
    """The lines of the error that this file leads to, without the folder."""
    with pytest.raises(ConfigError) as refused:
        load_text(folder, MINIMAL + text, **environ)
    return str(refused.value).replace(f"{folder}/", "").splitlines()


def warned(folder: Path, text: str, **environ: str) -> list[str]:
    """The warnings that this file leads to, without the folder."""
    return [
        str(said).replace(f"{folder}/", "") for said in load_text(folder, MINIMAL + text, **environ).warnings
    ]


@pytest.mark.parametrize(
    ("proxy", "key"),
    [
        ("username: u\n  password: p", "username"),
        ("password: p\n  username: u", "username"),
        ("identitytoken: t", "identitytoken"),
        ("remoteurl:\n  identitytoken: t", "identitytoken"),
        ("remoteurl: ''\n  identitytoken: t", "identitytoken"),
        ("remoteurls: []\n  identitytoken: t", "identitytoken"),
        ("exec: {command: sh}", "exec"),
        ("headers: {X-A: b}", "headers"),
        ("upstreams: {quay.io: {remoteurl: 'https://quay.io'}}\n  identitytoken: t", "identitytoken"),
    ],
)
def test_a_login_for_an_upstream_that_nobody_named_stops_the_start(
    tmp_path: Path, proxy: str, key: str
) -> None:
    line = 4 + next(n for n, text in enumerate(proxy.splitlines()) if key in text)
    assert refusal(tmp_path, f"proxy:\n  {proxy}\n") == [
        f"config.yml:{line}: proxy.remoteurl: missing, wanted beside proxy.{key}: {REGISTRY}"
    ]


def test_so_does_a_login_in_variables() -> None:
    said = f"REGISTRY_PROXY_USERNAME: proxy.remoteurl: missing, wanted beside proxy.username: {REGISTRY}"
    with pytest.raises(ConfigError) as refused:
        load_env(LOGIN)
    assert str(refused.value) == said
    with pytest.raises(ConfigError) as refused:
        load_env({**LOGIN, "REGISTRY_PROXY_REMOTE_URL": "https://a"})
    hint = "; REGISTRY_PROXY_REMOTE_URL is no variable, write REGISTRY_PROXY_REMOTEURL"
    assert str(refused.value) == said + hint


def test_a_login_for_an_upstream_that_somebody_named_does_not(tmp_path: Path) -> None:
    login = "username: u, password: p"
    assert warned(tmp_path, f"proxy: {{remoteurl: '{HUB}', {login}}}\n") == []
    assert warned(tmp_path, f"proxy: {{{login}}}\n", REGISTRY_PROXY_REMOTEURL=HUB) == []
    assert load_env({**LOGIN, "REGISTRY_PROXY_REMOTEURL": HUB}).warnings == ()
    assert load_env({**LOGIN, "REGISTRY_PROXY_REMOTEURLS_0": HUB}).warnings == ()


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("remoteUrl", "remoteurl"),
        ("remoteURL", "remoteurl"),
        ("remote_url", "remoteurl"),
        ("remote-URL", "remoteurl"),
        ("remoturl", "remoteurl"),
        ("remoteulr", "remoteurl"),
        ("remoteuri", "remoteurl"),
        ("Username", "username"),
        ("passwort", "password"),
        ("remoteUrls", "remoteurls"),
        ("remote_urls", "remoteurls"),
    ],
)
def test_a_slip_in_a_key_of_the_upstream_stops_the_start(tmp_path: Path, key: str, known: str) -> None:
    """And it is the only line, for it is the cause of a missing remoteurl."""
    assert refusal(tmp_path, f"proxy:\n  {key}: x\n  identitytoken: t\n")[0] == (
        f"config.yml:4: proxy.{key}: unknown key; write proxy.{known}"
    )
    if known.startswith("remoteurl"):
        assert len(refusal(tmp_path, f"proxy:\n  {key}: x\n  identitytoken: t\n")) == 1


def test_a_slip_further_below_counts_and_what_is_not_near_is_a_warning(tmp_path: Path) -> None:
    assert refusal(tmp_path, "proxy: {remoteurl: 'https://a', timeouts: {conect: 1s}}\n") == [
        "config.yml:3: proxy.timeouts.conect: unknown key; write proxy.timeouts.connect"
    ]
    assert warned(tmp_path, "proxy: {remoteurl: 'https://a', url: x, remote: y}\n") == [
        "config.yml:3: proxy.url: unknown key, ignored; did you mean proxy.remoteurl?",
        "config.yml:3: proxy.remote: unknown key, ignored; did you mean proxy.remoteurl?",
    ]


def test_another_tools_word_is_a_warning_directly_below_proxy_and_the_login_still_has_to_be_whole(
    tmp_path: Path,
) -> None:
    """A file of registry:2 may have had it there for years."""
    assert warned(tmp_path, "proxy: {remoteurl: 'https://a', pass: x}\n") == [
        "config.yml:3: proxy.pass: unknown key, ignored; did you mean proxy.password?"
    ]
    assert refusal(tmp_path, "proxy: {remoteurl: 'https://a', pass: x, username: u}\n") == [
        "config.yml:3: proxy.password: missing, wanted beside proxy.username; for no login leave both out"
    ]


def test_a_file_that_names_no_upstream_is_told_which_one_it_gets(tmp_path: Path) -> None:
    said = f"proxy.remoteurl: not set, so Docker Hub is mirrored; write {HUB} there if that is meant"
    assert warned(tmp_path, "") == [f"config.yml: {said}"]
    assert warned(tmp_path, "proxy:\n") == [f"config.yml:3: {said}"]
    assert warned(tmp_path, "proxy:\n  remoteurl:\n") == [f"config.yml:3: {said}"]
    assert warned(tmp_path, "proxy: {retries: 1}\n") == [f"config.yml:3: {said}"]
    assert warned(tmp_path, "", REGISTRY_PROXY_RETRIES="1") == [f"REGISTRY_PROXY_RETRIES: {said}"]
    assert warned(tmp_path, "", REGISTRY_PROXY_REMOTEURL="https://a") == []
    assert load_env({}).warnings == ()


@pytest.mark.parametrize("host", ["docker.io", "www.docker.com", "hub.docker.com", "Hub.docker.com:443"])
def test_a_website_of_docker_is_not_its_registry(tmp_path: Path, host: str) -> None:
    name = host.lower().removesuffix(":443")
    assert warned(tmp_path, f"proxy: {{remoteurl: 'https://{host}/'}}\n") == [
        f"config.yml:3: proxy.remoteurl: {name} is a website; Docker Hub's registry is {HUB}"
    ]


@pytest.mark.parametrize("host", ["registry-1.docker.io", "index.docker.io", "mydocker.io", "[::1]:5000"])
def test_other_hosts_are_taken_as_they_are(tmp_path: Path, host: str) -> None:
    assert warned(tmp_path, f"proxy: {{remoteurl: 'https://{host}'}}\n") == []


def test_warnings_come_by_line_and_then_by_variable(tmp_path: Path) -> None:
    text = "proxy:\n  cachewritetimeout: 1h\nxyzzy: 1\n"
    text += "http:\n  secret: a\n  draintimeout: 5000000000\nloglevel: info\n"
    loaded = load_text(tmp_path, MINIMAL + text, REGISTRY_XYZZY="1", REGISTRY_LOG_REPORTCALLER="true")
    assert [said.source.removeprefix(f"{tmp_path}/config.yml") for said in remarks(loaded)] == [
        ":4",
        ":5",
        ":7",
        ":8",
        ":9",
        "REGISTRY_XYZZY",
        "REGISTRY_LOG_REPORTCALLER",
    ]
