"""How the server is started: its options, declared once for every command line that starts it."""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from tinker_actors.errors import ValidationError
from tinker_actors.local.faults.plan import FaultPlan, read_plan

__all__ = ["Greeting", "Options", "parse_options", "server_options"]

Greeting = Literal["json", "shell"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a server is started with."""

    data: Path
    """The directory that holds all of its state."""
    models: tuple[Path, ...] = ()
    """Directories besides `data` that base models may lie under; clients name them by their absolute paths."""
    host: str = "127.0.0.1"
    """Address to listen on; one that other machines reach needs `api_key`."""
    port: int = 0
    """Port to listen on; 0 takes a free one."""
    api_key: str | None = None
    """The one key that is accepted; None accepts any that looks like one."""
    jwt: bool = False
    """Whether keys must be exchanged for tokens, as organizations can demand of the hosted service."""
    jwt_life_s: float = 3600.0
    """How long such a token works."""
    session_timeout_s: float | None = None
    """How long a session lives without a heartbeat; None: for ever."""
    url_life_s: float = 3600.0
    """How long a signed URL works."""
    threads: int = 1
    """BLAS threads; equal results need equal numbers. One is fastest: the engine has workers of its own."""
    owned: bool = False
    """Whether the end of standard input ends the server."""
    greeting: Greeting = "json"
    """What is printed once it listens: a line for a program, or lines for a shell."""
    deterministic: bool = False
    """Whether equal requests must give equal bits: no two share a batch, seeds that nobody names follow from
    what is asked, and models that were made with other numerics are refused."""
    hold_s: float = 30.0
    """Longest a poll for a result is held."""
    lock_patience_s: float = 5.0
    """How long a dying predecessor may hold the directory."""
    snapshot_every: int = 16
    """Operations between two snapshots of a model."""
    most_live_models: int = 8
    """Models in training kept in memory; others come back from their snapshots when they are asked for."""
    most_rows: int = 64
    """Samples that grow at once; a quarter is left to sessions that have none."""
    cache_mib: int = 512
    """Memory for keys and values of samples that grow, MiB."""
    most_waiting: int = 20_000
    """Samples that may wait; more are answered with 429."""
    most_waiting_of_session: int = 16_000
    """As `most_waiting`, of one session."""
    inline_kib: int = 1024
    """Largest result that is sent without announcing its size first to those who can take that, KiB."""
    batched_futures: bool = False
    """Whether clients are told to poll for all samples of a client together."""
    join_samplers: bool = False
    """Whether clients are told to ask for the numbers of their clones."""
    faults: FaultPlan | None = None
    """What goes wrong on order."""
    control: bool = False
    """Whether this machine may set faults and read the step log over /control."""

    def __repr__(self) -> str:
        return f"Options(data={str(self.data)!r}, host={self.host!r}, port={self.port})"  # never the key


def _file(text: str) -> FaultPlan:
    """A fault plan in a file."""
    try:
        return read_plan(Path(text))
    except ValidationError as error:
        raise click.BadParameter(str(error)) from error


def _seconds(text: str) -> float:
    """A time of 0 s or more that a wait can take."""
    try:
        value = float(text)
    except ValueError:
        raise click.BadParameter(f"must be a number of seconds, got {text!r}") from None
    if not 0.0 <= value <= threading.TIMEOUT_MAX:
        raise click.BadParameter(f"must be a time of 0 s or more, got {text}")
    return value


def _key(text: str) -> str:
    """A key that clients send, itself or in a file."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            raise click.BadParameter(f"{text[1:]} must be a file that holds a key: {error}") from None
    if not text.startswith("tml-") or not (text.isascii() and text.isprintable()) or " " in text:
        raise click.BadParameter(
            "must be one word of ASCII letters, digits and signs that starts with tml-: clients send no other"
        )
    return text


_LIMITS = (
    ("most_live_models", "Models in training kept in memory."),
    ("most_rows", "Samples that grow at once."),
    ("cache_mib", "Memory for their keys and values, MiB."),
    ("most_waiting", "Samples that may wait before 429."),
    ("most_waiting_of_session", "Samples of one session that may wait before 429."),
    ("inline_kib", "Largest result whose size is not announced first, KiB."),
)


def server_options(*, data: Path | None, port: int, greeting: Greeting) -> list[click.Parameter]:
    """The options of a command that starts the server, by the names of `Options`.

    Args:
        data: the default directory; None has it named.
        port: the default port.
        greeting: what is printed once it listens.
    """
    count = click.IntRange
    default = Options(data=data or Path())
    options = [
        _option(
            "--data", type=click.Path(path_type=Path), help="Directory of the server's state.", default=data
        ),
        _option(
            "--models",
            type=click.Path(path_type=Path, exists=True, file_okay=False, resolve_path=True),
            multiple=True,
            help="A directory that base models may lie under, besides that of --data; may be given several times.",
        ),
        _option(
            "--host", default=default.host, help="Address to listen on; beyond this machine with --api-key."
        ),
        _option("--port", type=count(0, 65_535), default=port, help="0 takes a free one."),
        _option(
            "--api-key",
            type=_key,
            help="The one key to accept, or @FILE that holds it; else any that begins tml- or eyJ.",
        ),
        _option("--jwt", is_flag=True, help="Have keys exchanged for tokens that expire."),
        _option(
            "--jwt-life", "jwt_life_s", type=_seconds, default=default.jwt_life_s, help="How long these work."
        ),
        _option(
            "--session-timeout",
            "session_timeout_s",
            type=_seconds,
            help="End sessions that send no heartbeat for so long; else none is ended.",
        ),
        _option(
            "--url-life",
            "url_life_s",
            type=_seconds,
            default=default.url_life_s,
            help="How long a signed URL works.",
        ),
        _option("--threads", type=count(1, 1024), default=default.threads, help="BLAS threads."),
        _option("--owned", is_flag=True, help="Leave when standard input ends."),
        _option(
            "--deterministic",
            is_flag=True,
            help="Equal requests give equal bits: no two share a batch.",
        ),
        _option("--hold", "hold_s", type=_seconds, default=default.hold_s, help="Longest a poll is held."),
        _option(
            "--lock-patience",
            "lock_patience_s",
            type=_seconds,
            default=default.lock_patience_s,
            help="How long another server may still hold the data.",
        ),
        _option(
            "--snapshot-every",
            type=count(1, 1_000_000),
            default=default.snapshot_every,
            help="Operations between two snapshots of a model.",
        ),
        *(
            _option(f"--{name.replace('_', '-')}", type=count(1), default=getattr(default, name), help=text)
            for name, text in _LIMITS
        ),
        _option("--batched-futures", is_flag=True, help="Have clients poll for all their samples together."),
        _option("--join-samplers", is_flag=True, help="Have clients ask for the numbers of their clones."),
        _option("--faults", type=_file, help="What goes wrong on order: a fault plan in TOML or JSON."),
        _option("--control", is_flag=True, help="Let this machine set faults and read the step log."),
        _option("--greeting", type=click.Choice(["json", "shell"]), default=greeting, hidden=True),
    ]
    return list(options)


def _option(*names: str, **settings: Any) -> click.Option:
    is_wanted = names == ("--data",) and settings["default"] is None
    kind = settings.get("type")
    metavar = kind.__name__[1:].upper() if kind in (_seconds, _key, _file) else None
    show_default = not (settings.get("is_flag") or settings.get("multiple"))
    return click.Option(names, required=is_wanted, show_default=show_default, metavar=metavar, **settings)


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """The command line as options; exits with a usage line if it is wrong."""
    command = click.Command(
        "python -m tinker_actors.local",
        params=server_options(data=None, port=Options.port, greeting="json"),
        callback=Options,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Serve a small Tinker service on this machine.",
    )
    try:
        options = command.main(arguments, prog_name=command.name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    if not isinstance(options, Options):  # the help was wanted
        sys.exit(0)
    return options
