"""Bytes at paths: what would be the same for any files.

Knows how to write atomically and durably, to list, to read ranges. Must not know OCI, nor one another: what
several need has modules of its own (`paths`, `patterns`, `flat`). The modules of `s3` are imported only where
that is configured: its library takes longer to import than all the rest.
Called by `store` only.
"""
