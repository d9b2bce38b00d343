"""A bucket of the real S3 server for each test, emptied afterwards by being forgotten."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from mirror.drivers.s3settings import S3Settings
from tests.support.swift import ACCESS_KEY, REGION, SECRET_KEY, SwiftServer

_numbers = itertools.count(1)


class Bucket:
    """A root of its own in one bucket: nothing of another test is seen there."""

    def __init__(self, server: SwiftServer) -> None:
        self.server = server
        self.name = server.bucket
        self.root = f"test{next(_numbers)}"

    def settings(self, url: str | None = None, **others: Any) -> S3Settings:
        """For the driver; by way of `url` where that is given."""
        return S3Settings(
            **{
                "bucket": self.name,
                "region": REGION,
                "endpoint": url or self.server.url,
                "path_style": True,
                "access_key": ACCESS_KEY,
                "secret_key": SECRET_KEY,
                "root": self.root,
                **others,
            }
        )

    def parameters(self, url: str | None = None, **others: Any) -> dict[str, Any]:
        """The registry's `s3` section."""
        return {**self.server.parameters(self.name, url), "rootdirectory": f"/{self.root}", **others}

    async def keys(self) -> list[str]:
        """All that is in it, as the server says, and all uploads that nobody has completed."""
        return await asyncio.to_thread(self._keys)

    def _keys(self) -> list[str]:
        """Swift keeps parts at KEY/UPLOAD/NUMBER in a bucket beside, and KEY/UPLOAD until it is completed."""
        prefix = f"{self.root}/"
        found = [key.removeprefix(prefix) for key in self.server.names(self.name, prefix)]
        pieces = [key.rpartition("/") for key in self.server.names(f"{self.name}+segments", prefix)]
        return found + [f"upload of {key}" for key, _, last in pieces if not last.isdigit()]
