"""What we have: a Registry on a driver, in distribution's tree.

Knows paths such as `_layers/sha256/…/link`, and that a broken link reads as missing. Must not know HTTP or
the upstream. Called by `cache`, and by the server's tests.
"""
