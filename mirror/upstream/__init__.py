"""What somebody else has: a Registry over the network.

Knows challenges, tokens, redirects, time-outs and retries. Must not know the store, nor serve anything
itself. Called by `cache`.
"""
