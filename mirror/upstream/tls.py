"""What TLS connections to an upstream trust, and who they say we are."""

from __future__ import annotations

import functools
import ssl
from dataclasses import dataclass
from pathlib import Path

from mirror.upstream.failures import TransportError, Trouble
from mirror.upstream.settings import Settings


@dataclass(frozen=True, slots=True)
class Contexts:
    """`own` is for the registry's own host: it has the client certificate. `others` is for all the others.

    A token server or a blob storage elsewhere must not learn who we are at the registry. Both trust the same.
    """

    own: ssl.SSLContext
    others: ssl.SSLContext


def contexts(settings: Settings) -> Contexts:
    """Read the files. Blocks. Raises TransportError(LOCAL), whose cause names the key."""
    plain = settings.ca_file is None and not settings.insecure
    others = _system() if plain else _trusting(settings)
    if settings.client_cert is None:
        return Contexts(others, others)
    own = _trusting(settings)
    _present(own, settings.client_cert, settings.client_key)
    return Contexts(own, others)


@functools.lru_cache(maxsize=1)
def _system() -> ssl.SSLContext:
    """The system's authorities: one for all, as it has no secret, takes 30 ms to read and 900 KiB to keep.

    Nobody must change it.
    """
    return ssl.create_default_context()


def _trusting(settings: Settings) -> ssl.SSLContext:
    """The system's authorities and the configured file; or, where that is configured, anybody."""
    context = ssl.create_default_context()
    if settings.ca_file is not None:
        try:
            context.load_verify_locations(cafile=settings.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise _unusable("CA file", "proxy.ca", settings.ca_file, error) from error
    if settings.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _present(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    for name, path in (("clientcert", certificate), ("clientkey", key)):
        try:
            if path is not None:
                path.open("rb").close()  # the library's error does not say which of the two it means
        except OSError as error:
            raise _unusable("client certificate", f"proxy.{name}", path, error) from error
    try:
        # Without a password OpenSSL would ask for one on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except OSError as error:
        raise _unusable("client certificate", "proxy.clientcert", certificate, error) from error


def _unusable(what: str, key: str, path: Path | None, error: OSError) -> TransportError:
    return TransportError(
        Trouble.LOCAL, f"the configured {what} cannot be used", cause=f"{key}: {path}: {_reason(error)}"
    )


def _reason(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return error.strerror or str(error)
    # OpenSSL has one error without a reason for all that it cannot read.
    return (error.reason or "no usable PEM in it (a key must not be encrypted)").replace("_", " ").lower()
