"""What is taken for a certificate, and how a new one comes into use."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from mirror.configtls import CIPHERS, openssl_ciphers
from mirror.server import tlscontext
from mirror.server.certificates import Certificates
from mirror.server.tlscontext import CertificateError, Tls, build
from tests.server.events import Events
from tests.server.memory import MemoryRegistry
from tests.server.raw import PATIENCE
from tests.server.tlskit import ask, connected, secured, tls, trusting, until
from tests.support.certificates import Pair, issued, locked, self_signed


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """The server's, which is its own CA."""
    return self_signed(tmp_path, "server")


def put(source: Pair, target: Pair) -> None:
    """As certbot does: each file takes the old one's place at once."""
    for new, old in zip(source, target, strict=True):
        aside = old.with_suffix(".new")
        shutil.copyfile(new, aside)
        aside.rename(old)


@pytest.mark.parametrize(
    ("change", "key", "text"),
    [
        (
            lambda t, _f: replace(t, certificate=Path("/nowhere")),
            "certificate",
            "cannot be read: No such file",
        ),
        (lambda t, _f: replace(t, key=Path("/nowhere")), "key", "cannot be read: No such file"),
        (lambda t, f: replace(t, certificate=f), "certificate", "cannot be read: Is a directory"),
        (
            lambda t, _f: replace(t, key=t.certificate),
            "key",
            "no private",
        ),
        (
            lambda t, _f: replace(t, certificate=t.key),
            "certificate",
            "it holds a key and no certificate: are certificate and key in each other's place?",
        ),
        (
            lambda t, _f: t.certificate.write_text(t.certificate.read_text()[:200]) and t,
            "certificate",
            "no certificate that OpenSSL can use",
        ),
        (lambda t, f: replace(t, key=self_signed(f, "o")[1]), "key", "the key is for another certificate"),
        (lambda t, _f: replace(t, key=locked((t.certificate, t.key), b"p")), "key", "has a passphrase"),
        (lambda t, _f: t.key.write_bytes(b"x") and t, "key", "not a PEM file"),
        (lambda t, _f: t.certificate.write_bytes(b"\xff" * 9) and t, "certificate", "not a PEM file"),
        (lambda t, _f: t.certificate.write_bytes(b"x" * (2 << 20)) and t, "certificate", "at most 1 MiB"),
        (lambda t, f: replace(t, client_cas=(t.certificate, f / "no")), "clientcas[1]", "cannot be read"),
        (lambda t, _f: replace(t, client_cas=(t.key,)), "clientcas[0]", "wanted a file with CA certificates"),
    ],
)
def test_what_cannot_be_used_names_its_key_and_file(
    tmp_path: Path, pair: Pair, change: Callable[[Tls, Path], Tls], key: str, text: str
) -> None:
    broken = change(tls(pair), tmp_path)
    with pytest.raises(CertificateError) as refused:
        build(broken)
    assert refused.value.key == key
    assert text in str(refused.value)
    assert str(refused.value.path) in refused.value.told()
    assert "PRIVATE" not in refused.value.told()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may not read it")
def test_a_key_that_may_not_be_read_names_the_user_and_what_to_do(pair: Pair) -> None:
    pair[1].chmod(0o600)
    for folder in (pair[1].parent, *pair[1].parents[:-1]):
        if folder != Path("/tmp"):
            folder.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(CertificateError) as refused:
            build(tls(pair))
    finally:
        os.seteuid(0)
    assert refused.value.told() == (
        f"http.tls.key: {pair[1]}: user nobody (65534) may not read it: "
        "give it to that user (chown), or to its group (chgrp, chmod g+r)"
    )


def shaken(server: Tls, client: ssl.SSLContext) -> tuple[str, str]:
    """Version and cipher of a handshake in memory. Raises SSLError."""
    context = build(server)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        context.wrap_bio(to_server, to_client, server_side=True),
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
    ]
    done = 0
    while done < 2:
        done = 0
        for side in sides:
            try:
                side.do_handshake()
                done += 1
            except ssl.SSLWantReadError:
                continue
    cipher = sides[1].cipher()
    assert cipher is not None
    return sides[1].version() or "", cipher[0]


