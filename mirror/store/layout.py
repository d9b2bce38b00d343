"""Where things are: distribution's tree, below the driver's root (registry/storage/paths.go of distribution).

```
docker/registry/v2/blobs/<alg>/<hex[0:2]>/<hex>/data
docker/registry/v2/repositories/<name>/_layers/<alg>/<hex>/link
docker/registry/v2/repositories/<name>/_manifests/revisions/<alg>/<hex>/link
docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/current/link
docker/registry/v2/repositories/<name>/_manifests/tags/<tag>/index/<alg>/<hex>/link
```

A link holds a digest's text and nothing else, not even a newline. Manifests are blobs like any other; their
media type is only in their own bytes.
"""

from __future__ import annotations

from collections.abc import Iterable

from mirror.oci.digest import Digest, DigestError
from mirror.oci.names import Repository, Tag

ROOT = "docker/registry/v2"
BLOBS = f"{ROOT}/blobs"
REPOSITORIES = f"{ROOT}/repositories"
FOLDERS = (BLOBS, REPOSITORIES)  # all that the tree consists of
MANIFESTS = "_manifests"
LAYERS = "_layers"
UPLOADS = "_uploads"
PARTS = (MANIFESTS, LAYERS, UPLOADS)  # of a repository; no name has a component like these
# All that is kept, as `find` takes it: the data below BLOBS, and those links below REPOSITORIES that say
# what is there now (a tag's index says what was).
DATA = ("*/*/*/data",)
LINKS = (
    f"**/{LAYERS}/*/*/link",
    f"**/{MANIFESTS}/revisions/*/*/link",
    f"**/{MANIFESTS}/tags/*/current/link",
)
LINK_LIMIT = 256  # bytes; the longest digest's text, of sha512, has 135


class BrokenLink(ValueError):
    """A link's bytes do not name what the link stands for."""


def blob_folder(digest: Digest) -> str:
    """The folder that holds one blob's data and nothing else."""
    return f"{BLOBS}/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"


def blob_data(digest: Digest) -> str:
    return f"{blob_folder(digest)}/data"


def layers(repository: Repository) -> str:
    """The folder of the repository's links to its blobs."""
    return f"{REPOSITORIES}/{repository}/{LAYERS}"


def manifests(repository: Repository) -> str:
    """The folder of the repository's manifests and tags."""
    return f"{REPOSITORIES}/{repository}/{MANIFESTS}"


def uploads(repository: Repository) -> str:
    """The folder through which registry:2 fills its cache."""
    return f"{REPOSITORIES}/{repository}/{UPLOADS}"


def layer_link(repository: Repository, digest: Digest) -> str:
    return f"{layers(repository)}/{digest.algorithm}/{digest.hex}/link"


def revisions(repository: Repository, algorithm: str) -> str:
    """The folder whose names are the hex digests of the repository's manifests."""
    return f"{manifests(repository)}/revisions/{algorithm}"


def revision_link(repository: Repository, digest: Digest) -> str:
    return f"{revisions(repository, digest.algorithm)}/{digest.hex}/link"


def tags(repository: Repository) -> str:
    """The folder whose names are the repository's tags."""
    return f"{manifests(repository)}/tags"


def tag_folder(repository: Repository, tag: Tag) -> str:
    return f"{tags(repository)}/{tag}"


def tag_current_link(repository: Repository, tag: Tag) -> str:
    """What the tag points to now."""
    return f"{tag_folder(repository, tag)}/current/link"


def tag_index_link(repository: Repository, tag: Tag, digest: Digest) -> str:
    """What the tag has pointed to, once or now."""
    return f"{tag_folder(repository, tag)}/index/{digest.algorithm}/{digest.hex}/link"


def branches(repository: Repository, algorithms: Iterable[str]) -> list[str]:
    """The folders of a repository that have one folder for each of its links, tags or uploads."""
    by_digest = [
        path
        for algorithm in algorithms
        for path in (f"{layers(repository)}/{algorithm}", revisions(repository, algorithm))
    ]
    return [*by_digest, tags(repository), uploads(repository)]


def link_bytes(digest: Digest) -> bytes:
    return str(digest).encode("ascii")


def parse_link(data: bytes, stands_for: Digest | None = None) -> Digest:
    """The digest under which the data is. Raises BrokenLink.

    A link in a folder named after a digest stands for that one. It may name one of another algorithm only:
    distribution keeps a blob pushed by its sha512 under its sha256.
    """
    try:
        digest = Digest.parse(data.decode("ascii"))
    except (UnicodeDecodeError, DigestError) as error:
        raise BrokenLink("empty" if not data else "not a digest") from error
    if stands_for is not None and digest != stands_for and digest.algorithm == stands_for.algorithm:
        raise BrokenLink("names another digest")
    return digest
