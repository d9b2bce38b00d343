"""Tokens: those that count, and every way of making one that must not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import threading
import time
import warnings
import zlib
from collections import Counter
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from mirror.access import checks, keys
from mirror.access.base import AUTHORIZATION_LIMIT, CATALOG, Asked, Refused, records
from mirror.access.bearer import Token
from mirror.access.certificates import PublicKey, key_ids
from mirror.access.keys import Keys
from mirror.access.token import ALGORITHMS, Claims, TokenError, Verifier
from mirror.oci.errors import ErrorCode
from tests.support.jwts import (
    ISSUER,
    SERVICE,
    Signer,
    certificate,
    claims,
    encoded,
    pull,
    rsa_key,
    signed,
    unsigned,
    x5c,
)

NAME = "library/a"
WITHIN = 30.0  # seconds
SIGNER, STRANGER = Signer(), Signer()
KEYS = keys.Keys(
    (SIGNER.root,), dict.fromkeys((*key_ids(SIGNER.key.public_key()), "named"), SIGNER.key.public_key())
)
LEAF = certificate("leaf", STRANGER.key, ("root", SIGNER.key), ca=False)
VERIFIER = Verifier(KEYS, ISSUER, SERVICE)
PUBLIC_PEM = SIGNER.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def verified(text: str, verifier: Verifier = VERIFIER) -> str:
    """Whom the token names; raises TokenError."""
    now = time.time()
    found = verifier.verify(text, now)
    found.check_time(now)
    return found.subject


def hmac_token(key: bytes, header: dict[str, Any]) -> str:
    """HS256 by hand: PyJWT does not sign with somebody's public key."""
    text = f"{encoded(json.dumps(header))}.{encoded(json.dumps(claims(NAME)))}"
    return f"{text}.{encoded(hmac.new(key, text.encode(), hashlib.sha256).digest())}"


KIDS = key_ids(SIGNER.key.public_key())
JWK = RSAAlgorithm.to_jwk(SIGNER.key.public_key(), as_dict=True)
FOREIGN = RSAAlgorithm.to_jwk(STRANGER.key.public_key(), as_dict=True)


@pytest.mark.parametrize(
    "header",
    [
        *({"x5c": x5c(SIGNER.root)}, {"kid": KIDS[0]}, {"kid": KIDS[1]}, {"kid": "named"}, {"jwk": JWK}),
        *({"jwk": {"x5c": x5c(SIGNER.root)}}, {"jwk": {**JWK, "kid": "whatever"}}),
    ],
    ids=["x5c", "thumbprint", "libtrust", "kid", "jwk", "jwk.x5c", "jwk of another name"],
)
def test_a_key_is_found_by_all_that_a_header_may_say(header: dict[str, Any]) -> None:
    assert verified(SIGNER.token(NAME, header=header)) == "bob"


def test_a_libtrust_name_is_of_the_known_form() -> None:
    assert len(KIDS[1]) == 12 * 4 + 11
    assert len(KIDS[0]) == 43


def test_chains_lead_to_a_root() -> None:
    """Over an authority between, of a leaf that may sign nothing else; by every kind of key."""
    middle, leaf = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
    between = certificate("middle", middle, ("root", SIGNER.key))
    last = certificate("leaf", leaf, ("middle", middle), ca=False)
    token = signed(claims(NAME), leaf, "EdDSA", {"x5c": x5c(last, between)})
    assert verified(token) == "bob"
    assert verified(signed(claims(NAME), middle, "ES256", {"x5c": x5c(between)})) == "bob"
    with pytest.raises(TokenError, match="no trusted root"):
        verified(signed(claims(NAME), leaf, "EdDSA", {"x5c": x5c(last)}))