VERSIONS = [
    ssl.TLSVersion.TLSv1,
    ssl.TLSVersion.TLSv1_1,
    ssl.TLSVersion.TLSv1_2,
    ssl.TLSVersion.TLSv1_3,
]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("minimum", VERSIONS)
@pytest.mark.parametrize("spoken", VERSIONS)
def test_the_least_version_is_the_least(pair: Pair, minimum: ssl.TLSVersion, spoken: ssl.TLSVersion) -> None:
    """With an old suite, as the registry wants it for old versions."""
    ciphers = (*(openssl_ciphers(()) or ()), CIPHERS["TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA"])
    client = trusting(pair[0])
    client.set_ciphers("ALL:@SECLEVEL=0")
    client.minimum_version = client.maximum_version = spoken
    server = tls(pair, minimum=minimum, ciphers=ciphers)
    if spoken >= minimum:
        version, _ = shaken(server, client)
        assert version == {"TLSv1": "TLSv1", "TLSv1_1": "TLSv1.1"}.get(
            spoken.name, spoken.name.replace("_", ".")
        )
    else:
        with pytest.raises(ssl.SSLError):
            shaken(server, client)


@pytest.mark.parametrize("name", [name for name in CIPHERS if "3DES" not in name])
def test_each_of_gos_names_is_the_suite_in_openssl(tmp_path: Path, name: str) -> None:
    """By its number, which a handshake with only that suite shows."""
    ca = self_signed(tmp_path, "ca")
    server_pair = issued(tmp_path, "server", ca, rsa_key="_ECDSA_" not in name)
    client = trusting(ca[0])
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ALL")
    _, used = shaken(tls(server_pair, ciphers=openssl_ciphers((name,))), client)
    number = next(each["id"] for each in client.get_ciphers() if each["name"] == used) & 0xFFFF
    assert number == GO[name]


# crypto/tls's constants, which are IANA's.
GO = {
    "TLS_RSA_WITH_AES_128_CBC_SHA": 0x002F,
    "TLS_RSA_WITH_AES_256_CBC_SHA": 0x0035,
    "TLS_RSA_WITH_AES_128_GCM_SHA256": 0x009C,
    "TLS_RSA_WITH_AES_256_GCM_SHA384": 0x009D,
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": 0xC009,
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": 0xC00A,
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": 0xC013,
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": 0xC014,
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": 0xC02F,
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": 0xC02B,
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": 0xC030,
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": 0xC02C,
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": 0xCCA8,
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": 0xCCA9,
}


def test_suites_of_tls_1_3_alone_leave_no_older_version(pair: Pair) -> None:
    """As in Go, where a client of TLS 1.2 finds no suite in common."""
    server = tls(pair, ciphers=openssl_ciphers(("TLS_AES_128_GCM_SHA256",)))
    client = trusting(pair[0])
    assert shaken(server, client)[0] == "TLSv1.3"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        shaken(server, client)


def test_suites_that_openssl_has_not_at_all_are_refused(pair: Pair) -> None:
    with pytest.raises(CertificateError) as refused:
        build(tls(pair, ciphers=("NO-SUCH-SUITE",)))
    assert refused.value.key == "ciphersuites"
    assert ssl.OPENSSL_VERSION in str(refused.value)


async def test_a_new_certificate_is_shown_to_those_who_come_and_nobody_is_cut_off(
    registry: MemoryRegistry, pair: Pair, tmp_path: Path, events: Events
) -> None:
    """Swapped ten times under requests and one long transfer."""
    blob = registry.add_blob(os.urandom(8 << 20), file=True)
    cas = [pair] + [self_signed(tmp_path, f"new{number}") for number in range(10)]
    trust = ssl.create_default_context()
    trust.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
    for ca in cas:
        trust.load_verify_locations(ca[0])
    served = 0
    stop = asyncio.Event()

    async def ask_always(port: int) -> None:
        nonlocal served
        while not stop.is_set():
            assert (await ask(port, trust)).status == 200
            served += 1

    async def shows(port: int, ca: Pair) -> None:
        """Returns when a client that trusts this certificate alone is answered.

        NB: events do not tell which it is. A look that falls between the two files loads the pair, knows one
        file as it was before, and loads the same pair once more at the next look.
        """
        client = trusting(ca[0])
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    answer = await ask(port, client)
                except ssl.SSLCertVerificationError:
                    await asyncio.sleep(0.01)
                else:
                    assert answer.status == 200
                    return

    def has_served(count: int) -> bool:
        return served >= count

    own = self_signed(tmp_path, "mine")
    put(pair, own)
    async with secured(registry, tls(own)) as (port, _):
        async with connected(port, trust) as (reader, writer):
            asked = f"GET /v2/library/x/blobs/{blob.descriptor.digest} HTTP/1.1\r\nHost: m\r\n\r\n"
            writer.write(asked.encode())
            await reader.readuntil(b"\r\n\r\n")
            got = await reader.readexactly(1000)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(ask_always(port))
                for new in cas[1:]:
                    put(new, own)
                    await shows(port, new)
                    assert (await ask(port, trusting(new[0]))).status == 200
                    before = served
                    await until(partial(has_served, before + 5))
                stop.set()
            async with asyncio.timeout(PATIENCE):
                got += await reader.readexactly(len(blob.content) - 1000)
        assert got == blob.content
    assert len(events.named("tls.reloaded")) >= len(cas) - 1
    assert events.named("tls.not_reloaded") == []


