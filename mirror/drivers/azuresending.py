"""What is put into a container, by Microsoft's own library: with each body its MD5, which Azure checks.

obstore, by which all else is asked, sends no checksums to Azure.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
from collections.abc import Sequence

from azure.core.credentials import AzureSasCredential
from azure.storage.blob import BlobBlock, ContentSettings
from azure.storage.blob.aio import BlobClient, ContainerClient, ExponentialRetry

from mirror.drivers.azurelogin import TokenLogin
from mirror.drivers.azuresettings import AzureSettings
from mirror.drivers.slice import Slice

API = "2023-11-03"  # obstore's too: so that a server has to know one version only
WHOLE = 1 << 20  # bytes; what is larger goes in blocks: the library would write it to the socket in one go
INLINE = 64 << 10  # bytes that are hashed without more ado
TYPE = ContentSettings(content_type="application/octet-stream")

# Else each request is two records, with its URL: what went wrong is told by us.
for _name in ("azure", "msal"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Sending:
    """One for each container; its connections are made by the first that needs one. Raises as the library."""

    def __init__(
        self, settings: AzureSettings, login: TokenLogin | None, connect: float, silence: float
    ) -> None:
        """`connect`, `silence`: seconds until a connection is there; without a byte."""
        delay, retries = settings.retry_delay, settings.retries
        self._container = ContainerClient(
            settings.endpoint,
            settings.container,
            credential=_given(settings) if login is None else login,
            api_version=API,
            retry_policy=ExponentialRetry(
                # Whole seconds by its types; it only counts with them.
                initial_backoff=delay,  # type: ignore[arg-type]
                increment_base=1,
                random_jitter_range=delay / 2,  # type: ignore[arg-type]
                retry_total=retries,
                retry_connect=retries,
                retry_read=retries,
                retry_status=retries,
            ),
            permit_redirects=False,
            connection_timeout=connect,
            read_timeout=silence,
            connection_verify=settings.verify,
            max_single_put_size=WHOLE,
            user_agent=settings.user_agent or None,
        )

    async def put(self, key: str, data: bytes) -> None:
        """A blob of at most WHOLE bytes, in one request."""
        await self._blob(key).upload_blob(
            data,
            length=len(data),
            overwrite=True,
            content_settings=TYPE,
            transactional_content_md5=await _md5(data),
        )

    async def stage(self, key: str, name: str, data: bytes | Slice) -> None:
        """A block of a blob that is yet to be made; a part of a file is read while it is sent."""
        if isinstance(data, bytes):
            checksum = await _md5(data)
        else:
            checksum = bytearray(await asyncio.to_thread(data.digest))
        await self._blob(key).stage_block(
            name,
            io.BytesIO(data) if isinstance(data, bytes) else data,
            length=len(data),
            transactional_content_md5=checksum,
        )

    async def commit(self, key: str, names: Sequence[str]) -> None:
        """Make a blob of blocks, all of which were staged."""
        await self._blob(key).commit_block_list(
            [BlobBlock(name) for name in names], content_settings=TYPE, validate_content=True
        )

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        await self._container.close()

    def _blob(self, key: str) -> BlobClient:
        return self._container.get_blob_client(key)


def _given(settings: AzureSettings) -> dict[str, str] | AzureSasCredential:
    if settings.shared_access:
        return AzureSasCredential(settings.shared_access)
    return {"account_name": settings.account, "account_key": settings.key}


async def _md5(data: bytes) -> bytearray:
    """As the library wants it."""
    if len(data) <= INLINE:
        return bytearray(hashlib.md5(data, usedforsecurity=False).digest())
    return bytearray((await asyncio.to_thread(hashlib.md5, data, usedforsecurity=False)).digest())