def bad_chains() -> dict[str, tuple[Any, Any]]:
    """A signing key and an `x5c` that no root vouches for."""
    middle, leaf = rsa_key(), rsa_key()
    root = ("root", SIGNER.key)
    no_authority = certificate("middle", middle, root, ca=False)
    short = certificate("middle", middle, root, path_length=0)
    deeper = certificate("deeper", leaf, ("middle", middle))
    expired = certificate("leaf", leaf, root, days=(-3, -1))
    early = certificate("leaf", leaf, root, days=(1, 2))
    forged = certificate("leaf", leaf, ("root", STRANGER.key))
    end = rsa_key()
    return {
        "no authority": (leaf, x5c(certificate("leaf", leaf, ("middle", middle)), no_authority)),
        "too deep": (end, x5c(certificate("leaf", end, ("deeper", leaf)), deeper, short)),
        "expired": (leaf, x5c(expired)),
        "not yet": (leaf, x5c(early)),
        "signed by another of the same name": (leaf, x5c(forged)),
        "another root": (STRANGER.key, x5c(STRANGER.root)),
        "root behind a stranger": (STRANGER.key, x5c(certificate("s", STRANGER.key), SIGNER.root)),
        "in a circle": (leaf, x5c(certificate("a", leaf, ("b", leaf)), certificate("b", leaf, ("a", leaf)))),
        "empty": (leaf, []),
        "no list": (leaf, x5c(SIGNER.root)[0]),
        "no certificates": (leaf, ["AAAA"]),
        "numbers": (leaf, [1]),
        "too many": (leaf, x5c(*[certificate("leaf", leaf)] * 9)),
        "too long": (leaf, ["A" * (20 << 10)]),
    }


@pytest.mark.parametrize("kind", list(bad_chains()))
def test_a_chain_that_no_root_vouches_for_is_none(kind: str) -> None:
    key, chain = bad_chains()[kind]
    with pytest.raises(TokenError):
        verified(signed(claims(NAME), key, "RS256", {"x5c": chain}))


