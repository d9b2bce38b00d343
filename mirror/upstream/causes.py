"""Why no usable answer came, in an operator's words. For the log: texts and hints hold addresses and names.

The library's errors are told apart by their types and numbers; of its texts only OpenSSL's are passed on.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
from dataclasses import dataclass

import aiohttp
from yarl import URL

from mirror.upstream.failures import Trouble

SAYS_LIMIT = 200  # characters of a parser's text, which may repeat what the other side sent

# X509_V_ERR_*: nobody whom we trust has signed it (openssl-verification-options(1), "Diagnostics").
_UNSIGNED = frozenset({2, 18, 19, 20, 21})
_WRONG_NAME = frozenset({62, 64})
_WRONG_TIME = frozenset({9, 10})
# What OpenSSL says about an answer in the clear.
_PLAIN = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"})
_NAMES = {
    socket.EAI_NONAME: "no such host",
    socket.EAI_AGAIN: "the name server does not answer",
}
if hasattr(socket, "EAI_NODATA"):  # glibc: the name is there, an address is not
    _NAMES[socket.EAI_NODATA] = "no such host"


@dataclass(frozen=True, slots=True)
class Cause:
    """A trouble's kind, what happened, and what would help (empty where that is not known).

    `reason` is for the client's text, if it says more than the kind: it holds no names.
    """

    trouble: Trouble
    text: str
    hint: str = ""
    reason: str = ""


def cause_of(error: Exception) -> Cause:
    """What a library's error means, that of a connection or of an answer."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return _certificate(error.certificate_error)
        case aiohttp.ClientConnectorSSLError():
            return _tls(error.os_error)
        case aiohttp.ClientProxyConnectionError():
            return Cause(Trouble.PROXY, _plain(error.os_error))
        case aiohttp.ClientConnectorDNSError():
            hint = f"see this machine's DNS for {error.host}, or proxy.httpproxy"
            return Cause(Trouble.NAME, _plain(error.os_error), hint)
        case aiohttp.ClientConnectorError():
            refuses = error.os_error.errno == errno.ECONNREFUSED
            reason = "it refuses connections" if refuses else ""
            return Cause(Trouble.REFUSED, _plain(error.os_error), reason=reason)
        case _:
            return _connected(error)


def _connected(error: Exception) -> Cause:
    """What an error means that came after the connection did."""
    match error:
        case ssl.SSLError():
            return _tls(error)
        case aiohttp.ClientHttpProxyError():
            return Cause(Trouble.PROXY, f"it answered {error.status}")
        case aiohttp.ClientResponseError():
            said = error.message.partition("\n")[0][:SAYS_LIMIT].rstrip(": ")
            return Cause(Trouble.NONSENSE, f"the answer is not HTTP: {said}")
        case ValueError():
            return Cause(Trouble.NONSENSE, f"the answer is not HTTP: {type(error).__name__}")
        case aiohttp.ServerDisconnectedError():
            return Cause(Trouble.BROKEN, "the connection was closed before an answer")
        case aiohttp.ClientPayloadError():
            return Cause(Trouble.BROKEN, "the connection was closed in the middle of the answer")
        case OSError():
            return Cause(Trouble.BROKEN, _plain(error))
        case _:
            return Cause(Trouble.BROKEN, type(error).__name__)


def late(trouble: Trouble, seconds: float) -> str:
    """What did not come within its time."""
    what = {
        Trouble.CROWDED: "no free connection",
        Trouble.CONNECT_TIMEOUT: "no connection",
        Trouble.FIRSTBYTE_TIMEOUT: "no answer",
        Trouble.STALLED: "nothing more of the answer",
    }[trouble]
    return f"{what} within {seconds:g} s"


def address(url: URL) -> str:
    """`host:port`, the port always."""
    host = url.host or ""
    return f"[{host}]:{url.port}" if ":" in host else f"{host}:{url.port}"


def _certificate(error: Exception) -> Cause:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return Cause(Trouble.UNTRUSTED, f"certificate verify failed: {error}"[:SAYS_LIMIT])
    code, hint = error.verify_code, ""
    if code in _UNSIGNED:
        hint = "set proxy.ca to a file with the certificate of the authority that signed it"
    elif code in _WRONG_NAME:
        hint = "the address in the configuration must be a name that the certificate is for"
    elif code in _WRONG_TIME:
        hint = "renew the certificate, or set the clock of this machine"
    return Cause(Trouble.UNTRUSTED, f"certificate verify failed: {error.verify_message.rstrip('.')}", hint)


def _tls(error: OSError) -> Cause:
    reason = getattr(error, "reason", None) or ""
    if reason in _PLAIN:
        return Cause(Trouble.NOT_TLS, f"TLS: {_words(reason)}", "the port answers without TLS: write http://")
    return Cause(Trouble.TLS, f"TLS: {_words(reason) or 'the connection was closed'}")


def _words(reason: str) -> str:
    """OpenSSL's `WRONG_VERSION_NUMBER` as it prints it itself."""
    return reason.replace("_", " ").lower()


def _plain(error: OSError) -> str:
    """The system's words, without the library's."""
    number = error.errno
    if isinstance(error, socket.gaierror):
        return _NAMES.get(number or 0, f"the name cannot be looked up: {error.strerror}")
    if not number or number < 0:
        return str(error)[:SAYS_LIMIT]
    text = os.strerror(number)
    return text[:1].lower() + text[1:]
