"""The supervision tree as data: who is whose child, in which order they start, how often they may fail."""

from functools import partial

from tinker_actors.actors.journal import JournalActor
from tinker_actors.actors.local_server import LocalServerActor
from tinker_actors.actors.published import Published
from tinker_actors.actors.run import Run
from tinker_actors.actors.sampling import Sampler, SamplingActor
from tinker_actors.actors.service import ApplicationActor, NamedChildren, ServiceActor
from tinker_actors.actors.session import SessionActor
from tinker_actors.actors.telemetry import TelemetryActor
from tinker_actors.actors.training import TrainingActor
from tinker_actors.actors.transport import TransportActor
from tinker_actors.errors import JournalError
from tinker_actors.supervision import Backoff, ChildSpec, Kind, OnPending, Restart, Strategy, Supervisor

__all__ = ["sampler_spec", "service_spec", "training_spec"]

_BACKOFF = Backoff(base_s=0.05, cap_s=5.0)


def service_spec(published: Published) -> ChildSpec:
    """The whole tree."""
    children: list[ChildSpec] = []
    telemetry = published.telemetry
    if (
        telemetry is not None
    ):  # it is there before and after what it tells of; how often it fails is no matter
        start = partial(TelemetryActor, telemetry)
        children.append(ChildSpec("telemetry", start, backoff=_BACKOFF, free_causes=(Exception,)))
    children += [
        ChildSpec("journal", partial(JournalActor, published), on_pending=OnPending.CARRY),
        ChildSpec(
            "transport", partial(TransportActor, published), on_pending=OnPending.CARRY, max_mailbox=100_000
        ),
    ]
    children.append(
        ChildSpec("breakers", partial(NamedChildren, published, max_restarts=10), kind=Kind.SUPERVISOR)
    )
    if published.settings.is_local:
        children.append(ChildSpec("local-server", partial(LocalServerActor, published)))
    children.append(ChildSpec("application", partial(ApplicationActor, published), kind=Kind.SUPERVISOR))
    children.append(ChildSpec("session", partial(_session, published), kind=Kind.SUPERVISOR))
    return ChildSpec("service", partial(ServiceActor, children), kind=Kind.SUPERVISOR)


def _session(published: Published) -> Supervisor:
    """A session that was replaced ends `heartbeat`, so that what lives in it is restarted, too."""
    children = [
        ChildSpec(
            "heartbeat", partial(SessionActor, published), backoff=_BACKOFF, free_causes=(JournalError,)
        ),
        ChildSpec("training", partial(NamedChildren, published), kind=Kind.SUPERVISOR),
        ChildSpec("sampling", partial(NamedChildren, published), kind=Kind.SUPERVISOR),
    ]
    return Supervisor(children, strategy=Strategy.REST_FOR_ONE, max_restarts=3, within_s=60.0)


def training_spec(run: Run, published: Published) -> ChildSpec:
    """The child that serves `run`."""
    return ChildSpec(
        f"training:{run.name}",
        partial(TrainingActor, run, published),
        restart=Restart.TRANSIENT,
        backoff=_BACKOFF,
    )


def sampler_spec(sampler: Sampler, published: Published) -> ChildSpec:
    """The child that serves `sampler`."""
    return ChildSpec(
        f"sampling:{sampler.name}",
        partial(SamplingActor, sampler, published),
        restart=Restart.TRANSIENT,
        backoff=_BACKOFF,
        free_causes=(JournalError,),
    )
