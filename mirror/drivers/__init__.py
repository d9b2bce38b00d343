"""Bytes at paths: what would be the same for any files.

Knows how to write atomically and durably, to list, to read ranges. Must not know OCI, nor one another.
Called by `store` only.
"""
