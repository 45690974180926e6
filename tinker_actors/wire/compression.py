"""Packed bodies: zstd where the optional library for it is installed, gzip and deflate always."""

import zlib
from functools import cache
from typing import Any

__all__ = ["accepted_encodings", "compressed", "unpacked"]

ZSTD_STEP_BYTES = 2**12
"""What is unpacked at once: a block of 4 bytes can stand for 128 KiB."""


@cache
def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard


def compressed(body: bytes) -> bytes | None:
    """`body` in zstd, or None where the library is missing: then it travels as it is, which servers take, too."""
    library = _zstandard()
    return None if library is None else bytes(library.compress(body))


def accepted_encodings() -> str:
    """What `unpacked` understands here, as a header's value."""
    return "gzip, deflate" if _zstandard() is None else "gzip, deflate, zstd"


def unpacked(body: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """`body` without its encodings; None if it would be larger than `max_bytes`; then only a part was unpacked.

    Args:
        body: as it travelled.
        encoding: value of the `content-encoding` header.
        max_bytes: the most that may come out.

    Raises:
        ValueError: it is broken off, damaged, or in an encoding that was not offered.
    """
    for name in reversed([one.strip().lower() for one in encoding.split(",")]):
        plain: bytes | None = body
        match name:
            case _ if not body or name in ("", "identity"):
                pass
            case "gzip" | "x-gzip":
                plain = _inflated(body, zlib.MAX_WBITS | 16, max_bytes)
            case "deflate":
                plain = _inflated(body, _framing(body), max_bytes)
            case "zstd" if _zstandard() is not None:
                plain = _from_zstd(body, max_bytes)
            case _:
                raise ValueError(f"encoding {name!r} was not offered")
        if plain is None:
            return None
        body = plain
    return body


def _inflated(body: bytes, window_bits: int, max_bytes: int) -> bytes | None:
    plain = bytearray()
    while body:
        reader = zlib.decompressobj(window_bits)
        try:
            plain += reader.decompress(body, max_bytes + 1 - len(plain))
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if len(plain) > max_bytes:
            return None
        if not reader.eof:
            raise ValueError("it is broken off")
        body = reader.unused_data  # gzip files may stand behind one another
    return bytes(plain)


def _framing(body: bytes) -> int:
    """How zlib is to read "deflate", which some servers send without its frame."""
    has_frame = body[0] & 0x0F == zlib.DEFLATED and int.from_bytes(body[:2], "big") % 31 == 0
    return zlib.MAX_WBITS if has_frame else -zlib.MAX_WBITS


def _from_zstd(body: bytes, max_bytes: int) -> bytes | None:
    library = _zstandard()
    reader = library.ZstdDecompressor().decompressobj()
    plain = bytearray()
    try:
        for start in range(0, len(body), ZSTD_STEP_BYTES):
            plain += reader.decompress(body[start : start + ZSTD_STEP_BYTES])
            if len(plain) > max_bytes:
                return None
    except library.ZstdError as error:
        raise ValueError(str(error)) from error
    if not reader.eof:
        raise ValueError("it is broken off")
    return bytes(plain)
