"""A recording, fault-injecting reverse proxy: what did they ask, how often, and what if it goes wrong?

Put between the mirror and its upstream (or in front of the mirror): `Recorder("http://127.0.0.1:5000")`.
Bytes and headers pass through unchanged, also those of a header that comes in several lines. Each request
becomes an `Exchange`; `Rule`s say what to do to which request, the first that matches counts.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

CHUNK = 1 << 16  # bytes relayed at a time
SERVER_TIMEOUT = 60.0  # seconds for the server behind, which is on this machine
HOLD_TIMEOUT = 30.0  # seconds after which a held answer is broken off: the test forgot `release`
BACKLOG = 128  # connections that wait to be accepted: more than any test opens at once
HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "upgrade"}


@dataclass(slots=True)
class Exchange:
    """One request and what came of it. Times are seconds of time.monotonic."""

    method: str  # "?": no HTTP request, such as a TLS hello
    target: str  # path and query, as sent
    request_headers: dict[str, str]  # names in lower case; " | " between a repeated one's values
    start: float
    status: int = 0  # 0: no answer was sent
    response_headers: dict[str, str] = field(default_factory=dict)  # names in lower case
    body_bytes: int = 0  # of the answer, as far as sent
    end: float | None = None  # None: still under way
    outcome: str = ""  # "ok", or what went wrong: "truncated", "client went away", …

    def __str__(self) -> str:
        extra = [
            f"{name}={self.request_headers[name]}" for name in ("range",) if name in self.request_headers
        ]
        if "authorization" in self.request_headers:
            extra.append("auth=" + self.request_headers["authorization"].split()[0])
        if self.outcome != "ok":
            extra.append(f"[{self.outcome or 'under way'}]")
        return " ".join([self.method, self.target, "->", str(self.status), f"{self.body_bytes}B", *extra])


@dataclass(slots=True)
class Rule:
    """What to do to the requests that it matches. A plain Rule passes them on untouched."""

    path: str = ""  # regular expression, searched in path and query
    method: str = ".*"  # regular expression, the whole method
    times: int | None = None  # apply this often, then never again
    status: int | None = None  # answer this, with an error document, without asking the server behind
    truncate: int | None = None  # send only so many bytes of the body, then close the connection
    corrupt: int | None = None  # change the byte at this offset of the body
    damage: int | None = None  # change the byte at this offset of the request's body
    hold: int | None = None  # send so many bytes of the body, the rest after Recorder.release()
    wait: bool = False  # ask the server behind only after Recorder.release()
    lose: bool = False  # have the server behind do it, and send nothing of its answer
    reset: bool = False  # TCP reset with no answer, or, with truncate, after so much of it

    def take(self, exchange: Exchange) -> bool:
        """Whether it applies to this exchange; counts `times` down."""
        if not re.fullmatch(self.method, exchange.method) or not re.search(self.path, exchange.target):
            return False
        if self.times is not None:
            self.times -= 1
            return self.times >= 0
        return True


class _Dropped(Exception):
    """The rule says to end the connection here."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    raw_requestline: bytes  # set by http.server

    def setup(self) -> None:
        super().setup()
        self.recorder = self.server.recorder

    def log_message(self, *_args: object) -> None:
        """Nothing is printed: the exchanges are the log."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # a client that went away is recorded in its exchange

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Record what was no HTTP request; most often a client that tries TLS first."""
        exchange = Exchange("?", "?", {}, time.monotonic(), code, end=time.monotonic())
        exchange.outcome = "TLS hello" if self.raw_requestline[:1] == b"\x16" else f"bad request: {message}"
        self.recorder.exchanges.append(exchange)
        super().send_error(code, message, explain)

    def handle_any(self) -> None:
        """Every method: record, apply the rule, relay."""
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            known = headers.get(name.lower())
            headers[name.lower()] = value if known is None else f"{known} | {value}"
        exchange = Exchange(self.command, self.path, headers, time.monotonic())
        rule = self.recorder.started(exchange)
        try:
            self.answer(exchange, rule)
            exchange.outcome = exchange.outcome or "ok"
        except _Dropped as why:
            exchange.outcome = str(why)
            self.drop(rule.reset)
        except OSError as error:
            exchange.outcome = exchange.outcome or f"client went away ({type(error).__name__})"
            self.close_connection = True
        finally:
            exchange.end = time.monotonic()

    # The names that http.server looks for.
    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815
    do_PATCH = do_DELETE = do_OPTIONS = handle_any  # noqa: N815

    def drop(self, reset: bool) -> None:
        """End the connection now, with a TCP reset or in an orderly way."""
        self.close_connection = True
        if reset:
            # Linger of 0 s: the close that follows the handler sends RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def reply(self, exchange: Exchange, status: int, body: bytes) -> None:
        """An answer of the recorder's own."""
        exchange.status = status
        headers = {"content-length": str(len(body)), "content-type": "application/json"}
        exchange.response_headers = headers
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
            exchange.body_bytes = len(body)

    def answer(self, exchange: Exchange, rule: Rule) -> None:
        """Ask the server behind, unless the rule has the answer."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if rule.damage is not None:
            body = body[: rule.damage] + bytes([body[rule.damage] ^ 0xFF]) + body[rule.damage + 1 :]
        if rule.reset and rule.truncate is None:
            raise _Dropped("reset")
        if rule.status is not None:
            error = {"errors": [{"code": "UNKNOWN", "message": f"injected {rule.status}"}]}
            self.reply(exchange, rule.status, json.dumps(error).encode())
            return
        if rule.wait and not self.recorder.gate.wait(HOLD_TIMEOUT):
            raise _Dropped("waited for too long")
        address = urlsplit(self.recorder.upstream)
        behind = http.client.HTTPConnection(address.hostname or "", address.port, timeout=SERVER_TIMEOUT)
        try:
            try:
                behind.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                # One by one: a header such as Accept comes in several lines.
                for name, value in self.headers.items():
                    if name.lower() not in HOP_BY_HOP:
                        behind.putheader(name, value)
                behind.endheaders(body or None)
                response = behind.getresponse()
            except (OSError, http.client.HTTPException) as error:
                exchange.outcome = f"server behind: {error!r}"
                self.reply(exchange, 502, b"")
                return
            if rule.lose:
                response.read()
                raise _Dropped("lost")
            with response:
                self.relay(exchange, rule, response)
        finally:
            behind.close()

    def relay(self, exchange: Exchange, rule: Rule, response: http.client.HTTPResponse) -> None:
        """Pass the server's answer on, with the rule's changes."""
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
        exchange.status = response.status
        exchange.response_headers = {name.lower(): value for name, value in headers}
        has_body = self.command != "HEAD" and response.status not in (204, 304)
        chunked = has_body and "content-length" not in exchange.response_headers
        self.send_response_only(response.status)
        for name, value in headers:
            self.send_header(name, value)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if not has_body:
            return
        while data := response.read(self.room(exchange, rule)):
            if rule.corrupt is not None and 0 <= rule.corrupt - exchange.body_bytes < len(data):
                changed = bytearray(data)
                changed[rule.corrupt - exchange.body_bytes] ^= 0xFF
                data = bytes(changed)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
            exchange.body_bytes += len(data)
            if exchange.body_bytes == rule.truncate:
                raise _Dropped("truncated")
            if exchange.body_bytes == rule.hold and not self.recorder.gate.wait(HOLD_TIMEOUT):
                raise _Dropped("held for too long")
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def room(self, exchange: Exchange, rule: Rule) -> int:
        """How many bytes to relay next: up to the next offset where the rule does something."""
        ends = [end - exchange.body_bytes for end in (rule.truncate, rule.hold) if end is not None]
        return min([CHUNK, *(end for end in ends if end > 0)])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = BACKLOG
    recorder: Recorder

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no error of ours."""


