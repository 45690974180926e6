"""Actors of the caller's own in the tree, and clients as actors."""

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from harness import ADAM, BATCHES, KEY, WAIT_S, Server, client

import tinker_actors as ta
from tinker_actors.actors.published import APPLICATION, TRAINING
from tinker_actors.errors import CommandRefusedError, NotDeliveredError, StartFailedError
from tinker_actors.supervision import (
    CallMethod,
    ChildDeleted,
    ChildSpec,
    ChildStarted,
    Restart,
    Stop,
    SupervisedActor,
)
from tinker_actors.supervision.testing import crash, expect


class Scorer(SupervisedActor):
    """Scores texts; falls over an empty one."""

    exposed = ("score", "scored")

    def on_start(self) -> None:
        self.scored = 0

    def score(self, text: str) -> float:
        self.scored += 1
        return len(set(text)) / len(text)

    def on_receive(self, message: Any) -> Any:
        if message == "leave":
            raise Stop
        return message


class Broken(SupervisedActor):
    def on_start(self) -> None:
        raise ValueError("no weights")


@pytest.fixture(scope="module")
def service(server: Server) -> Iterator[ta.ServiceClient]:
    with client(server, None) as service:
        yield service


@pytest.fixture(scope="module")
def training(service: ta.ServiceClient) -> ta.TrainingClient:
    return service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)


def names(service: ta.ServiceClient) -> list[str]:
    node = service.tree().find(APPLICATION)
    assert node is not None
    return [child.id for child in node.children]


def test_actor_of_the_callers_own_answers(service: ta.ServiceClient) -> None:
    scorer = service.application.start(ChildSpec("answers", Scorer)).result(WAIT_S)
    assert scorer.proxy(Scorer).score("aabb").result() == 0.5
    assert scorer.call("hello") == "hello"
    assert scorer == service.application.address("answers")


def test_address_outlives_a_crash(service: ta.ServiceClient) -> None:
    scorer = service.application.start(ChildSpec("crashes", Scorer)).result(WAIT_S)
    proxy = scorer.proxy(Scorer)
    proxy.score("a").result()
    with expect(service._runtime.tree, ChildStarted, path=f"{APPLICATION}/crashes"):
        assert isinstance(proxy.score("").exception(), ZeroDivisionError)
    assert (proxy.score("aabb").result(), proxy.scored.result()) == (0.5, 1)


def test_crash_of_its_supervisor_brings_an_actor_back(service: ta.ServiceClient) -> None:
    scorer = service.application.start(ChildSpec("comes back", Scorer)).result(WAIT_S)
    temporary = ChildSpec("temporary", Scorer, restart=Restart.TEMPORARY)
    service.application.start(temporary).result(WAIT_S)
    with expect(service._runtime.tree, ChildStarted, path=f"{APPLICATION}/comes back"):
        crash(service.address(APPLICATION))
    assert scorer.call("hello") == "hello"
    assert "temporary" not in names(service)


def test_actor_that_ended_for_good_does_not_come_back_with_its_supervisor(service: ta.ServiceClient) -> None:
    leaver = ChildSpec("leaves", Scorer, restart=Restart.TRANSIENT)
    service.application.start(ChildSpec("stays", Scorer)).result(WAIT_S)
    with expect(service._runtime.tree, ChildDeleted, path=f"{APPLICATION}/leaves"):
        service.application.start(leaver).result(WAIT_S).tell("leave")
    with expect(service._runtime.tree, ChildStarted, path=f"{APPLICATION}/stays"):
        crash(service.address(APPLICATION))
    assert "leaves" not in names(service)


def test_actor_is_stopped_for_good(service: ta.ServiceClient) -> None:
    scorer = service.application.start(ChildSpec("stopped", Scorer)).result(WAIT_S)
    service.application.stop("stopped").result(WAIT_S)
    with pytest.raises((NotDeliveredError, ta.HandleClosedError)):
        scorer.call("hello")
    with pytest.raises(CommandRefusedError):
        service.application.stop("stopped").result(WAIT_S)
    again = service.application.start(ChildSpec("stopped", Scorer)).result(WAIT_S)
    assert again.call("hello") == "hello"


def test_actor_that_cannot_start_is_an_error_and_leaves_nothing(service: ta.ServiceClient) -> None:
    with pytest.raises(StartFailedError) as caught:
        service.application.start(ChildSpec("broken", Broken)).result(WAIT_S)
    assert "no weights" in f"{caught.value} {caught.value.__cause__}"
    assert "broken" not in names(service)
    assert service.application.start(ChildSpec("broken", Scorer)).result(WAIT_S).call("hello") == "hello"


def test_name_is_given_once(service: ta.ServiceClient) -> None:
    service.application.start(ChildSpec("once", Scorer)).result(WAIT_S)
    with pytest.raises(CommandRefusedError) as caught:
        service.application.start(ChildSpec("once", Broken)).result(WAIT_S)
    assert caught.value.answer == "already_started"
    with expect(service._runtime.tree, ChildStarted, path=f"{APPLICATION}/once"):
        crash(service.address(f"{APPLICATION}/once"))


