"""Bodies in zstd, where the optional library for it is installed."""

from functools import cache
from typing import Any

__all__ = ["compressed"]


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
