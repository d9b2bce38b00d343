"""HTTP in, Registry calls out: reads a request or writes a response.

Knows aiohttp.web, headers and statuses. Must not know the store, the upstream, the cache or the
configuration: it is given a Registry and plain values. Called by `app`.
"""
