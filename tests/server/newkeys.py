"""A client in TLS 1.3 that asks for new keys (RFC 8446 section 4.6.3): Python's ssl has no word for it.

It is OpenSSL's own client, of the library that the `openssl` program has: Python's may be a part of Python.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import socket
from functools import cache

from tests.support.programs import find, missing

REQUESTED = 1  # openssl/ssl.h: SSL_KEY_UPDATE_REQUESTED
TLS_1_3 = 0x0304  # openssl/tls1.h: TLS1_3_VERSION
WANT_READ = 2  # openssl/ssl.h: SSL_ERROR_WANT_READ
PIECE = 1 << 16  # bytes

# What it gives, and what it takes: P for a pointer, i for an int, b for bytes.
_FUNCTIONS = {
    "TLS_client_method": "P",
    "SSL_CTX_new": "PP",
    "SSL_CTX_free": "-P",
    "SSL_new": "PP",
    "SSL_free": "-P",
    "SSL_set_bio": "-PPP",
    "SSL_set_connect_state": "-P",
    "SSL_do_handshake": "iP",
    "SSL_get_error": "iPi",
    "SSL_version": "iP",
    "SSL_key_update": "iPi",
    "SSL_read": "iPbi",
    "SSL_write": "iPbi",
}
_OF_CRYPTO = {
    "ERR_clear_error": "-",
    "BIO_s_mem": "P",
    "BIO_new": "PP",
    "BIO_read": "iPbi",
    "BIO_write": "iPbi",
}
_TYPES = {"P": ctypes.c_void_p, "i": ctypes.c_int, "b": ctypes.c_char_p, "-": None}


class Client:
    """Its socket blocks; nothing is read from it unless that is asked for. It believes any certificate."""

    def __init__(self, port: int) -> None:
        self._ssl, self._crypto = _library("ssl"), _library("crypto")
        self._buffer = ctypes.create_string_buffer(PIECE)
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        memory = self._crypto.BIO_s_mem()
        self._incoming, self._outgoing = self._crypto.BIO_new(memory), self._crypto.BIO_new(memory)
        self._context = self._ssl.SSL_CTX_new(self._ssl.TLS_client_method())
        self._engine = self._ssl.SSL_new(self._context)
        self._ssl.SSL_set_bio(self._engine, self._incoming, self._outgoing)
        self._ssl.SSL_set_connect_state(self._engine)
        while not self._is_through():
            self._take()
        assert self._ssl.SSL_version(self._engine) == TLS_1_3

    def _is_through(self) -> bool:
        self._crypto.ERR_clear_error()  # of whatever this thread did before
        done = self._ssl.SSL_do_handshake(self._engine)
        assert done == 1 or self._ssl.SSL_get_error(self._engine, done) == WANT_READ
        self._leave()
        return bool(done == 1)

    def _leave(self) -> None:
        """What OpenSSL has made goes. Raises OSError once the server is gone."""
        while (count := self._crypto.BIO_read(self._outgoing, self._buffer, PIECE)) > 0:
            self._socket.sendall(self._buffer.raw[:count])

    def _take(self) -> None:
        """What has come is OpenSSL's. Raises OSError."""
        data = self._socket.recv(PIECE)
        if not data:
            raise ConnectionResetError
        assert self._crypto.BIO_write(self._incoming, data, len(data)) == len(data)

    def send(self, data: bytes) -> None:
        assert self._ssl.SSL_write(self._engine, data, len(data)) == len(data)
        self._leave()

    def ask(self, times: int) -> None:
        """For new keys of the server's, so many times at once. Raises OSError once the server is gone."""
        for _ in range(times):
            assert self._ssl.SSL_key_update(self._engine, REQUESTED) == 1
            assert self._ssl.SSL_do_handshake(self._engine) == 1
        self._leave()

    def read(self, count: int) -> bytes:
        """So many bytes at least. Raises OSError."""
        found = bytearray()
        while len(found) < count:
            self._crypto.ERR_clear_error()
            got = self._ssl.SSL_read(self._engine, self._buffer, PIECE)
            if got > 0:
                found += self._buffer.raw[:got]
            else:
                assert self._ssl.SSL_get_error(self._engine, got) == WANT_READ
                self._take()
        return bytes(found)

    def close(self) -> None:
        self._ssl.SSL_free(self._engine)  # and its two buffers
        self._ssl.SSL_CTX_free(self._context)
        self._socket.close()


@cache
def _library(name: str) -> ctypes.CDLL:
    """libssl or libcrypto of the machine; each function with its types."""
    find("openssl")
    path = ctypes.util.find_library(name)
    if path is None:
        missing(f"lib{name} is not installed (Debian package openssl)")
    library = ctypes.CDLL(path)
    for function, types in (_FUNCTIONS if name == "ssl" else _OF_CRYPTO).items():
        gives, *takes = (_TYPES[each] for each in types)
        found = getattr(library, function)
        found.restype, found.argtypes = gives, takes
    return library
