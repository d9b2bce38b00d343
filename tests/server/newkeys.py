"""A client in TLS 1.3 that asks for new keys (RFC 8446 section 4.6.3): Python's ssl has no word for it."""

from __future__ import annotations

import ctypes
import socket
import ssl
from functools import cache
from pathlib import Path

import pytest

REQUESTED = 1  # openssl/ssl.h: SSL_KEY_UPDATE_REQUESTED
# Of CPython's PySSLSocket: behind the object's head (two words) and the socket stands OpenSSL's SSL*.
POINTER = 3 * ctypes.sizeof(ctypes.c_void_p)


class Client:
    """Its socket blocks; nothing is read from it unless that is asked for."""

    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self._library = _library()
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=5)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._engine = context.wrap_bio(self._incoming, self._outgoing, server_hostname="127.0.0.1")
        while not self._is_through():
            self._incoming.write(self._socket.recv(1 << 16))
        inner = self._engine._sslobj  # type: ignore[attr-defined]
        self._pointer = ctypes.c_void_p.from_address(id(inner) + POINTER).value
        assert self._library.SSL_version(self._pointer) == ssl.TLSVersion.TLSv1_3

    def _is_through(self) -> bool:
        try:
            self._engine.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._leave()
        return True

    def _leave(self) -> None:
        if self._outgoing.pending:
            self._socket.sendall(self._outgoing.read())

    def send(self, data: bytes) -> None:
        self._engine.write(data)
        self._leave()

    def ask(self, times: int) -> None:
        """For new keys of the server's, so many times at once. Raises OSError once the server is gone."""
        for _ in range(times):
            assert self._library.SSL_key_update(self._pointer, REQUESTED) == 1
            self._engine.do_handshake()
        self._leave()

    def read(self, count: int) -> bytes:
        """So many bytes at least. Raises OSError."""
        found = bytearray()
        while len(found) < count:
            try:
                found += self._engine.read(1 << 16)
            except ssl.SSLWantReadError:
                data = self._socket.recv(1 << 16)
                if not data:
                    raise ConnectionResetError from None
                self._incoming.write(data)
        return bytes(found)

    def close(self) -> None:
        self._socket.close()


@cache
def _library() -> ctypes.CDLL:
    """The one that Python's ssl has loaded."""
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    paths = {line.split()[-1] for line in lines if "libssl" in line}
    if len(paths) != 1:
        pytest.skip("Python's ssl has OpenSSL inside")
    library = ctypes.CDLL(paths.pop())
    library.SSL_version.argtypes = [ctypes.c_void_p]
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    return library
