"""`python -m tinker_actors.local`: serve until told to stop. Nothing heavy may be imported up here."""

import os
import sys

from tinker_actors.local.options import parse_options

_THREAD_LIMITS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def main() -> int:
    """Run the server; the exit code."""
    options = parse_options()
    for name in _THREAD_LIMITS:  # BLAS reads them once, while numpy is imported
        os.environ[name] = str(options.threads)
    try:
        from tinker_actors.local.server import serve
    except ModuleNotFoundError as error:
        sys.stderr.write(f'the server needs {error.name}; install "tinker-actors[local]"\n')
        return 2
    return serve(options)


if __name__ == "__main__":
    sys.exit(main())
