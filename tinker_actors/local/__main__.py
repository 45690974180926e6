"""`python -m tinker_actors.local`: serve until told to stop. Nothing heavy may be imported up here."""

import sys

from tinker_actors.local.start import start

__all__ = ["main"]


def main() -> int:
    """Run the server; the exit code."""
    try:
        from tinker_actors.local.options import parse_options
    except ModuleNotFoundError as error:
        sys.stderr.write(f'the server needs {error.name}; install "tinker-actors[local]"\n')
        return 2
    return start(parse_options())


if __name__ == "__main__":
    sys.exit(main())
