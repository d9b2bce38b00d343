"""Checks of tags with the upstream: one at a time for each tag, shared by all who wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from mirror.cache.away import AWAY
from mirror.cache.manifests import Manifests
from mirror.cache.patience import Patience
from mirror.cache.pulse import Pulse
from mirror.cache.tags import Tags
from mirror.coalesce import Coalescer
from mirror.oci.descriptor import Descriptor
from mirror.oci.names import Repository, Tag
from mirror.registry import RawManifest, RegistryError, Resolved, Upstream


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check brought. `failure`: why the manifest is not here that the tag has moved to."""

    descriptor: Descriptor
    manifest: RawManifest | None = None
    failure: RegistryError | None = None


class Checks:
    """`clock` is the wall clock, see Tagged."""

    def __init__(
        self,
        upstream: Upstream,
        manifests: Manifests,
        tags: Tags,
        patience: Patience,
        pulse: Pulse,
        clock: Callable[[], float],
    ) -> None:
        self._pulse = pulse
        self._upstream = upstream
        self._manifests = manifests
        self._tags = tags
        self._patience = patience
        self._clock = clock
        self._running: Coalescer[tuple[Repository, Tag], Checked] = Coalescer()

    def is_running(self, repository: Repository, tag: Tag) -> bool:
        """Whether this tag is being checked."""
        return self._running.is_running((repository, tag))

    def start(
        self, repository: Repository, tag: Tag, namespace: str, points: Descriptor | None
    ) -> asyncio.Task[Checked]:
        """The check under way, or a new one; shield it when awaiting.

        `points`: where the tag points by a word that is still fresh; then only the manifest is fetched.
        """
        return self._running.start((repository, tag), lambda: self._timed(repository, tag, namespace, points))

    async def close(self) -> None:
        """End what runs."""
        await self._running.close()

    async def _timed(
        self, repository: Repository, tag: Tag, namespace: str, points: Descriptor | None
    ) -> Checked:
        began = time.monotonic()
        self._patience.began(namespace)
        try:
            return await self._check(repository, tag, points)
        finally:
            self._patience.ended(namespace, time.monotonic() - began)

    async def _check(self, repository: Repository, tag: Tag, points: Descriptor | None) -> Checked:
        """Where the tag points, with the manifest if it is here, or a copy is that it takes the place of."""
        if points is not None:
            checked = await self._pointed(repository, points)
            if checked is not None:
                return checked
        resolved = await self._ask(repository, tag)
        digest = resolved.descriptor.digest
        manifest = resolved.manifest
        if manifest is not None:
            await self._manifests.remember(repository, manifest)
        else:
            manifest = await self._manifests.here(repository, digest)
        if manifest is not None:
            self._manifests.keep(repository, manifest)
            return Checked(manifest.descriptor, manifest)
        if await self._manifests.tagged(repository, tag) is None:
            return Checked(resolved.descriptor)
        # The client asks for the new one next, and could not go back to the kept one.
        try:
            manifest = await self._manifests.fetch(repository, digest)
        except RegistryError as error:
            return Checked(resolved.descriptor, failure=error)
        return Checked(manifest.descriptor, manifest)

    async def _pointed(self, repository: Repository, points: Descriptor) -> Checked | None:
        """The manifest to which a word points that is fresh; None where the upstream has it no more.

        Then the tag has moved since, and what it pointed to is deleted, as many registries do with what has
        no tag. Asked once: where it was not there a moment ago, that is the answer.
        """
        manifest = await self._manifests.here(repository, points.digest)
        if manifest is not None:
            return Checked(manifest.descriptor, manifest)
        was_absent = self._manifests.is_absent(repository, points.digest)
        try:
            manifest = await self._manifests.fetch(repository, points.digest)
        except RegistryError as error:
            return None if error.status == 404 and not was_absent else Checked(points, failure=error)
        return Checked(manifest.descriptor, manifest)

    async def _ask(self, repository: Repository, tag: Tag) -> Resolved:
        """Ask the upstream, and note its answer."""
        try:
            resolved = await self._upstream.resolve(repository, tag)
        except AWAY:
            raise
        except RegistryError as error:
            self._tags.refuse(repository, tag, error, self._clock())
            self._pulse.heard(self._upstream.condition(repository).namespace)
            if error.status == 404:
                self._manifests.untag(repository, tag)
            raise
        self._pulse.heard(self._upstream.condition(repository).namespace)
        self._tags.points_to(repository, tag, resolved.descriptor, self._clock())
        return resolved
