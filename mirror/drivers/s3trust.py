"""Whose certificates an S3 server may have: those of Mozilla's authorities, and of this machine's."""

from __future__ import annotations

import ssl

from aiobotocore.httpsession import AIOHTTPSession


class TrustingSession(AIOHTTPSession):  # type: ignore[misc]  # it has no types
    """aiobotocore's, which alone would believe Mozilla's list, or what AWS_CA_BUNDLE names, and nobody else.

    registry:2 believes what its machine does, such as a company's own authority.
    """

    def _get_ssl_context(self) -> ssl.SSLContext:
        """In a thread, where certificates are looked at."""
        context: ssl.SSLContext = super()._get_ssl_context()
        if self._verify:
            context.load_default_certs()
        return context
