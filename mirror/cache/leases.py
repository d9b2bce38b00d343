"""The leases that are out, by what they depend on: whoever changes that ends them in the same call."""

from __future__ import annotations

from collections import OrderedDict

from mirror.lease import Lease
from mirror.oci.digest import Digest
from mirror.oci.names import Reference, Repository, Tag

# Leases out at a time, 1 KiB each: twice as many as the server has answers to repeat. The oldest ends early.
LIMIT = 16_384

# NB: a manifest may be read as a blob: of a blob's own answers there is no reference.
Key = tuple[Repository, Reference | None, Digest]
Ground = Digest | tuple[Repository, Tag]


class Leases:
    """One lease for each key, however many answers say the same."""

    def __init__(self) -> None:
        self._leases: OrderedDict[Key, Lease] = OrderedDict()
        self._on: dict[Ground, dict[Key, None]] = {}

    def held(self, key: Key, now: float) -> Lease | None:
        """The one that is out, if it holds."""
        lease = self._leases.get(key)
        return lease if lease is not None and lease.holds(now) else None

    def grant(self, key: Key, lease: Lease) -> Lease:
        """This one, instead of an earlier one."""
        self._end(key)
        while len(self._leases) >= LIMIT:
            self._end(next(iter(self._leases)))
        self._leases[key] = lease
        for ground in _grounds(key):
            self._on.setdefault(ground, {})[key] = None
        return lease

    def digest_changed(self, digest: Digest) -> None:
        """Its bytes are gone, or some repository has it no more."""
        for key in tuple(self._on.get(digest, ())):
            self._end(key)

    def tag_changed(self, repository: Repository, tag: Tag) -> None:
        """The upstream has spoken about it anew, or the store has it no more."""
        for key in tuple(self._on.get((repository, tag), ())):
            self._end(key)

    def _end(self, key: Key) -> None:
        lease = self._leases.pop(key, None)
        if lease is None:
            return
        lease.end()
        for ground in _grounds(key):
            keys = self._on[ground]
            del keys[key]
            if not keys:
                del self._on[ground]


def _grounds(key: Key) -> tuple[Ground, ...]:
    repository, reference, digest = key
    return (digest, (repository, reference)) if isinstance(reference, Tag) else (digest,)
