"""URLs with a signature of version 4, as Google documents them. No I/O.

https://cloud.google.com/storage/docs/authentication/canonical-requests
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote, urlsplit

ALGORITHM = "GOOG4-RSA-SHA256"
LONGEST = 7 * 86400  # seconds; Google signs for no longer


@dataclass(frozen=True, slots=True)
class Unsigned:
    """`text` is to be signed; `url` with `&X-Goog-Signature=` and the signature in hexadecimal is the URL."""

    url: str
    text: bytes


def prepare(endpoint: str, bucket: str, key: str, email: str, seconds: float, now: datetime) -> Unsigned:
    """For a GET of one object. `now` is in UTC."""
    path = f"/{quote(bucket, safe='')}/{quote(key, safe='/~')}"
    host = urlsplit(endpoint).netloc
    date = now.strftime("%Y%m%d")
    scope = f"{date}/auto/storage/goog4_request"
    moment = f"{date}T{now.strftime('%H%M%S')}Z"
    query = "&".join(
        f"{name}={quote(value, safe='~')}"
        for name, value in (
            ("X-Goog-Algorithm", ALGORITHM),
            ("X-Goog-Credential", f"{email}/{scope}"),
            ("X-Goog-Date", moment),
            ("X-Goog-Expires", str(int(min(seconds, LONGEST)))),
            ("X-Goog-SignedHeaders", "host"),
        )
    )
    canonical = f"GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return Unsigned(f"{endpoint}{path}?{query}", f"{ALGORITHM}\n{moment}\n{scope}\n{digest}".encode())