def hostile() -> dict[str, str]:
    """Tokens that must not count."""
    now = int(time.time())
    good = SIGNER.token(NAME)
    head, body, signature = good.split(".")
    x = {"x5c": x5c(SIGNER.root)}
    other_key = {"alg": "RS256", "typ": "JWT"}
    return {
        "alg none": unsigned({"alg": "none", **x}, claims(NAME)),
        "alg None": unsigned({"alg": "None", **x}, claims(NAME)),
        "alg none with a signature": f"{encoded(json.dumps({'alg': 'none', **x}))}.{body}.{signature}",
        "alg missing": unsigned({"typ": "JWT", **x}, claims(NAME), b"x"),
        "alg a list": unsigned({"alg": ["RS256"], **x}, claims(NAME), b"x"),
        "HS256 with the public key": hmac_token(PUBLIC_PEM, {"alg": "HS256", **x}),
        "HS256 with the kid's public key": hmac_token(PUBLIC_PEM, {"alg": "HS256", "kid": KIDS[0]}),
        "HS256 with nothing": hmac_token(b"", {"alg": "HS256", **x}),
        "ES256 of an RSA key": unsigned({"alg": "ES256", **x}, claims(NAME), b"\0" * 64),
        "another's signature": signed(claims(NAME), STRANGER.key, "RS256", x),
        "another's signature by kid": signed(claims(NAME), STRANGER.key, "RS256", {"kid": KIDS[0]}),
        "another's jwk": signed(claims(NAME), STRANGER.key, "RS256", {"jwk": FOREIGN}),
        # CVE-2025-24976 of distribution: a key of one's own, by the name of a trusted one
        "another's jwk by our kid": jwt.encode(
            claims(NAME), STRANGER.key, "RS256", {"jwk": {**FOREIGN, "kid": KIDS[0]}, "kid": KIDS[0]}
        ),
        "a shared secret as jwk": hmac_token(b"k", {"alg": "HS256", "jwk": {"kty": "oct", "k": "aw"}}),
        "unknown kid": signed(claims(NAME), SIGNER.key, "RS256", {"kid": "x"}),
        "kid a path": signed(claims(NAME), SIGNER.key, "RS256", {"kid": "../../etc/passwd"}),
        "no key named": signed(claims(NAME), SIGNER.key, "RS256"),
        "jku": signed(claims(NAME), STRANGER.key, "RS256", {"jku": "https://evil.example/jwks"}),
        "crit": SIGNER.token(NAME, header={**x, "crit": ["exp"]}),
        "zip": f"{encoded(json.dumps({**other_key, **x, 'zip': 'DEF'}))}."
        f"{encoded(zlib.compress(json.dumps(claims(NAME)).encode()))}.{signature}",
        "nested": SIGNER.token(NAME, header={**x, "cty": "JWT"}, access=good),
        "encrypted": "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.a.b.c.d",
        "expired": SIGNER.token(NAME, exp=now - 61),
        "without an end": SIGNER.token(NAME, exp=None),
        "end a text": SIGNER.token(NAME, exp=str(now + 60)),
        "end a word": SIGNER.token(NAME, exp="never"),
        "end infinite": SIGNER.token(NAME, exp=float("inf")),
        "end true": SIGNER.token(NAME, exp=True),
        "beginning a list": SIGNER.token(NAME, nbf=[1]),
        "not yet": SIGNER.token(NAME, nbf=now + 62),
        "another issuer": SIGNER.token(NAME, iss="evil.example"),
        "no issuer": SIGNER.token(NAME, iss=None),
        "issuer a list": SIGNER.token(NAME, iss=[ISSUER]),
        "issuer with a space": SIGNER.token(NAME, iss=f"{ISSUER} "),
        "audience a number": SIGNER.token(NAME, aud=7),
        "audience of numbers": SIGNER.token(NAME, aud=[7, SERVICE]),
        "another service": SIGNER.token(NAME, aud="other.example"),
        "other services": SIGNER.token(NAME, aud=["other.example", f"{SERVICE}.evil.example"]),
        "no audience": SIGNER.token(NAME, aud=None),
        "access a text": SIGNER.token(access="repository:library/a:pull"),
        "access of texts": SIGNER.token(access=["pull"]),
        "actions a text": SIGNER.token(access=[{**pull(NAME)[0], "actions": "pull"}]),
        "name a list": SIGNER.token(access=[{**pull(NAME)[0], "name": [NAME]}]),
        "changed": f"{head}.{encoded(json.dumps(claims(NAME, sub='root')))}.{signature}",
        "cut": good[:-6],
        "huge": SIGNER.token(NAME, x="a" * AUTHORIZATION_LIMIT),
        "deep": f"{encoded('[' * 9000)}.{body}.{signature}",
        "deep body": f"{head}.{encoded('[' * 9000)}.{signature}",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.x",
        "empty parts": "..",
        "header a list": f"{encoded('[]')}.{body}.{signature}",
        "header a number": f"{encoded('1')}.{body}.{signature}",
        "no base64": "%.%.%",
        "no ascii": "\u00e4.\u00f6.\u00fc",
        "lone surrogate": "\udc80.\udc80.\udc80",
        "null": "\0",
    }


@pytest.mark.parametrize("kind", list(hostile()))
def test_a_token_that_is_not_right_does_not_count(kind: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyJWT warns of what it is then to refuse
        with pytest.raises(TokenError) as refused:
            verified(hostile()[kind])
    assert not re.search(r"[a-z][A-Z]\w*", str(refused.value)), "a class's name says nothing to an operator"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("null", "it is no JSON Web Token"),
        ("no base64", "it is no JSON Web Token"),
        ("another's signature", "its signature does not fit the key that it names"),
        ("changed", "its signature does not fit the key that it names"),
        ("HS256 with the public key", "an algorithm that its key cannot have made"),
        ("another issuer", "of another issuer (iss) than auth.token.issuer"),
        ("another service", "for another service (aud) than auth.token.service"),
        ("no audience", "it has no aud"),
        ("without an end", "it has no exp"),
        ("access of texts", "something in it is not of the known form"),
    ],
)
def test_why_a_token_does_not_count_is_said_in_words(kind: str, words: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TokenError, match=f"the token is not valid: .*{re.escape(words)}"):
            verified(hostile()[kind])