def test_what_is_no_spec_is_refused(service: ta.ServiceClient) -> None:
    with pytest.raises(ta.ValidationError, match="ChildSpec, got ABCMeta"):
        service.application.start(Scorer)  # type: ignore[arg-type]


def test_start_after_the_end_says_so(server: Server) -> None:
    with client(server, None) as service:
        application = service.application
    with pytest.raises(ta.RuntimeStoppedError):
        application.start(ChildSpec("late", Scorer)).result(WAIT_S)


def test_handle_of_a_training_client_is_used_like_an_actor(training: ta.TrainingClient) -> None:
    proxy = training.handle.proxy()
    before = proxy.step.result()
    forward = proxy.forward_backward(BATCHES[0], "cross_entropy")
    proxy.optim_step(ADAM).result()
    assert "loss:sum" in forward.result().metrics
    assert proxy.step.result() == before + 1
    assert proxy.run.result() == training.run


def test_handle_outlives_the_crash_of_its_actor(
    service: ta.ServiceClient, training: ta.TrainingClient
) -> None:
    handle = training.handle
    assert handle.path == f"{TRAINING}/training:1"
    with expect(service._runtime.tree, ChildStarted, path=handle.path):
        crash(service.address(handle.path))
    before = training.step
    handle.tell(CallMethod("forward_backward", (BATCHES[0], "cross_entropy"), {}))
    handle.call(CallMethod("optim_step", (ADAM,), {}))
    assert training.step == before + 1


def test_handle_answers_with_the_error(training: ta.TrainingClient) -> None:
    proxy = training.handle.proxy()
    assert isinstance(proxy.forward_backward([], "cross_entropy").exception(), ta.ValidationError)
    assert isinstance(training.handle.ask(CallMethod("_train", (), {})).exception(), AttributeError)
    with pytest.raises(AttributeError, match="exposes no 'load_state'"):
        _ = proxy.load_state
    with pytest.raises(ta.ValidationError, match="CallMethod, got str"):
        training.handle.ask("hello")  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout_s", ["1", 0, -1.0, float("nan"), None])
def test_handle_refuses_what_is_no_time(training: ta.TrainingClient, timeout_s: Any) -> None:
    for act in (training.handle.proxy, partial(training.handle.ask, CallMethod("step", (), {}))):
        with pytest.raises(ta.ValidationError, match="timeout_s"):
            act(timeout_s=timeout_s)


def test_handle_gives_a_sampler_of_the_weights_in_training(training: ta.TrainingClient) -> None:
    sampler = training.handle.proxy().save_weights_and_get_sampling_client().result()
    stream = sampler.handle.proxy().sample_stream([1, 2, 3], ta.SamplingParams(max_tokens=2)).result()
    assert [chunk.is_done for chunk in stream][-1]


@pytest.mark.parametrize("client", [ta.TrainingClient, ta.SamplingClient])
def test_handle_offers_all_that_works_for_a_client(client: Any) -> None:
    public = {name for name in dir(client) if not name.startswith("_") and not name.endswith("_async")}
    assert public - set(client.exposed) <= {
        "exposed",
        "from_sampler_handle",  # makes another client
        "get_base_model",  # is an attribute, too
        "get_console_url",
        "get_sampler_handle",
        "get_telemetry",
        "get_tokenizer",  # may wait for a download, in an actor's thread
        "handle",
        "load_state",  # refused
        "load_state_with_optimizer",
        "steps",  # a loop of the program's
    }


class Trainer(SupervisedActor):
    """An actor that trains; it may wait for what it asked of a handle."""

    exposed = ("train",)

    def __init__(self, training: ta.TrainingClient) -> None:
        super().__init__()
        self._training = training.handle.proxy()

    def train(self) -> int:
        self._training.forward_backward(BATCHES[1], "cross_entropy")
        self._training.optim_step(ADAM).result()
        step: int = self._training.step.result()
        return step


def test_actor_of_the_callers_own_trains_through_a_handle(
    service: ta.ServiceClient, training: ta.TrainingClient
) -> None:
    trainer = service.application.start(ChildSpec("trainer", lambda: Trainer(training))).result(WAIT_S)
    before = training.step
    assert trainer.proxy(Trainer).train().result() == before + 1


def test_handle_of_a_sampling_client_samples(service: ta.ServiceClient) -> None:
    sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
    proxy = sampler.handle.proxy()
    done = threading.Event()
    reply = proxy.sample([1, 2, 3], 1, ta.SamplingParams(max_tokens=2))
    reply.add_done_callback(lambda _: done.set())
    assert done.wait(WAIT_S)
    assert len(reply.result().sequences) == 1
    assert proxy.base_model.result() == "local/tiny"
    assert KEY not in repr(sampler.handle)
