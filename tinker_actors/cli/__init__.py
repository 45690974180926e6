"""The command `tinker-actors`: one module per group of commands."""

import sys
from functools import partial

from tinker_actors.clients import program

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        from tinker_actors.cli.commands import commands
    except ModuleNotFoundError as error:
        sys.exit(f'the command line needs {error.name}; install "tinker-actors[cli,local]"')
    program.run(partial(commands, prog_name="tinker-actors"))
