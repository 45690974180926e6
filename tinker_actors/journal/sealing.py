"""Checksums: what tells a row, or a body, that is as it was written from one that is not."""

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec

__all__ = ["body_seal", "row_seal"]

_encode = msgspec.msgpack.Encoder().encode


def row_seal(table: str, values: Sequence[Any]) -> int:
    """CRC-32 of a row and of the table it belongs to; `values` are what SQLite stores as they are."""
    return zlib.crc32(_encode((table, values)))


def body_seal(body: bytes) -> int:
    """CRC-32 of a body."""
    return zlib.crc32(body)