def test_a_right_token_counts_whatever_it_says_besides() -> None:
    """Else the table above would show nothing."""
    now = int(time.time())
    for changed in (
        {},
        {"exp": now - 50},
        {"nbf": now + 50},
        {"nbf": None, "iat": now + 5000, "jti": 7},
        {"aud": ["other.example", SERVICE]},
        {"access": None},
    ):
        assert verified(SIGNER.token(NAME, **changed)) == "bob"
    assert verified(SIGNER.token(NAME, sub=7)) == ""


def test_an_algorithm_must_be_one_that_is_configured() -> None:
    only = Verifier(KEYS, ISSUER, SERVICE, ("PS256", "HS256"))
    with pytest.raises(TokenError):
        verified(SIGNER.token(NAME), only)
    token = signed(claims(NAME), SIGNER.key, "PS256", {"x5c": x5c(SIGNER.root)})
    assert verified(token, only) == "bob"
    with pytest.raises(TokenError):
        verified(hmac_token(PUBLIC_PEM, {"alg": "HS256", "kid": KIDS[0]}), only)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_of_a_key_set_is_taken(algorithm: str) -> None:
    curves: dict[str, ec.EllipticCurve] = {
        "ES256": ec.SECP256R1(),
        "ES384": ec.SECP384R1(),
        "ES512": ec.SECP521R1(),
    }
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
    if algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    elif algorithm in curves:
        private = ec.generate_private_key(curves[algorithm])
    else:
        private = SIGNER.key
    jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(private.public_key(), as_dict=True)
    found = keys.parse_jwks(json.dumps({"keys": [{**jwk, "kid": "k", "use": "sig"}]}).encode())
    token = signed(claims(NAME), private, algorithm, {"kid": "k"})
    assert verified(token, Verifier(Keys((), found), ISSUER, SERVICE)) == "bob"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"[]", b"{}", b'{"keys": 1}', b'{"keys": []}', b'{"keys": [1, {}]}', b"\xff", b"[" * 9000),
        *(b'{"keys": [{"kty": "oct", "k": "aw", "kid": "k"}]}', b'{"keys": [{"kty": "RSA", "n": "x"}]}'),
        json.dumps({"keys": [{**JWK, "kid": "k"}, {**FOREIGN, "kid": "k"}]}).encode(),
    ],
)
def test_a_file_without_a_usable_key_is_no_key_set(body: bytes) -> None:
    with pytest.raises(keys.KeysError):
        keys.parse_jwks(body)


def test_of_a_private_key_in_a_key_set_only_the_public_part_is_taken() -> None:
    private = RSAAlgorithm.to_jwk(SIGNER.key, as_dict=True)
    found = keys.parse_jwks(json.dumps({"keys": [{**private, "kid": "k"}]}).encode())
    assert all(isinstance(key, PublicKey) for key in found.values())
    assert set(found) == {"k", *KIDS}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), _nested := lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["keys", "kty", "n", "e", "x", "y", "crv", "kid"]), inner, max_size=5)
), max_leaves=20))  # fmt: skip
def test_any_document_is_a_key_set_or_none(document: object) -> None:
    for body in (document, {"keys": document}, {"keys": [document]}):
        try:
            found = keys.parse_jwks(json.dumps(body).encode())
        except keys.KeysError:
            continue
        assert found


