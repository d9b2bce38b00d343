"""`http.addr` and `http.tls`: what is taken, what is refused, and in which words."""

from __future__ import annotations

import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from mirror.configfile import ConfigError, dump, load
from mirror.confighosts import SocketPath
from mirror.configlisten import tls_of
from mirror.configtls import CIPHERS, DEFAULT_CIPHERS
from tests.support.certificates import Pair, self_signed
from tests.support.configs import MINIMAL, load_env, load_text, remarks, write


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return self_signed(tmp_path, "server")


def tls_text(pair: Pair, more: str = "") -> str:
    """A file with TLS."""
    return f"{MINIMAL}http: {{tls: {{certificate: {pair[0]}, key: {pair[1]}{more}}}}}\n"


def refused(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_text(folder, text, **environ)
    return str(error.value)


def test_a_certificate_is_taken_with_the_registrys_defaults(tmp_path: Path, pair: Pair) -> None:
    loaded = load_text(tmp_path, tls_text(pair))
    assert remarks(loaded) == []
    tls = tls_of(loaded.config.http.tls)
    assert tls is not None
    assert (tls.certificate, tls.key) == pair
    assert (tls.minimum, tls.ciphers) == (ssl.TLSVersion.TLSv1_2, DEFAULT_CIPHERS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"since": timedelta(days=-2), "until": timedelta(hours=-1)}, "the certificate has expired, on "),
        ({"since": timedelta(hours=1)}, "the certificate counts from "),
        ({"nameless": True}, "the certificate has no subject alternative name: docker,"),
    ],
    ids=["expired", "early", "nameless"],
)
def test_a_certificate_that_clients_refuse_is_taken_with_a_warning(
    tmp_path: Path, given: dict[str, Any], said: str
) -> None:
    """As by the registry, which says nothing; it may be on its way to be renewed."""
    (warning,) = remarks(load_text(tmp_path, tls_text(self_signed(tmp_path, "server", **given))))
    assert warning.key == "http.tls.certificate"
    assert warning.text.startswith(said)


def test_without_one_there_is_no_tls() -> None:
    assert tls_of(load_env({}).config.http.tls) is None


def test_variables_say_the_same(pair: Pair) -> None:
    """By the registry's names, lists as YAML or by number."""
    environ = {
        "REGISTRY_HTTP_TLS_CERTIFICATE": str(pair[0]),
        "REGISTRY_HTTP_TLS_KEY": str(pair[1]),
        "REGISTRY_HTTP_TLS_MINIMUMTLS": "tls1.1",
        "REGISTRY_HTTP_TLS_CLIENTCAS": f"[{pair[0]}]",
        "REGISTRY_HTTP_TLS_CLIENTAUTH": "verify-client-cert-if-given",
        "REGISTRY_HTTP_TLS_CIPHERSUITES_0": "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
        "REGISTRY_HTTP_TRUSTEDPROXIES": "[192.0.2.1, fd00::/8]",
    }
    http = load_env(environ).config.http
    tls = tls_of(http.tls)
    assert tls is not None
    assert tls.minimum is ssl.TLSVersion.TLSv1_1
    assert (tls.client_cas, tls.client_auth) == ((pair[0],), ssl.CERT_OPTIONAL)
    assert tls.ciphers == ("ECDHE-ECDSA-AES128-SHA",)
    assert [str(network) for network in http.trustedproxies] == ["192.0.2.1/32", "fd00::/8"]


@pytest.mark.parametrize(
    ("auth", "mode"),
    [
        ("", ssl.CERT_REQUIRED),
        ("require-and-verify-client-cert", ssl.CERT_REQUIRED),
        ("verify-client-cert-if-given", ssl.CERT_OPTIONAL),
    ],
)
def test_cas_of_clients_require_a_certificate_unless_told_otherwise(
    tmp_path: Path, pair: Pair, auth: str, mode: ssl.VerifyMode
) -> None:
    loaded = load_text(tmp_path, tls_text(pair, f", clientcas: [{pair[0]}], clientauth: '{auth}'"))
    tls = tls_of(loaded.config.http.tls)
    assert tls is not None
    assert tls.client_auth is mode


def test_a_certificate_that_is_asked_for_and_not_looked_at_is_not_asked_for(
    tmp_path: Path, pair: Pair
) -> None:
    text = tls_text(pair, f", clientcas: [{pair[0]}], clientauth: request-client-cert")
    loaded = load_text(tmp_path, text)
    assert {warning.key for warning in remarks(loaded)} == {"http.tls.clientauth", "http.tls.clientcas"}
    assert "nobody is asked for a certificate" in str(remarks(loaded)[0])


