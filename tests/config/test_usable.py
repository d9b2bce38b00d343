"""What upstreams need beside the configuration is looked at before the start."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from mirror.configfile import ConfigError, dump
from mirror.configusable import FILE_LIMIT
from tests.support.configs import MINIMAL, load_text, remarks

PAIR = "wanted a PEM file with a client certificate, and its key in it or in clientkey"
AT = ["proxy", "proxy.upstreams.quay.io"]


def document(at: str, keys: str) -> str:
    """A file with these keys in the default upstream, or in an entry."""
    section = f"{{remoteurl: 'https://a', {keys}}}"
    proxy = section if at == "proxy" else f"{{remoteurl: 'https://b', upstreams: {{quay.io: {section}}}}}"
    return f"{MINIMAL}proxy: {proxy}\n"


def problems(folder: Path, at: str, keys: str) -> list[str]:
    """What is said, without the place and without the folder."""
    with pytest.raises(ConfigError) as refused:
        load_text(folder, document(at, keys))
    said = str(refused.value).replace(f"{folder}/config.yml:3: {at}.", "")
    return said.replace(f"{folder}/", "").splitlines()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one.pem and one.key, two.pem and two.key, locked.pem with a locked.key."""
    folder = tmp_path_factory.mktemp("certificates")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 1 -subj /CN=test"
    for name, more in (("one", ["-nodes"]), ("two", ["-nodes"]), ("locked", ["-passout", "pass:hunter2"])):
        files = ["-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.pem"]
        subprocess.run([*command.split(), *more, *files], check=True, capture_output=True)
    both = (folder / "one.pem").read_bytes() + (folder / "one.key").read_bytes()
    (folder / "both.pem").write_bytes(both)
    return folder


@pytest.mark.parametrize("at", AT)
def test_a_certificate_and_its_key_are_taken_from_one_file_or_from_two(
    tmp_path: Path, certificates: Path, at: str
) -> None:
    for keys in ("clientcert: {}/both.pem", "clientcert: {0}/one.pem, clientkey: {0}/one.key"):
        proxy = load_text(tmp_path, document(at, keys.format(certificates))).config.proxy
        upstream = proxy if at == "proxy" else proxy.upstreams["quay.io"]
        assert upstream.clientcert is not None


def test_where_a_key_is_is_shown(tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(certificates)
    keys = "ca: one.pem, clientcert: one.pem, clientkey: one.key"
    shown = yaml.safe_load(dump(load_text(tmp_path, document(AT[1], keys)).config))
    entry = shown["proxy"]["upstreams"]["quay.io"]
    assert {key: entry[key] for key in ("ca", "clientcert", "clientkey")} == {
        "ca": f"{certificates}/one.pem",
        "clientcert": f"{certificates}/one.pem",
        "clientkey": f"{certificates}/one.key",
    }


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize(
    ("cert", "key", "said"),
    [
        ("one.pem", None, [f"clientcert: got 'one.pem', {PAIR}"]),
        ("one.key", None, [f"clientcert: got 'one.key', {PAIR}"]),
        (
            "one.pem",
            "two.key",
            ["clientcert: got 'one.pem', wanted the certificate that its key is for: these do not fit"],
        ),
        (
            "locked.pem",
            "locked.key",
            ["clientcert: got 'locked.pem', wanted a key without a passphrase"],
        ),
        (
            "none.pem",
            "one.key",
            ["clientcert: got 'none.pem', which cannot be read: No such file or directory"],
        ),
        (
            "one.pem",
            "none.key",
            ["clientkey: got 'none.key', which cannot be read: No such file or directory"],
        ),
    ],
)
def test_a_certificate_that_cannot_be_shown_stops_the_start(
    tmp_path: Path, certificates: Path, at: str, cert: str, key: str | None, said: list[str]
) -> None:
    keys = f"clientcert: {certificates}/{cert}" + (f", clientkey: {certificates}/{key}" if key else "")
    assert [line.replace(f"{certificates}/", "") for line in problems(tmp_path, at, keys)] == said


@pytest.mark.parametrize("at", AT)
def test_an_authority_that_is_none_stops_the_start(tmp_path: Path, at: str) -> None:
    (tmp_path / "ca.pem").write_text("hunter2")
    assert problems(tmp_path, at, f"ca: {tmp_path}/ca.pem") == [
        "ca: got 'ca.pem', wanted a file with CA certificates in PEM form"
    ]
    assert problems(tmp_path, at, f"ca: {tmp_path}") == [
        f"ca: got '{tmp_path}', which cannot be read: Is a directory"
    ]


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("hunter2", "wanted docker's config.json: it is not JSON"),
        ("[" * 100_000, "wanted docker's config.json: it is not JSON"),
        ("[]", "wanted docker's config.json: it is not a JSON object"),
        ('{"auths": ["hunter2"]}', "wanted docker's config.json: auths is not an object"),
        (" " * FILE_LIMIT + "{}", "wanted a file of at most 1 MiB"),
    ],
    ids=["text", "deep", "list", "auths", "large"],
)
def test_a_docker_configuration_that_is_none_stops_the_start(
    tmp_path: Path, at: str, content: str, said: str
) -> None:
    (tmp_path / "c.json").write_text(content)
    assert problems(tmp_path, at, f"dockerconfig: {tmp_path}/c.json") == [
        f"dockerconfig: got 'c.json', {said}"
    ]


@pytest.mark.parametrize("at", AT)
def test_a_docker_configuration_without_logins_is_one(tmp_path: Path, at: str) -> None:
    (tmp_path / "c.json").write_text('{"auths": null, "credsStore": "", "HttpHeaders": {}}')
    assert load_text(tmp_path, document(at, f"dockerconfig: {tmp_path}/c.json")).warnings == ()


@pytest.mark.parametrize("at", AT)
def test_a_program_that_is_not_there_is_a_warning(tmp_path: Path, at: str) -> None:
    program = tmp_path / "docker-credential-test"
    text = document(at, "exec: {command: \"docker-credential-test 'a b'\"}")
    assert [(said.key, said.text) for said in load_text(tmp_path, text, PATH=str(tmp_path)).warnings] == [
        (
            f"{at}.exec.command",
            "there is no program 'docker-credential-test' on PATH; until there is, what needs a login fails",
        )
    ]
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert remarks(load_text(tmp_path, text, PATH=str(tmp_path))) == []
