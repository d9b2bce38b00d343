"""Whether what answers is an S3 server: a console's port, a portal or a proxy say 200 to everything as well.

NB: botocore takes whatever document for the one that was asked for, only with nothing in it: of a page it
makes an empty bucket, and what a listing leaves out is taken for gone.
"""

from __future__ import annotations

from typing import Any, Final

from mirror.drivers.answers import line

NO_S3: Final = "no S3"  # the reason of a DeniedError: another server answers
TYPE_LIMIT: Final = 60  # characters of a server's media type
HEAD: Final = 2048  # bytes of a document in which its root's name is
ASKED: Final = {
    "ListObjectsV2": "a listing was asked for",
    "PutObject": "a file was put",
    "UploadPart": "a part of a file was put",
    "HeadObject": "a file was asked for",
    "GetObject": "a file was asked for",
}


class OtherServerError(Exception):
    """What answers is no S3 server; the text says by what that is told."""


def check_answer(operation_model: Any, response_dict: Any, **_: Any) -> None:
    """botocore's event `before-parse`. Raises OtherServerError; a body that streams is closed then."""
    status, headers, body = (response_dict[key] for key in ("status_code", "headers", "body"))
    if not 200 <= status < 300:
        return
    name = operation_model.name
    if _is_right(name, status, headers, body):
        return
    if hasattr(body, "close"):
        body.close()
    media = line(str(headers.get("Content-Type") or "no Content-Type").partition(";")[0], TYPE_LIMIT)
    lacks = ", and no ETag," if name in ("PutObject", "UploadPart") else ""
    asked = ASKED.get(name, f"{name} was asked for")
    raise OtherServerError(f"what answers is no S3 server: {status} with {media}{lacks} where {asked}")


def _is_right(name: str, status: int, headers: Any, body: Any) -> bool:
    """Only what no S3 server leaves out is looked for: Swift's says text/html of what has no body."""
    if name == "ListObjectsV2":
        start = body[:HEAD]
        return b"ListBucketResult" in start or b"<Error" in start  # the latter is botocore's to tell
    if "ETag" in headers:
        return True
    if name == "UploadPart":  # without it the parts cannot be put together
        return False
    if any(key.lower().startswith("x-amz-") for key in headers):
        return True  # Swift's leaves out the ETag of what another writer has replaced meanwhile
    is_page = status == 200 and str(headers.get("Content-Type") or "").lower().startswith("text/html")
    return name != "PutObject" and not is_page