@pytest.mark.parametrize(
    ("tls", "key", "text"),
    [
        (
            "{key: /k}",
            "certificate",
            "missing, wanted a PEM file: without it clients would be answered unencr",
        ),
        ("{clientcas: [/c]}", "certificate", "missing, wanted a PEM file"),
        ("{clientauth: request-client-cert}", "certificate", "missing, wanted a PEM file"),
        ("{certificate: CERT}", "key", "missing, wanted the PEM file with the key of http.tls.certificate"),
        ("{certificate: CERT, key: /no}", "key", "got '/no': cannot be read: No such file"),
        ("{certificate: CERT, key: CERT}", "key", "no private key that OpenSSL can use"),
        (
            "{certificate: CERT, key: KEY, clientcas: [CERT, /no]}",
            "clientcas[1]",
            "got '/no': cannot be read",
        ),
        (
            "{certificate: CERT, key: KEY, clientauth: require-any-client-cert}",
            "clientauth",
            "Python's ssl cannot",
        ),
        ("{certificate: CERT, key: KEY, clientauth: maybe}", "clientauth", "got 'maybe', wanted one of"),
        (
            "{certificate: CERT, key: KEY, clientauth: verify-client-cert-if-given}",
            "clientauth",
            "there are no clientcas",
        ),
        (
            "{certificate: CERT, key: KEY, minimumtls: ssl3}",
            "minimumtls",
            "wanted one of tls1.0, tls1.1, tls1",
        ),
        ("{certificate: CERT, key: KEY, ciphersuites: [AES128-SHA]}", "ciphersuites[0]", "one of Go's names"),
    ],
)
def test_what_would_be_open_or_does_not_fit_stops_the_start(
    tmp_path: Path, pair: Pair, tls: str, key: str, text: str
) -> None:
    tls = tls.replace("CERT", str(pair[0])).replace("KEY", str(pair[1]))
    said = refused(tmp_path, f"{MINIMAL}http: {{tls: {tls}}}\n")
    assert "\n" not in said
    assert f"config.yml:3: http.tls.{key}: " in said
    assert text in said


