"""The server's start in this process. Nothing heavy may be imported up here."""

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tinker_actors.local.options import Options

__all__ = ["start"]

_THREAD_LIMITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def start(options: "Options") -> int:
    """Serve until told to stop; the exit code. To be called before numpy is imported."""
    for name in _THREAD_LIMITS:  # BLAS reads them once, while numpy is imported
        os.environ[name] = str(options.threads)
    try:
        from tinker_actors.local.server import serve
    except ModuleNotFoundError as error:
        sys.stderr.write(f'the server needs {error.name}; install "tinker-actors[local]"\n')
        return 2
    return serve(options)
