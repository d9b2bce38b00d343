"""Who may pull from us, and what: by an Authorization header, a file of users, keys, patterns of names.

Knows challenges, access records and credentials. Must not know HTTP servers and clients, nor what is kept.
Called by `server`, before any registry is asked.
"""