@pytest.mark.parametrize(
    ("more", "key", "name"),
    [
        ("http: {tls: {certificate: ./no.pem, key: ./no.key}}", "http.tls.certificate", "no.pem"),
        ("proxy: {remoteurl: 'https://a', ca: certs/no.pem}", "proxy.ca", "certs/no.pem"),
        (
            "auth: {token: {realm: 'https://a', service: s, issuer: i, jwks: no.json}}",
            "auth.token.jwks",
            "no.json",
        ),
    ],
)
def test_a_file_that_is_not_there_is_named_with_the_folder_in_which_it_was_looked_for(
    tmp_path: Path, more: str, key: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is that of the process, not that of the file that names it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    said = refused(tmp_path, f"{MINIMAL}{more}\n")
    assert f": {key}: got '{name}' (that is '{elsewhere / name}')" in said
    assert "cannot be read: No such file" in said


def test_lets_encrypt_says_what_to_use_instead(tmp_path: Path) -> None:
    said = refused(tmp_path, f"{MINIMAL}http: {{tls: {{letsencrypt: {{cachefile: /c, hosts: [a]}}}}}}\n")
    assert "certbot" in said
    assert "read anew when they change" in said


@pytest.mark.parametrize(
    ("more", "key", "text"),
    [
        (
            ", minimumtls: tls1.3, ciphersuites: [TLS_AES_128_GCM_SHA256]",
            "ciphersuites",
            "TLS 1.3 has its own",
        ),
        (
            ", ciphersuites: [TLS_RSA_WITH_3DES_EDE_CBC_SHA, TLS_RSA_WITH_AES_128_CBC_SHA]",
            "ciphersuites",
            "3DES",
        ),
    ],
)
def test_what_is_not_looked_at_is_a_warning(
    tmp_path: Path, pair: Pair, more: str, key: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CIPHERS, "TLS_RSA_WITH_3DES_EDE_CBC_SHA", "BUILT-WITHOUT-IT-3DES")
    [warning] = remarks(load_text(tmp_path, tls_text(pair, more)))
    assert warning.key == f"http.tls.{key}"
    assert text in warning.text


def test_versions_and_suites_without_a_certificate_are_a_warning(tmp_path: Path) -> None:
    tls = "{minimumtls: tls1.3, ciphersuites: [TLS_AES_128_GCM_SHA256]}"
    loaded = load_text(tmp_path, f"{MINIMAL}http: {{tls: {tls}}}\n")
    assert {warning.key for warning in remarks(loaded)} == {"http.tls.minimumtls", "http.tls.ciphersuites"}


def test_a_unix_socket_is_a_path(tmp_path: Path) -> None:
    http = load_text(tmp_path, f"{MINIMAL}http: {{net: unix, addr: a.sock}}\n").config.http
    assert http.addr == SocketPath(Path("a.sock"))
    http = load_text(tmp_path, f"{MINIMAL}http: {{net: unix, addr: './a:5055'}}\n").config.http
    assert http.addr == SocketPath(Path("a:5055"))
    assert str(http.addr) == "./a:5055"


@pytest.mark.parametrize(
    ("http", "text"),
    [
        ("{net: unix}", "http.addr: missing, wanted the path of a socket"),
        (f"{{net: unix, addr: /{'a' * 107}}}", "http.addr: got '/aaa"),
        ("{net: unix, addr: ':5055'}", "http.addr: got ':5055', wanted the path of a socket"),
        ("{net: unix, addr: '127.0.0.1:5055'}", "as http.net is unix; for a port, http.net: tcp"),
        ("{addr: /run/a.sock}", "http.addr: got '/run/a.sock', wanted HOST:PORT"),
    ],
)
def test_an_address_is_of_its_kind(tmp_path: Path, http: str, text: str) -> None:
    assert text in refused(tmp_path, f"{MINIMAL}http: {http}\n")


@pytest.mark.parametrize("given", ["proxy.example", "10.0.0.1/8", "1.2.3", "::/129"])
def test_a_trusted_proxy_is_an_address_or_a_network(tmp_path: Path, given: str) -> None:
    said = refused(tmp_path, f"{MINIMAL}http: {{trustedproxies: ['{given}']}}\n")
    assert f"http.trustedproxies[0]: got '{given}', wanted an address" in said


def test_nobody_may_be_trusted(tmp_path: Path) -> None:
    assert load_text(tmp_path, f"{MINIMAL}http: {{trustedproxies: []}}\n").config.http.trustedproxies == ()


def test_what_is_shown_can_be_loaded_again(
    tmp_path: Path, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With whole paths, and the key's path in the open: it is no secret."""
    monkeypatch.chdir(tmp_path)
    text = f"{MINIMAL}http: {{net: unix, addr: a.sock, tls: {{certificate: server.pem, key: server.key}}}}\n"
    shown = dump(load(write(tmp_path, text), {}).config)
    assert f"key: {pair[1]}" in shown
    assert f"addr: {tmp_path}/a.sock" in shown
    monkeypatch.chdir("/")
    assert dump(load_text(tmp_path, shown).config) == shown


def test_limits_are_taken_from_the_file_and_from_variables(tmp_path: Path) -> None:
    """In the units of the other keys."""
    text = f"{MINIMAL}http: {{limits: {{connections: 500, headersize: 128KiB, headertimeout: 5s}}}}\n"
    file = tmp_path / "config.yml"
    file.write_text(text)
    limits = load(
        file, {"REGISTRY_HTTP_LIMITS_PERCLIENT": "50", "REGISTRY_HTTP_LIMITS_IDLETIMEOUT": "2m"}
    ).config.http.limits
    assert (limits.connections, limits.perclient, limits.headersize.bytes) == (500, 50, 128 << 10)
    assert (limits.headertimeout, limits.idletimeout, limits.writetimeout) == (5.0, 120.0, 60.0)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("headersize", "10%", "an amount between 8KiB and 1MiB"),
        ("headersize", "1KiB", "an amount between 8KiB and 1MiB"),
        ("headertimeout", "0s", "a duration from 1s to 1h"),
        ("idletimeout", "2h", "a duration from 1s to 1h"),
        ("writetimeout", "0s", "a duration from 1s to 1h"),
        ("connections", "-1", "an integer from 0 to"),
    ],
)
def test_a_limit_that_would_be_none_stops_the_start(
    tmp_path: Path, key: str, value: str, wanted: str
) -> None:
    """Nor may one be so low that nobody could ask."""
    file = tmp_path / "config.yml"
    file.write_text(f"{MINIMAL}http: {{limits: {{{key}: {value}}}}}\n")
    with pytest.raises(ConfigError) as refused:
        load(file, {})
    assert f"http.limits.{key}: got '{value}', wanted" in str(refused.value)
    assert wanted in str(refused.value)