class Recorder:
    """A reverse proxy of `upstream` on a loopback port, from construction to `stop`."""

    def __init__(self, upstream: str, port: int = 0) -> None:
        self.upstream = upstream
        self.exchanges: list[Exchange] = []
        self.gate = threading.Event()  # set: nothing is held
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.recorder = self
        self.port: int = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """From now on its port refuses connections."""
        self.release()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def clear(self, *rules: Rule) -> None:
        """Forget what was recorded; from now on obey these rules and no others."""
        with self._lock:
            self._rules, self.exchanges = list(rules), []
            self.gate.clear()

    def release(self) -> None:
        """Let go on what a rule's `hold` holds, now and until `clear`."""
        self.gate.set()

    def select(self, method: str = ".*", path: str = "") -> list[Exchange]:
        """The recorded exchanges whose whole method and part of whose target match."""
        return [e for e in self.exchanges if re.fullmatch(method, e.method) and re.search(path, e.target)]

    def trace(self) -> str:
        """All exchanges, one a line: for the message of an assertion."""
        return "\n".join(str(exchange) for exchange in self.exchanges)

    def started(self, exchange: Exchange) -> Rule:
        """Record the exchange; the rule for it."""
        with self._lock:
            self.exchanges.append(exchange)
            return next((rule for rule in self._rules if rule.take(exchange)), Rule())
