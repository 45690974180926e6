"""How the server is started: its command line as a value."""

import argparse
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Options", "parse_options"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a server is started with."""

    data: Path
    """The directory that holds all of its state."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 0
    """Port to listen on; 0 takes a free one."""
    threads: int = 1
    """BLAS threads; equal results need equal numbers. One is fastest: the engine has workers of its own."""
    owned: bool = False
    """Whether the end of standard input ends the server."""
    deterministic: bool = False
    """Whether requests may never share a batch. None do yet, whatever this says."""
    hold_s: float = 30.0
    """Longest a poll for a result is held."""
    lock_patience_s: float = 5.0
    """How long a dying predecessor may hold the directory."""
    snapshot_every: int = 16
    """Operations between two snapshots of a model."""


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """The command line as options; exits with a usage line if it is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tinker_actors.local", description="Serve a small Tinker service on this machine."
    )
    parser.add_argument("--data", type=Path, required=True, help="directory of the server's state")
    parser.add_argument("--host", default=Options.host, help="address to listen on")
    parser.add_argument("--port", type=_whole(0, 65_535), default=Options.port, help="0 takes a free one")
    parser.add_argument("--threads", type=_whole(1, 1024), default=Options.threads, help="BLAS threads")
    parser.add_argument("--owned", action="store_true", help="leave when standard input ends")
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="never batch requests together; without effect yet, as this server batches none",
    )
    parser.add_argument(
        "--hold", type=_seconds, default=Options.hold_s, dest="hold_s", help="longest a poll is held, seconds"
    )
    parser.add_argument(
        "--lock-patience",
        type=_seconds,
        default=Options.lock_patience_s,
        dest="lock_patience_s",
        help="how long another server may still hold the data, seconds",
    )
    parser.add_argument(
        "--snapshot-every", type=_whole(1, 1_000_000), default=Options.snapshot_every, help="operations"
    )
    return Options(**vars(parser.parse_args(arguments)))


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"must be a time of 0 s or more, got {text}")
    return value


class _whole:  # noqa: N801 - reads as a function, and argparse prints its name
    """A whole number of a range, for argparse."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def __call__(self, text: str) -> int:
        value = int(text)
        if not self.low <= value <= self.high:
            raise argparse.ArgumentTypeError(f"must lie between {self.low} and {self.high}, got {value}")
        return value

    def __repr__(self) -> str:
        return "whole number"
