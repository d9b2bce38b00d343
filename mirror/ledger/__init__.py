"""What the mirror remembers of use and freshness, beside the tree; it can be lost at any time.

Knows records and how they are written. Must not know HTTP, the store, or what the records decide. Called by
`cache`.
"""
