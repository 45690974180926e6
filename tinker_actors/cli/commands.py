"""The commands there are, and how their failures are shown: one line, and an exit code that is not 0."""

from typing import Any

import click

from tinker_actors.cli.demo import demo
from tinker_actors.errors import TinkerActorsError

__all__ = ["commands"]


class _OneLineErrors(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TinkerActorsError as error:
            raise click.ClickException(" ".join(str(error).split())) from error
        except OSError as error:
            raise click.ClickException(
                f"{error.strerror}: {error.filename or 'the system said so'}"
            ) from error


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """A supervised runtime and client for the Tinker training API."""


commands.add_command(demo)
