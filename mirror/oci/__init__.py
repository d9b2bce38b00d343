"""The protocol: what is true of the OCI and Docker distribution specs without a network or a disk.

Knows digests, names, manifests, error codes, requests, challenges and ranges. Must not know asyncio,
aiohttp or structlog: everything here is a plain function or a frozen value. Called by every other room.
"""