@given(st.text(max_size=300))
def test_no_text_is_a_token(text: str) -> None:
    for token in (
        text,
        f"{text}.{text}.{text}",
        ".".join(encoded(text.encode("utf-8", "replace")) for _ in "abc"),
    ):
        with pytest.raises(TokenError):
            VERIFIER.verify(token, 0.0)


@given(
    st.dictionaries(
        st.sampled_from(["alg", "typ", "kid", "x5c", "jwk", "crit", "b64", "zip", "enc"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=20)
        | st.just(x5c(SIGNER.root))
        | st.just(JWK)
        | st.lists(st.text(max_size=5), max_size=3),
    ),
    st.dictionaries(
        st.sampled_from(["exp", "nbf", "iss", "aud", "access"]), st.none() | st.text() | st.integers()
    ),
)
def test_no_header_makes_up_for_a_signature(header: dict[str, Any], body: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(TokenError):
            VERIFIER.verify(unsigned(header, {**claims(NAME), **body}, b"x" * 256), time.time())


# A byte may make a serial number negative, which the library still reads, with a warning.
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 800), st.integers(0, 255)), min_size=1, max_size=6), st.booleans())
@example(changes=[(15, 128)], of_jwk=False)
def test_no_certificate_with_other_bytes_is_believed(changes: list[tuple[int, int]], of_jwk: bool) -> None:
    """Nor does one make anything fail otherwise."""
    made = bytearray(base64.b64decode(x5c(LEAF)[0]))
    for at, byte in changes:
        made[at % len(made)] = byte
    chain = [base64.b64encode(made).decode()]
    assume(chain != x5c(LEAF))
    header = {"jwk": {"x5c": chain}} if of_jwk else {"x5c": chain}
    with pytest.raises(TokenError):
        verified(signed(claims(NAME), STRANGER.key, "RS256", header))


@given(st.lists(st.fixed_dictionaries({}, optional={
    "type": st.sampled_from(["repository", "registry"]) | st.integers(),
    "name": st.sampled_from([NAME, "catalog"]) | st.none(),
    "actions": st.lists(st.sampled_from(["pull", "*", "push"])) | st.text(max_size=3) | st.integers(),
}), max_size=4))  # fmt: skip
def test_access_is_what_is_said_or_nothing(access: list[dict[str, Any]]) -> None:
    try:
        found = VERIFIER.verify(SIGNER.token(access=access), time.time())
    except TokenError:
        return
    wanted = records("GET", NAME)[0]
    said = [entry for entry in access if (entry["type"], entry["name"]) == ("repository", NAME)]
    expected = any(
        "pull" in (entry.get("actions") or ()) or "*" in (entry.get("actions") or ()) for entry in said
    )
    assert found.covers(wanted) == expected


def controller(**options: Any) -> Token:
    return Token(VERIFIER, **{"realm": "https://auth.example/token", **options})


async def refusal(token: Token, asked: Asked) -> str:
    """The challenge."""
    with pytest.raises(Refused) as refused:
        await token.authorize(asked)
    assert refused.value.code.status == 401
    (line,) = refused.value.challenges
    return line


PULL = records("GET", NAME)
BASE = f'Bearer realm="https://auth.example/token",service="{SERVICE}"'


async def test_the_challenge_says_what_is_missing() -> None:
    token = controller()
    assert await refusal(token, Asked("")) == BASE
    scoped = f'{BASE},scope="repository:{NAME}:pull"'
    assert await refusal(token, Asked("", PULL)) == scoped
    assert await refusal(token, Asked("Basic Og==", PULL)) == scoped
    assert await refusal(token, Asked("Bearer x", PULL)) == f'{scoped},error="invalid_token"'
    other = f"Bearer {SIGNER.token('library/b')}"
    assert await refusal(token, Asked(other, PULL)) == f'{scoped},error="insufficient_scope"'
    assert 'scope="registry:catalog:*"' in await refusal(token, Asked(other, (CATALOG,)))
    assert (await token.authorize(Asked(f"bearer {SIGNER.token(NAME)}", PULL))).user == "bob"


