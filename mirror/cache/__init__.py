"""A Registry made of store and upstream: chooses between local and remote, and ages things.

Knows fills, coalescing and who may read what. Must not know aiohttp, nor a driver. Called by `server`
through the Registry protocol.
"""
