"""The commands there are, and how their failures are shown: one line, and an exit code that is not 0."""

from importlib import import_module
from typing import Any

import click

from tinker_actors.errors import TinkerActorsError

__all__ = ["commands"]

_COMMANDS = (
    "checkpoint",
    "demo",
    "journal",
    "model",
    "run",
    "sample",
    "serve",
    "session",
    "version",
    "whoami",
)
"""Each is made in the module of its name, which is imported when it is asked for."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - the same for each context
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"tinker_actors.cli.{cmd_name}"), cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TinkerActorsError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except OSError as error:
            raise click.ClickException(
                f"{error.strerror}: {error.filename or 'the system said so'}"
            ) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tinker-actors", prog_name="tinker-actors")
def commands() -> None:
    """A supervised runtime and client for the Tinker training API."""
