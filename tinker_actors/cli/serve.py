"""`tinker-actors serve`: the embedded server on its own, for any client of the API. Imports nothing heavy."""

import sys
from pathlib import Path
from typing import Any

import click

from tinker_actors.local.options import Options, server_options
from tinker_actors.local.start import start

__all__ = ["serve"]

DATA = Path("runs") / "server"
PORT = 8465
"""TINK on a telephone's keys: the same at each start, so that what a shell exported stays right."""


def _serve(**options: Any) -> None:
    sys.exit(start(Options(**options)))


serve = click.Command(
    "serve",
    params=server_options(data=DATA, port=PORT, greeting="shell"),
    callback=_serve,
    help="Serve a small Tinker service on this machine: with no key, no GPU and no network, for the official SDK, too."
    " Prints the two variables that its clients need. Ctrl-C stops it; a second one does so at once.",
    short_help="Serve a small Tinker service on this machine.",
)
