"""Putting files into a bucket of Google's: small ones whole, large ones piece by piece, in one session each.

An object appears with the last piece, whole. A session that is not completed is never seen, and Google
forgets it after a week. With an object goes its MD5, and Google refuses what arrives otherwise; it says the
MD5 of what it has stored, too: what is something else all the same is deleted.
https://cloud.google.com/storage/docs/data-validation
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re

from mirror.drivers.answers import document, taken_apart
from mirror.drivers.base import DeniedError, DriverError, PathNotFoundError
from mirror.drivers.gcsclient import GcsClient, Reply
from mirror.drivers.growing import GrowingUpload, Uploads
from mirror.drivers.storeclient import time_for

TYPE = {"Content-Type": "application/octet-stream"}
_RANGE = re.compile(r"bytes=0-([0-9]{1,18})")
MORE = 308  # "resume incomplete": the next piece is wanted


class Sessions(Uploads):
    """The uploads of one bucket. Each has one piece in memory."""

    def __init__(self, client: GcsClient, part_size: int) -> None:
        super().__init__(self._send_file, part_size)
        self._client = client
        self._part_size = part_size

    async def put(self, path: str, data: bytes) -> None:
        """A small object."""
        url = self._client.upload(uploadType="media", name=self._client.key(path))
        md5 = hashlib.md5(data, usedforsecurity=False)
        headers = {**TYPE, **_hash(md5.digest())}
        reply = await self._client.call(
            path, "POST", url, headers=headers, body=data, limit=time_for(len(data))
        )
        await self._check(path, reply, len(data), md5.digest())

    async def _send_file(self, upload: GrowingUpload) -> None:
        if upload.size <= self._part_size:
            await self.put(upload.path, await upload.piece(0, upload.size))
            return
        url = self._client.upload(uploadType="resumable", name=self._client.key(upload.path))
        headers = {
            "X-Upload-Content-Type": TYPE["Content-Type"],
            "X-Upload-Content-Length": str(upload.size),
        }
        reply = await self._create(upload.path, url, headers, b"")
        session = reply.headers.get("Location", "")
        if not session.startswith("http"):
            raise DriverError(upload.path, "the storage opens no session for an upload")
        try:
            await self._send_pieces(upload, session)
        except BaseException:
            await self._forget(upload.path, session)
            raise

    async def _create(self, path: str, url: str, headers: dict[str, str], body: bytes) -> Reply:
        try:
            return await self._client.call(
                path, "POST", url, headers=headers, body=body, limit=time_for(len(body))
            )
        except PathNotFoundError as error:
            raise DeniedError(path, "the storage knows no such bucket: 404") from error

    async def _send_pieces(self, upload: GrowingUpload, session: str) -> None:
        md5 = hashlib.md5(usedforsecurity=False)
        start = 0
        while True:
            stop = min(start + self._part_size, upload.size)
            piece = await upload.piece(start, stop)
            await asyncio.to_thread(md5.update, piece)
            checksum = _hash(md5.digest()) if stop == upload.size else {}
            reply = await self._send_piece(upload, session, start, piece, checksum)
            piece = b""  # not held while the next one comes
            if reply is None:
                start = stop
                continue
            await self._check(upload.path, reply, upload.size, md5.digest())
            return

    async def _send_piece(
        self, upload: GrowingUpload, session: str, start: int, piece: bytes, checksum: dict[str, str]
    ) -> Reply | None:
        """None: the next one is wanted. Of a piece that was taken in part, the rest is sent.

        `checksum`: what the object is to have, if this is the last.
        """
        stop = start + len(piece)
        is_last = stop == upload.size
        at = start
        while True:
            headers = {**TYPE, **checksum, "Content-Range": f"bytes {at}-{stop - 1}/{upload.size}"}
            try:
                reply = await self._client.call(
                    upload.path,
                    "PUT",
                    session,
                    headers=headers,
                    body=piece[at - start :],
                    wanted=(200, 201, MORE),
                    limit=time_for(len(piece)),
                )
            except PathNotFoundError as error:  # an earlier attempt, whose answer was lost, was the last one
                if is_last:
                    return await self._stored(upload.path, error)
                raise
            if reply.status != MORE:
                if not is_last:
                    raise DriverError(upload.path, "the storage ended an upload before its end")
                return reply
            has = taken(reply)
            if has == stop and not is_last:
                return None
            if not at < has < stop:
                raise DriverError(upload.path, "the storage did not take a piece of an upload")
            at = has

    async def _stored(self, path: str, error: DriverError) -> Reply:
        try:
            return await self._client.call(path, "GET", self._client.objects(path))
        except PathNotFoundError:
            raise DriverError(path, "the upload is gone") from error

    async def _check(self, path: str, reply: Reply, size: int, md5: bytes) -> None:
        """Raises DriverError unless the object is what was to be stored; it is deleted then."""
        with taken_apart(path, "the storage does not say what it has stored"):
            found = document(reply.body) or {}
            same = int(found["size"]) == size
            told = found.get("md5Hash")
        if same and told in (None, base64.b64encode(md5).decode()):
            return
        which = {"generation": found["generation"]} if "generation" in found else {}
        await self._client.call(path, "DELETE", self._client.objects(path, **which), wanted=(200, 204, 404))
        raise DriverError(path, "the storage has stored something else than it was sent")

    async def _forget(self, path: str, session: str) -> None:
        """End a session; where that fails it ends by itself."""
        try:
            await self._client.call(path, "DELETE", session, wanted=(200, 204, 404, 410, 499))
        except DriverError:
            return


def _hash(md5: bytes) -> dict[str, str]:
    return {"X-Goog-Hash": f"md5={base64.b64encode(md5).decode()}"}


def taken(reply: Reply) -> int:
    """How many bytes a session has: of `Range: bytes=0-41`, 42."""
    last = _RANGE.fullmatch(reply.headers.get("Range", ""))
    return int(last[1]) + 1 if last is not None else 0
