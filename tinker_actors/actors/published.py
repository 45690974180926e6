"""What is read on each call without a mailbox round trip: values that one actor publishes for all."""

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tinker_actors.actors.circuits import Circuits
from tinker_actors.actors.futures import Settler
from tinker_actors.actors.liveness import Pulse
from tinker_actors.actors.pauses import SharedPause
from tinker_actors.actors.reporting import Telemetry
from tinker_actors.actors.requests import Request
from tinker_actors.actors.status import Client
from tinker_actors.actors.tracing import Tracing
from tinker_actors.actors.turns import Turns
from tinker_actors.api.codecs import Capabilities, Codec
from tinker_actors.api.setup import ClientConfig, DynamicConfig
from tinker_actors.config import RecoveryPolicy, SamplingLimits, Settings
from tinker_actors.journal.store import Store
from tinker_actors.supervision import ChildSpec

__all__ = [
    "APPLICATION",
    "BREAKERS",
    "HEARTBEAT",
    "JOURNAL",
    "SAMPLING",
    "TRAINING",
    "TRANSPORT",
    "Endpoint",
    "Published",
]

JOURNAL = "service/journal"
TRANSPORT = "service/transport"
BREAKERS = "service/breakers"
APPLICATION = "service/application"
HEARTBEAT = "service/session/heartbeat"
TRAINING = "service/session/training"
SAMPLING = "service/session/sampling"


RESTORES_AT_A_TIME = 4
"""Of the runs of one service client."""


class Endpoint(msgspec.Struct, frozen=True):
    """Where the service listens."""

    base_url: str
    """Without a trailing slash."""
    pid: int | None = None
    """Of the embedded server's process."""


class Published:
    """One service's shared state; each attribute has one writer."""

    def __init__(
        self,
        *,
        settings: Settings,
        policy: RecoveryPolicy,
        store: Store,
        settler: Settler,
        directory: Path | None,
        server_directory: Path | None,
        user_metadata: dict[str, Any],
        display_name: str | None,
        circuits: Circuits | None = None,
        limits: SamplingLimits | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.settings = settings
        self.policy = policy
        self.store = store
        """Used by the journal actor alone."""
        self.epochs: dict[str, int] = {}
        """By path, the newest incarnation that the journal heard of; of the journal actor alone."""
        self.settler = settler
        self.directory = directory
        """The run directory; None keeps the journal in memory."""
        self.server_directory = server_directory
        """The embedded server's data."""
        self.user_metadata = user_metadata
        self.display_name = display_name
        self.endpoint: Endpoint | None = None if settings.is_local else Endpoint(settings.base_url)
        """Written by the local-server actor; None while there is no server to talk to."""
        self.config = ClientConfig()
        """The server's flags; written by the transport actor, at the defaults until it knows better."""
        self.dynamic_config = DynamicConfig()
        """Those that may change; likewise."""
        self.capabilities = Capabilities(codec=None if settings.codec is None else Codec(settings.codec))
        """What else is known of the server; likewise."""
        self.circuits = circuits or Circuits()
        """Which operations are called as usual, and which are not; the transport actor adds to them."""
        self.limits = limits or SamplingLimits()
        """What holds samples back."""
        self.telemetry = Telemetry(lambda: self.session_id) if settings.telemetry else None
        """What is to be told to the service; None where the user does not want that."""
        self.tracing = tracing
        """Makes spans; None where nobody looks."""
        self.pause: SharedPause | None = None
        """Until when they wait after a 429; set by the transport actor, None before its start."""
        self.pulse: Pulse | None = None
        """The session, and how alive it is; written by the heartbeat actor, None before there is one."""
        self.under_way: Callable[[], list[Request]] = list
        """The requests under way; written by the transport actor."""
        self.clients: dict[str, Client] = {}
        """Runs and samplers by the paths of their actors; `add_client` and `drop_client` write it."""
        self.restoring = Turns(RESTORES_AT_A_TIME)
        """Runs whose models are being brought back."""
        self._lock = threading.Lock()
        self._children: dict[str, dict[str, ChildSpec]] = {
            APPLICATION: {},
            BREAKERS: {},
            TRAINING: {},
            SAMPLING: {},
        }
        self._closers: dict[object, Callable[[BaseException], None]] = {}
        self._stopped: BaseException | None = None

    @property
    def session_id(self) -> str | None:
        """Of the session, or None while there is none."""
        pulse = self.pulse
        return None if pulse is None else pulse.session_id

    @property
    def paused_until(self) -> float:
        """When samples may be submitted again, on the tree's clock; in the past while there is no pause."""
        return -math.inf if self.pause is None else self.pause.until

    def add_child(self, supervisor: str, spec: ChildSpec) -> None:
        """Note that `supervisor` must bring `spec` back whenever it starts itself."""
        with self._lock:
            self._children[supervisor][spec.id] = spec

    def claim_child(self, supervisor: str, spec: ChildSpec) -> bool:
        """Like `add_child`, unless there is one of that id; whether there was none."""
        with self._lock:
            return self._children[supervisor].setdefault(spec.id, spec) is spec

    def remove_child(self, supervisor: str, child_id: str, spec: ChildSpec | None = None) -> None:
        """Note that a child is not to be brought back; with `spec`, only if it is the one made from that."""
        with self._lock:
            children = self._children[supervisor]
            if spec is None or children.get(child_id) is spec:
                children.pop(child_id, None)

    def add_client(self, supervisor: str, spec: ChildSpec, client: Client) -> None:
        """Note a run or sampler: it is listed, comes back with `supervisor`, and is closed when the tree is down."""
        self.clients[f"{supervisor}/{spec.id}"] = client
        self.when_stopped(client, client.close)
        self.add_child(supervisor, spec)

    def drop_client(self, path: str) -> None:
        """Note that nobody needs the client whose actor is at `path` any more."""
        supervisor, _, child_id = path.rpartition("/")
        self.remove_child(supervisor, child_id)
        self.forget(self.clients.pop(path, None))

    def children(self, supervisor: str) -> list[ChildSpec]:
        """The named children of a dynamic supervisor, in the order they were added."""
        with self._lock:
            return list(self._children[supervisor].values())

    def when_stopped(self, owner: object, close: Callable[[BaseException], None]) -> None:
        """Call `close` with the reason once the tree is down, at once if it is; `forget` takes that back."""
        with self._lock:
            reason = self._stopped
            if reason is None:
                self._closers[owner] = close
        if reason is not None:
            close(reason)

    def forget(self, owner: object) -> None:
        """Whoever this was, nobody waits for it any more."""
        with self._lock:
            self._closers.pop(owner, None)

    @property
    def stopped(self) -> BaseException | None:
        """Why the tree is down; None while it is not."""
        return self._stopped

    def stop(self, reason: BaseException) -> None:
        """The tree is down: what callers still hold ends with `reason`."""
        with self._lock:
            self._stopped = self._stopped or reason
            closers, self._closers = self._closers, {}
        for close in closers.values():
            close(reason)