async def test_a_flood_of_bad_tokens_holds_up_neither_the_loop_nor_others() -> None:
    """Each is verified in a thread; one client waits with so many, another is let in meanwhile."""
    gate, began = threading.Event(), threading.Event()

    class Slow(Verifier):
        def verify(self, text: str, now: float) -> Claims:
            if text.startswith("bad"):
                began.set()
                assert gate.wait(WITHIN)
            return super().verify(text, now)

    token = Token(Slow(VERIFIER.keys, VERIFIER.issuer, VERIFIER.service), realm="https://auth.example/token")
    flood = [
        asyncio.create_task(token.authorize(Asked(f"Bearer bad{number}", PULL, address="192.0.2.1")))
        for number in range(checks.WAITING_EACH + 10)
    ]
    try:
        async with asyncio.timeout(WITHIN):
            assert await asyncio.to_thread(began.wait, WITHIN)
            good = Asked(f"Bearer {SIGNER.token(NAME)}", PULL, address="192.0.2.2")
            assert (await token.authorize(good)).user == "bob"
    finally:
        gate.set()
    codes = [error.code for error in await asyncio.gather(*flood, return_exceptions=True)]  # type: ignore[union-attr]
    assert Counter(codes) == {ErrorCode.TOOMANYREQUESTS: 9, ErrorCode.UNAUTHORIZED: checks.WAITING_EACH + 1}
    await token.close()


async def test_a_token_that_many_send_at_once_is_verified_once() -> None:
    seen: list[str] = []

    class Counting(Verifier):
        def verify(self, text: str, now: float) -> Claims:
            seen.append(text)
            return super().verify(text, now)

    token = Token(
        Counting(VERIFIER.keys, VERIFIER.issuer, VERIFIER.service), realm="https://auth.example/token"
    )
    asked = Asked(f"Bearer {SIGNER.token(NAME)}", PULL)
    assert {each.user for each in await asyncio.gather(*(token.authorize(asked) for _ in range(50)))} == {
        "bob"
    }
    assert len(seen) == 1
    await token.close()


async def test_leave_ends_with_the_token() -> None:
    """Asked again, and where answers are repeated."""
    now = time.time()
    clock = [now]
    token = controller(now=lambda: clock[0])
    text = SIGNER.token(NAME, exp=int(now) + 10)
    allowed = await token.authorize(Asked(f"Bearer {text}", PULL))
    assert allowed.holds is not None
    clock[0] = now + 60
    assert allowed.holds()
    clock[0] = now + 72
    assert not allowed.holds()
    assert 'error="invalid_token"' in await refusal(token, Asked(f"Bearer {text}", PULL))


@pytest.mark.parametrize(
    ("host", "scheme", "realm"),
    [
        ("mirror.example:5000", "", "https://mirror.example:5000/auth/token"),
        ("mirror.example", "http", "http://mirror.example/auth/token"),
        ("[::1]:5000", "https", "https://[::1]:5000/auth/token"),
        ('evil.example",error="x', "", "https:///auth/token"),
        ("a@evil.example/", "javascript", "https:///auth/token"),
    ],
)
async def test_a_realm_of_the_clients_own_way(host: str, scheme: str, realm: str) -> None:
    token = controller(realm="")
    assert (await refusal(token, Asked("", host=host, scheme=scheme))).startswith(f'Bearer realm="{realm}",')


def test_base64_of_the_bundle_is_of_no_use_as_a_secret() -> None:
    """What anybody can read of the mirror's keys signs nothing."""
    for secret in (PUBLIC_PEM, base64.b64decode(x5c(SIGNER.root)[0]), b"".join(map(str.encode, KIDS))):
        for kid in (*KIDS, "named"):
            with pytest.raises(TokenError):
                verified(hmac_token(secret, {"alg": "HS256", "kid": kid}))
