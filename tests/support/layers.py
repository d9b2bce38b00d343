"""Synthetic layers: tars and their packed forms, the same bytes for the same seed (and zlib)."""

from __future__ import annotations

import hashlib
import io
import random
import struct
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath

# The gzip of an empty tar that every docker version knows: 32 bytes, the most shared blob of all.
EMPTY_GZIP = bytes.fromhex("1f8b080000096e8800ff621805a360148c5800080000ffff2eafb5ef00040000")
GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # no time, no name
ZSTD_BLOCK = 0x20000  # bytes; zstd's largest block
MODIFIED = 1_704_067_200  # 2024-01-01, for every file


def sha256(data: bytes) -> str:
    """The digest of these bytes, as text."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, slots=True)
class Layer:
    """A tar, and the bytes that a registry holds of it."""

    tar: bytes
    packed: bytes


def gzip(tar: bytes) -> Layer:
    """Packed with a fixed header, so that the digest depends on zlib alone."""
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    body = packer.compress(tar) + packer.flush()
    return Layer(tar, GZIP_HEADER + body + struct.pack("<II", zlib.crc32(tar), len(tar) & 0xFFFFFFFF))


def zstd(tar: bytes) -> Layer:
    """A valid zstd frame of raw blocks (RFC 8878 §3.1.1): not smaller, but needs no zstd library."""
    out = [b"\x28\xb5\x2f\xfd\xa0", struct.pack("<I", len(tar))]
    for start in range(0, len(tar), ZSTD_BLOCK):
        block = tar[start : start + ZSTD_BLOCK]
        last = start + ZSTD_BLOCK >= len(tar)
        out += [struct.pack("<I", len(block) << 3 | last)[:3], block]
    return Layer(tar, b"".join(out))


def empty() -> Layer:
    """The well-known empty layer."""
    return Layer(zlib.decompress(EMPTY_GZIP, 31), EMPTY_GZIP)


def tar_of(entries: dict[str, bytes | str | None]) -> bytes:
    """A tar by path: bytes are a file, text is a symlink's target, None a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, content in entries.items():
            info = tarfile.TarInfo(path)
            info.mtime = MODIFIED
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname, info.mode = tarfile.SYMTYPE, content, 0o777
                tar.addfile(info)
            else:
                info.size, info.mode = len(content), 0o644
                tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def text(rng: random.Random) -> bytes:
    """A tar that compresses well: folders, text files, a symlink."""
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    lines = "\n".join(" ".join(rng.choices(words, k=8)) for _ in range(2000)).encode()
    return tar_of(
        {
            "etc": None,
            "etc/motd": lines,
            "etc/hostname": rng.randbytes(4).hex().encode() + b"\n",
            "etc/mtab": "/proc/mounts",
            "old": None,
            "old/file": b"removed by a later layer\n",
        }
    )


def noise(rng: random.Random, size: int, name: str = "data/random.bin") -> bytes:
    """A tar of one file of `size` bytes that does not compress."""
    return tar_of({str(PurePosixPath(name).parent): None, name: rng.randbytes(size)})


def whiteout() -> bytes:
    """A tar that deletes a file of `text`."""
    return tar_of({"old": None, "old/.wh.file": b""})
