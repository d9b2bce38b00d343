"""What the cache knows of an image, for an operator who asks why. It moves nothing and asks no upstream."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from mirror.cache.away import ago
from mirror.cache.fills import Fills
from mirror.cache.images import Images, parsed_manifest
from mirror.cache.manifests import Manifests
from mirror.cache.patience import Patience
from mirror.cache.standing import Standing, Standings
from mirror.oci.digest import Digest, DigestError
from mirror.oci.manifest import Manifest
from mirror.oci.names import Reference, Repository
from mirror.registry import Condition, RawManifest, Upstream

PLATFORMS = 64  # of an index, that are told one by one


class Explainer:
    """See the module's text."""

    def __init__(
        self,
        upstream: Upstream,
        manifests: Manifests,
        images: Images,
        standings: Standings,
        patience: Patience,
        fills: Fills,
    ) -> None:
        self._patience = patience
        self._upstream = upstream
        self._manifests = manifests
        self._images = images
        self._standings = standings
        self._fills = fills

    async def explain(self, repository: Repository, reference: Reference) -> dict[str, Any]:
        """`reference`, `blobs`, `platforms` and `next_pull`, as plain values for JSON."""
        condition = self._upstream.condition(repository)
        if isinstance(reference, Digest):
            standing = None
            manifest = await self._manifests.here(repository, reference)
            told: dict[str, Any] = {"digest": str(reference)}
        else:
            standing = await self._standings.of(repository, reference, condition)
            manifest = await self._manifests.copy(repository, reference, standing.word)
            told = {"tag": str(reference), **_times(standing)}
        told["kept"] = manifest is not None
        if manifest is not None:
            told |= {
                "digest": str(manifest.descriptor.digest),
                "media_type": manifest.descriptor.media_type,
                "size": manifest.descriptor.size,
            }
        elif "stale_left" in told:
            told["stale_left"] = None  # a word alone stands in for nothing
        parsed = await parsed_manifest(manifest) if manifest is not None else None
        blobs = await self._blobs(repository, parsed) if parsed is not None and not parsed.children else None
        platforms = await self._platforms(repository, manifest, parsed) if manifest and parsed else []
        kept = await self._kept(repository, manifest, standing) if manifest is not None else None
        return {
            "reference": told,
            "blobs": blobs,
            "platforms": platforms,
            "next_pull": _next_pull(
                condition, standing, kept, slow=self._patience.is_out(condition.namespace)
            ),
        }

    async def _kept(self, repository: Repository, manifest: RawManifest, standing: Standing | None) -> _Kept:
        word = standing.word if standing is not None else None
        missing, _ = await self._images.missing(repository, manifest)
        return _Kept(word is not None and word.digest == manifest.descriptor.digest, missing)

    async def _blobs(self, repository: Repository, manifest: Manifest) -> dict[str, Any]:
        sizes = [(each, await self._images.size(each.digest)) for each in manifest.blobs]
        digests = [each.digest for each in manifest.blobs]
        running = [str(digest) for digest in digests if self._fills.running(repository, digest)]
        return {
            "total": len(sizes),
            "kept": sum(size is not None for _, size in sizes),
            "bytes_total": sum(each.size for each in manifest.blobs),
            "bytes_kept": sum(size or 0 for _, size in sizes),
            "filling": running,
        }

    async def _platforms(
        self, repository: Repository, manifest: RawManifest, parsed: Manifest
    ) -> list[dict[str, Any]]:
        names = await asyncio.to_thread(_platform_names, manifest.body) if parsed.children else {}
        found = []
        for each in parsed.children[:PLATFORMS]:
            child = await self._images.child(repository, each.digest)
            blobs = await self._blobs(repository, child) if child is not None else None
            found.append(
                {
                    "digest": str(each.digest),
                    "platform": names.get(each.digest, ""),
                    "kept": child is not None,
                    "blobs": blobs["total"] if blobs else None,
                    "blobs_kept": blobs["kept"] if blobs else None,
                }
            )
        return found


def _times(standing: Standing) -> dict[str, Any]:
    refused = standing.word.refused() if standing.word is not None and standing.is_refused else None
    believed = standing.refusal_left if refused else standing.age.fresh_left
    return {
        "rule": standing.rule,
        "fresh_for": standing.fresh,
        "checked_ago": standing.checked_ago,
        "fresh_left": max(0.0, believed),
        "stale_left": standing.age.stale_left if standing.word is not None and not refused else None,
        "refused": refused.message if refused else None,
    }


def _platform_names(body: bytes) -> dict[Digest, str]:
    """`linux/arm64/v8` of each entry of an index whose bytes were checked."""
    names = {}
    for entry in json.loads(body).get("manifests", ()):
        platform = entry.get("platform") if isinstance(entry, dict) else None
        if not isinstance(platform, dict):
            continue
        parts = [platform.get(key) for key in ("os", "architecture", "variant")]
        try:
            names[Digest.parse(entry["digest"])] = "/".join(str(part)[:32] for part in parts if part)
        except (DigestError, KeyError, TypeError):
            continue
    return names


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is here of the image: `current` if it is what the upstream's last word means."""

    current: bool = False
    missing: int = 0  # blobs

    @property
    def fetched(self) -> str:
        """What is asked for besides."""
        return f", and {_blobs(self.missing)} fetched" if self.missing else ""


def _next_pull(condition: Condition, standing: Standing | None, kept: _Kept | None, *, slow: bool) -> str:
    """In one sentence, what the next client that pulls this would make the mirror do."""
    trouble = condition.trouble
    if standing is not None and standing.word is not None and standing.is_refused:
        if standing.refusal_left > 0:
            return f"is refused without asking, for another {ago(standing.refusal_left)}"
        if trouble is not None:
            return f"is refused, as it was last time, since {trouble.message}"
    elif kept is not None and (standing is None or (standing.age.is_fresh and kept.current)):
        return _incomplete(condition, kept) or f"asks the upstream nothing{kept.fetched}"
    elif kept is not None and standing is not None and standing.age.may_stand_in:
        return _due(condition, standing, kept, slow=slow)
    elif trouble is not None:
        too_old = ", and the kept copy is too old" if kept is not None else ""
        return f"fails at once: {trouble.message}{too_old}"
    if standing is None or standing.points is not None:
        return "fetches the manifest and its blobs"
    return "asks the upstream where the tag points (one HEAD), then fetches what is new"


def _due(condition: Condition, standing: Standing, kept: _Kept, *, slow: bool) -> str:
    """Of a kept copy that may stand in, and of which it is to be asked whether it is still the tag's."""
    refused = _incomplete(condition, kept)
    if refused:
        return refused
    if condition.trouble is not None:
        return f"is given the kept copy with a warning: {condition.trouble.message}{kept.fetched}"
    if slow and not kept.missing:
        return "is given the kept copy at once, and the upstream, lately too slow, is asked behind"
    if standing.points is not None:
        return "fetches the manifest to which the tag has moved, and its blobs"
    return f"asks the upstream whether the tag has moved (one HEAD){kept.fetched}"


def _incomplete(condition: Condition, kept: _Kept) -> str:
    """That it fails, if blobs are not here and cannot be had; else nothing."""
    if not kept.missing or condition.blobs is None:
        return ""
    return f"fails with 503: {_blobs(kept.missing)} not kept here, and {condition.blobs.message}"


def _blobs(count: int) -> str:
    return "1 blob is" if count == 1 else f"{count} blobs are"
