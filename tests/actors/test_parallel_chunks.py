"""Chunks of one operation that go out together: in order on the service, and safe at every crash."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import ADAM, BATCHES, KEY, WAIT_S, Server, client, step
from recorder import BASE_MODEL, Profile, Recorder

import tinker_actors as ta
from tinker_actors.actors.exchange import Exchange
from tinker_actors.actors.failing import Next
from tinker_actors.actors.outbox import Part
from tinker_actors.api.codecs import Capabilities
from tinker_actors.api.setup import ClientConfig
from tinker_actors.events import ModelCreated, ModelRestored
from tinker_actors.supervision import ChildStarted
from tinker_actors.supervision.testing import InjectedCrashError, crash, expect

DATA = BATCHES[0] * 3
TRANSPORT = "service/transport"
STEPS = 2


def run(server: Server, *, parallel: bool, disturb: Callable[[ta.ServiceClient], object]) -> str:
    """Digest of the weights after two steps of six chunks each."""
    with client(server, None) as service:
        published = service._runtime.published
        published.capabilities = Capabilities(
            has_flags=parallel
        )  # ids of a server before flags come in order
        training = service.create_lora_training_client("local/tiny", rank=4, seed=3).result(WAIT_S)
        published.config = ClientConfig(fwdbwd_max_chunk_len=1)
        submitted: list[ta.APIFuture[Any]] = []
        for _ in range(STEPS):
            submitted += [training.forward_backward(DATA, "cross_entropy"), training.optim_step(ADAM)]
        disturb(service)
        for future in submitted:
            future.result(WAIT_S)
        return server.digest(training.save_state("final").result(WAIT_S).path)


@pytest.fixture(scope="module")
def undisturbed(server: Server) -> str:
    return run(server, parallel=False, disturb=lambda _: None)


def test_their_order_of_arrival_changes_nothing(server: Server, undisturbed: str) -> None:
    assert run(server, parallel=True, disturb=lambda _: None) == undisturbed


def crash_transport(service: ta.ServiceClient) -> None:
    with expect(service._runtime.tree, ChildStarted, path=TRANSPORT, timeout_s=WAIT_S):
        crash(service.address(TRANSPORT))


def test_a_transport_that_ends_in_the_middle_repeats_them_under_their_ids(
    server: Server, undisturbed: str
) -> None:
    assert run(server, parallel=True, disturb=crash_transport) == undisturbed


@pytest.mark.parametrize("accepted", [1, 5, 6])
def test_an_actor_that_ends_when_some_are_accepted_repeats_them_under_their_ids(
    server: Server, undisturbed: str, monkeypatch: pytest.MonkeyPatch, accepted: int
) -> None:
    original, calls = Exchange._accept, iter(range(100))

    def accept(exchange: Exchange, part: Part) -> Next:
        if next(calls) == accepted:
            raise InjectedCrashError
        return original(exchange, part)

    monkeypatch.setattr(Exchange, "_accept", accept)
    assert run(server, parallel=True, disturb=lambda _: None) == undisturbed


# On a server that refuses -----------------------------------------------------------------------------


@pytest.fixture
def recorder(profile: Profile) -> Iterator[Recorder]:
    with Recorder(profile) as recorder:
        yield recorder


CHUNKED = {"fwdbwd_max_chunk_len": 1}


def train(recorder: Recorder) -> tuple[list[Any], list[int]]:
    """A step of three chunks that fails, a good one; the models that were made, and the ids that arrived."""
    made: list[Any] = []
    with ta.ServiceClient(
        base_url=recorder.url, api_key=KEY, recovery=ta.RecoveryPolicy(checkpoint_every_steps=0)
    ) as service:
        service.subscribe(
            lambda event: made.append(event) if isinstance(event, ModelRestored | ModelCreated) else None
        )
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        failing = training.forward_backward(BATCHES[0][:1] * 3, "refused")
        with pytest.raises(ta.BadRequestError, match="no such loss"):
            failing.result(WAIT_S)
        with pytest.raises(ta.StepVoidError):
            training.optim_step(ADAM).result(WAIT_S)
        step(training, 0)
        assert training.step == 1
    arrived = [request.document["seq_id"] for request in recorder.to("forward_backward")]
    return made, arrived


@pytest.mark.parametrize("profile", [Profile(flags=CHUNKED, refused_parts=frozenset({1, 2, 3}))])
def test_a_step_whose_every_chunk_is_refused_costs_no_model(recorder: Recorder) -> None:
    made, arrived = train(recorder)
    assert [type(event) for event in made] == [ModelCreated]
    assert sorted(arrived[:2]) == [2, 3]
    assert 1 in arrived[2:]


@pytest.mark.parametrize("profile", [Profile(flags=CHUNKED, refused_parts=frozenset({3}))])
def test_a_step_of_which_a_chunk_waits_on_the_server_costs_the_model(recorder: Recorder) -> None:
    made, arrived = train(recorder)
    assert [type(event) for event in made] == [ModelCreated, ModelRestored]
    assert sorted(arrived[:2]) == [2, 3]
    assert sorted(arrived[2:]) == [1, 2]
