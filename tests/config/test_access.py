"""`auth`, `allow`, `deny` and `rights`: what is taken, and what stops the start, with its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mirror.config import Config
from mirror.configfile import ConfigError, dump, load
from tests.support.jwts import Signer, certificate, pem, rsa_key

SIGNER = Signer()
TOKEN = "realm: https://t.example/token, service: s, issuer: i"


def loaded(folder: Path, text: str, **environ: str) -> tuple[Config, list[str]]:
    """The configuration, and what the warnings are about."""
    (folder / "bundle.pem").write_bytes(pem(SIGNER.root))
    (folder / "users").write_bytes(b"bob:$2y$05$" + b"a" * 53 + b"\n")
    path = folder / "config.yml"
    remote = "proxy: {remoteurl: 'https://quay.io'}\n" if "proxy:" not in text else ""
    path.write_text(f"version: 0.1\nstorage: inmemory\n{remote}{text}\n")
    found = load(path, environ)
    return found.config, [warning.key for warning in found.warnings]


def problems(folder: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        loaded(folder, text.replace("{F}", str(folder)), **environ)
    lines = str(refused.value).replace(f"{folder}/", "").split("\n")
    return [line.partition(": ")[2] if line.startswith("config.yml") else line for line in lines]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "in which there is no user: nobody can log in"),
        (b"bob:$apr1$x$y\neve:{SHA}z\n", "lines 1 (MD5); 2 (SHA-1): and so nobody can log in; htpasswd -B"),
        (b"bob:$2y$05$" + b"a" * 53 + b"\neve:word\n", "lines 2 (plain text or crypt): these users cannot"),
        (b"bob:$2y$05$" + b"a" * 53 + b"\n", ""),
    ],
)
def test_who_can_never_log_in_is_told_at_the_start(tmp_path: Path, body: bytes, told: str) -> None:
    """The registry passes these lines over in silence."""
    users = tmp_path / "others"
    users.write_bytes(body)
    path = tmp_path / "config.yml"
    path.write_text(f"version: 0.1\nstorage: inmemory\nauth: {{htpasswd: {{realm: r, path: {users}}}}}\n")
    warnings = [each for each in load(path, {}).warnings if each.key == "auth.htpasswd.path"]
    assert len(warnings) == bool(told)
    for warning in warnings:
        assert told in str(warning)
        assert str(users) in str(warning)
        assert "config.yml:3" in str(warning)


def test_every_kind_is_taken_from_a_file(tmp_path: Path) -> None:
    config, _ = loaded(tmp_path, f"auth: {{htpasswd: {{realm: r, path: {tmp_path}/users}}}}")
    assert config.auth.htpasswd is not None
    assert (config.auth.htpasswd.realm, config.auth.is_on) == ("r", True)
    config, _ = loaded(tmp_path, f"auth: {{token: {{{TOKEN}, rootcertbundle: {tmp_path}/bundle.pem}}}}")
    assert config.auth.token is not None
    assert (config.auth.token.issuer, len(config.auth.token.signingalgorithms)) == ("i", 10)
    config, warned = loaded(tmp_path, "auth: {silly: {realm: r, service: s}}")
    assert (config.auth.silly is not None, warned) == (True, ["auth.silly"])
    for text in ("auth: none", "auth: {none: }", "auth: {}", ""):
        assert not loaded(tmp_path, text)[0].auth.is_on


def test_every_kind_is_taken_from_variables(tmp_path: Path) -> None:
    """As people run registry:2: `REGISTRY_AUTH=htpasswd` and what it needs."""
    users = str(tmp_path / "users")
    config, _ = loaded(
        tmp_path,
        "",
        REGISTRY_AUTH="htpasswd",
        REGISTRY_AUTH_HTPASSWD_REALM="Realm",
        REGISTRY_AUTH_HTPASSWD_PATH=users,
    )
    assert config.auth.htpasswd is not None
    assert (config.auth.htpasswd.realm, str(config.auth.htpasswd.path)) == ("Realm", users)
    assert loaded(tmp_path, "", REGISTRY_AUTH=f"{{htpasswd: {{realm: R, path: {users}}}}}")[0].auth.is_on
    config, _ = loaded(
        tmp_path,
        "",
        REGISTRY_AUTH="token",
        REGISTRY_AUTH_TOKEN_REALM="https://t.example",
        REGISTRY_AUTH_TOKEN_SERVICE="s",
        REGISTRY_AUTH_TOKEN_ISSUER="i",
        REGISTRY_AUTH_TOKEN_ROOTCERTBUNDLE=str(tmp_path / "bundle.pem"),
        REGISTRY_AUTH_TOKEN_SIGNINGALGORITHMS_0="ES256",
    )
    assert config.auth.token is not None
    assert config.auth.token.signingalgorithms == ("ES256",)
    assert not loaded(tmp_path, "auth: {silly: {realm: r, service: s}}", REGISTRY_AUTH="none")[0].auth.is_on


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("auth: htpasswd", ["auth.htpasswd.realm: missing, wanted", "auth.htpasswd.path: missing, wanted"]),
        ("auth: {silly: {realm: r}}", ["auth.silly.service: missing, wanted"]),
        ("auth: {htpaswd: {}}", ["auth: got 'htpaswd', wanted one of none, silly, htpasswd, token"]),
        ("auth: {none: , silly: {realm: r, service: s}}", ["auth: got none and silly, wanted exactly one"]),
        ("auth: [a]", ["auth: got a list, wanted"]),
        ("auth: {htpasswd: {realm: r, path: {F}/bundle.pem}}", ["auth.htpasswd.path: got '"]),
        ("auth: {htpasswd: {realm: r, path: {F}}}", ["auth.htpasswd.path: got '"]),
        ('auth: {htpasswd: {realm: "a\\r\\nX: b", path: {F}/users}}', ["auth.htpasswd.realm: got 'a"]),
        (
            "auth: {token: {}}",
            [f"auth.token.{key}: missing" for key in ("realm", "service", "issuer", "rootcertbundle")],
        ),
        (f"auth: {{token: {{{TOKEN}, rootcertbundle: /no}}}}", ["auth.token.rootcertbundle: got '/no'"]),
        (f"auth: {{token: {{{TOKEN}, rootcertbundle: {{F}}/users}}}}", ["auth.token.rootcertbundle: got '"]),
        (f"auth: {{token: {{{TOKEN}, jwks: {{F}}/users}}}}", ["auth.token.jwks: got '"]),
        (
            f"auth: {{token: {{{TOKEN}, rootcertbundle: {{F}}/bundle.pem, signingalgorithms: [none]}}}}",
            ["auth.token.signingalgorithms[0]: got 'none', wanted one of EdDSA, RS256"],
        ),
        (
            f"auth: {{token: {{{TOKEN}, rootcertbundle: {{F}}/bundle.pem, signingalgorithms: [HS256]}}}}",
            ["auth.token.signingalgorithms: got only HS256, HS384, HS512, wanted one for public keys too"],
        ),
        ("proxy: {remoteurl: 'https://a', allow: ['A']}", ["proxy.allow[0]: got 'A', wanted a repository"]),
        ("proxy: {remoteurl: 'https://a', rights: mine}", ["proxy.rights: got 'mine', wanted one of shared"]),
        (
            "auth: {silly: {realm: r, service: s}}\nproxy: {remoteurl: 'https://a', rights: caller}",
            ["proxy.rights: got 'caller', not beside auth: a client sends one login"],
        ),
        (
            "proxy: {remoteurl: 'https://a', upstreams: {'*': {rights: caller}}}",
            ["proxy.upstreams.*.rights: got 'caller', not for \"*\": clients' logins would be sent"],
        ),
        (
            "proxy: {remoteurl: 'https://a', rights: caller, upstreams: {'*': {}}}",
            ["proxy.upstreams.*.rights: got 'caller', not for \"*\""],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_used_stops_the_start(tmp_path: Path, text: str, said: list[str]) -> None:
    found = problems(tmp_path, text)
    assert len(found) == len(said), found
    for line in said:
        assert any(each.startswith(line) for each in found), found


def test_a_client_certificate_would_stand_in_for_a_callers_right(tmp_path: Path) -> None:
    key = rsa_key()
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pair = pem(certificate("c", key)) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "pair.pem").write_bytes(pair)
    text = f"proxy: {{remoteurl: 'https://a', rights: caller, clientcert: {tmp_path}/pair.pem}}"
    assert problems(tmp_path, text)[0].startswith("proxy.rights: got 'caller', not beside proxy.clientcert:")


def test_rights_are_inherited_and_patterns_are_not(tmp_path: Path) -> None:
    upstreams = "upstreams: {ghcr.io: {}, quay.io: {rights: shared, allow: ['a/*']}}"
    text = f"proxy: {{remoteurl: 'https://a', rights: caller, deny: [x], {upstreams}}}"
    proxy = loaded(tmp_path, text)[0].proxy
    assert (proxy.upstreams["ghcr.io"].rights, proxy.upstreams["quay.io"].rights) == ("caller", "shared")
    assert (proxy.upstreams["ghcr.io"].deny, proxy.upstreams["quay.io"].allow) == ((), ("a/*",))


def test_shared_secrets_are_named_as_never_accepted(tmp_path: Path) -> None:
    algorithms = "signingalgorithms: [RS256, HS256]"
    text = f"auth: {{token: {{{TOKEN}, rootcertbundle: {tmp_path}/bundle.pem, {algorithms}}}}}"
    assert loaded(tmp_path, text)[1] == ["auth.token.signingalgorithms"]


def test_what_is_shown_can_be_loaded_again(tmp_path: Path) -> None:
    text = f"auth: {{token: {{{TOKEN}, rootcertbundle: {tmp_path}/bundle.pem}}}}"
    config, _ = loaded(tmp_path, text)
    shown = dump(config)
    assert yaml.safe_load(shown)["auth"]["token"]["realm"] == "https://t.example/token"
    (tmp_path / "again.yml").write_text(shown)
    assert load(tmp_path / "again.yml", {}).config == config


def test_a_key_set_is_read_at_the_start(tmp_path: Path) -> None:
    from jwt.algorithms import RSAAlgorithm

    jwk = {**RSAAlgorithm.to_jwk(SIGNER.key.public_key(), as_dict=True), "kid": "k"}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [jwk]}))
    assert loaded(tmp_path, f"auth: {{token: {{{TOKEN}, jwks: {tmp_path}/jwks.json}}}}")[1] == []