async def test_a_broken_new_pair_keeps_the_old_one_and_is_told_once(
    registry: MemoryRegistry, pair: Pair, tmp_path: Path, events: Events
) -> None:
    """With the file that is wrong; and once that is put right the new one is used."""
    new = self_signed(tmp_path, "new")
    client = trusting(pair[0])
    kept = tmp_path / "kept.pem"
    shutil.copyfile(pair[0], kept)
    async with secured(registry, tls(pair)) as (port, _):
        shutil.copyfile(new[0], pair[0])  # and the key is another's
        told = await events.wait("tls.not_reloaded")
        assert told["log_level"] == "error"
        assert told["path"] == str(pair[1])
        assert f"http.tls.key: {pair[1]}: the key is for another certificate" in told["reason"]
        assert (await ask(port, client)).status == 200
        pair[1].unlink()
        await until(lambda: len(events.named("tls.not_reloaded")) == 2)
        assert "No such file" in events.named("tls.not_reloaded")[1]["reason"]
        assert (await ask(port, client)).status == 200
        shutil.copyfile(new[1], pair[1])
        await events.wait("tls.reloaded")
        assert (await ask(port, trusting(new[0]))).status == 200
    assert len(events.named("tls.not_reloaded")) == 2


def test_a_new_certificate_that_clients_refuse_is_used_and_told(
    pair: Pair, tmp_path: Path, events: Events
) -> None:
    certificates = Certificates(tls(pair))
    put(self_signed(tmp_path, "old", until=timedelta(hours=-1)), pair)
    certificates._look_again()
    (told,) = events.named("tls.doubtful")
    assert told["log_level"] == "warning"
    assert told["reason"].startswith("the certificate has expired, on ")
    put(self_signed(tmp_path, "new"), pair)
    certificates._look_again()
    assert len(events.named("tls.reloaded")) == 2
    assert len(events.named("tls.doubtful")) == 1
    certificates.threads.close()


def test_a_new_pair_that_could_not_be_read_for_a_while_is_used_in_the_end(
    pair: Pair, tmp_path: Path, events: Events
) -> None:
    """No file may be opened for a time, and the files are the same afterwards."""
    certificates = Certificates(tls(pair))
    first = certificates.context
    put(self_signed(tmp_path, "new"), pair)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        for _ in range(4):
            certificates._look_again()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    (told,) = events.named("tls.not_reloaded")
    assert "Too many open files" in told["reason"]
    assert certificates.context is first
    certificates._look_again()
    assert certificates.context is not first
    assert len(events.named("tls.reloaded")) == 1
    certificates.threads.close()


async def test_new_cas_of_clients_count_from_then_on(
    registry: MemoryRegistry, pair: Pair, tmp_path: Path, events: Events
) -> None:
    """Somebody who is no longer trusted is not let in again."""
    old, new = self_signed(tmp_path, "old"), self_signed(tmp_path, "new")
    listed = tmp_path / "cas.pem"
    shutil.copyfile(old[0], listed)
    settings = tls(pair, client_cas=(listed,), client_auth=ssl.CERT_REQUIRED)
    async with secured(registry, settings) as (port, _):
        assert (await ask(port, trusting(pair[0], issued(tmp_path, "a", old)))).status == 200
        shutil.copyfile(new[0], listed)
        await events.wait("tls.reloaded")
        assert (await ask(port, trusting(pair[0], issued(tmp_path, "b", new)))).status == 200
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await ask(port, trusting(pair[0], issued(tmp_path, "c", old)))


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert tlscontext.user() == "4000000"
