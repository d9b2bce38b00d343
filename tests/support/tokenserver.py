"""A token server (distribution, "Token Authentication Specification") whose tokens docker-registry takes.

docker-registry 2.8 checks the signature by the certificate chain in the token's x5c header, against its
rootcertbundle: `TokenServer.auth` is the `auth` section for it.
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support.registries import basic_auth

ISSUER = "tests.example"
SERVICE = "upstream.example"
KEY_BITS = 2048


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What was asked of the token server, and with which answer."""

    service: str
    scopes: tuple[str, ...]
    account: str
    authorization: str  # the header, "" without
    status: int


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_args: object) -> None:
        """Nothing is printed: `requests` is the log."""

    def do_GET(self) -> None:
        self._answer(*self.server.owner.answer(self.path, self.headers.get("Authorization", "")))

    def do_POST(self) -> None:
        """OAuth2's password grant, which containerd asks for when it has a login."""
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        login = (form.get("username", [""])[0], form.get("password", [""])[0])
        asked = [(name, value) for name in ("service", "scope") for value in form.get(name, [])]
        query = urlencode(asked)
        status, document = self.server.owner.answer(f"/token?{query}", basic_auth(login))
        self._answer(status, {**document, "access_token": document.get("token", "")})

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: TokenServer


class TokenServer:
    """Gives tokens of `lifetime` seconds to `login`; without one, to everybody. Runs until `stop`.

    `guests`: by their logins, the only repositories that they may pull; for others their tokens say nothing.
    """

    def __init__(
        self,
        folder: Path,
        login: tuple[str, str] | None = None,
        lifetime: int = 300,
        guests: Mapping[tuple[str, str], Collection[str]] | None = None,
    ) -> None:
        self.login = login
        self._guests = {basic_auth(guest): frozenset(names) for guest, names in (guests or {}).items()}
        self.lifetime = lifetime
        self.requests: list[TokenRequest] = []
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        certificate = _self_signed(self._key)
        self._x5c = base64.b64encode(certificate.public_bytes(Encoding.DER)).decode()
        bundle = folder / "token-root.pem"
        bundle.write_bytes(certificate.public_bytes(Encoding.PEM))
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self.realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        self.auth: dict[str, Any] = {
            "token": {
                "realm": self.realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(bundle),
            }
        }
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """From now on its port refuses connections."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, target: str, authorization: str) -> tuple[int, dict[str, Any]]:
        """Status and JSON for a GET of the realm."""
        query = parse_qs(urlsplit(target).query)
        scopes = tuple(query.get("scope", []))
        service, account = query.get("service", [""])[0], query.get("account", [""])[0]
        only = self._guests.get(authorization)
        known = self.login is None or authorization == basic_auth(self.login) or only is not None
        status = 200 if known else 401
        self.requests.append(TokenRequest(service, scopes, account, authorization, status))
        if status == 401:
            return status, {"details": "incorrect username or password"}
        return status, {
            "token": self._token(service, account, scopes, only),
            "expires_in": self.lifetime,
            "issued_at": datetime.now(UTC).isoformat(),
        }

    def _token(
        self, service: str, account: str, scopes: tuple[str, ...], only: Collection[str] | None
    ) -> str:
        access = []
        for scope in scopes:
            kind, rest = scope.split(":", 1)
            name, actions = rest.rsplit(":", 1)
            # Whatever is asked for, pulling is all that anybody gets.
            may = only is None or name in only
            granted = [action for action in actions.split(",") if may and action == "pull"]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": account,
            "aud": service,
            "iat": now,
            "nbf": now - 1,
            "exp": now + self.lifetime,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        return jwt.encode(claims, self._key, "RS256", {"x5c": [self._x5c]})


def _self_signed(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, ISSUER)])
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
