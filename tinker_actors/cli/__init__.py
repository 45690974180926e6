"""The command `tinker-actors`: one module per group of commands."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        from tinker_actors.cli.commands import commands
    except ModuleNotFoundError as error:
        sys.exit(f'the command line needs {error.name}; install "tinker-actors[cli,local]"')
    commands(prog_name="tinker-actors")
