"""What equal bits depend on besides the requests themselves."""

import platform
from typing import Any

import numpy as np

__all__ = ["numerics"]


def numerics(blas_threads: int) -> str:
    """numpy, its BLAS, threads and the processor's instructions, in words: equal words, equal bits.

    Args:
        blas_threads: that BLAS was started with.
    """
    build: dict[str, Any] = np.show_config(mode="dicts")  # type: ignore[assignment]  # typed as printing only
    blas = build.get("Build Dependencies", {}).get("blas", {})
    instructions = [platform.machine(), *build.get("SIMD Extensions", {}).get("found", [])[-1:]]
    return (
        f"numpy {np.__version__} with {blas.get('name', 'no BLAS')} {blas.get('version', '')}, "
        f"{blas_threads} BLAS threads, {' '.join(instructions)}"
    )
