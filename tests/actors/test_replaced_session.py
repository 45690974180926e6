"""After the service ended a session and another one took its place, every handle that a program holds works."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import ADAM, BATCHES, WAIT_S, Events, Server, client, step

import tinker_actors as ta
from tinker_actors.actors import liveness, session
from tinker_actors.events import ModelRestored, SessionOpened
from tinker_actors.local.step_log import Beat
from tinker_actors.supervision import CallMethod, ChildSpec, ChildStarted, SupervisedActor
from tinker_actors.supervision.testing import expect

PROMPT = ta.ModelInput.from_ints([72, 101])
ONE = ta.SamplingParams(max_tokens=1)


class Echo(SupervisedActor):
    """Of the user's own; says how many messages this incarnation had."""

    def on_start(self) -> None:
        self.had = 0

    def on_receive(self, message: Any) -> int:  # noqa: ARG002 - any will do
        self.had += 1
        return self.had


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as server:
        yield server


def beats(server: Server, session_id: str) -> int:
    return sum(isinstance(entry, Beat) for entry in server.control.log(session_id))


def test_every_handle_works_after_its_session_was_replaced(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HB-10."""
    for module in (liveness, session):
        monkeypatch.setattr(module, "BEAT_S", 0.2)
    with client(server, tmp_path / "run") as service:
        events = Events(service)
        tree = service._runtime.tree
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        trained = training.save_weights_and_get_sampling_client("named").result(WAIT_S)
        rest = service.create_rest_client()
        echo = service.application.start(ChildSpec("echo", Echo)).result(WAIT_S)
        losses = [step(training, number)["loss:sum"] for number in range(2)]
        assert echo.call("before") == 1
        old = service._runtime.published.session_id
        assert old is not None
        restarts = [f"service/session/{name}" for name in ("heartbeat", "training", "sampling")]
        started: list[str] = []
        unsubscribe = service.subscribe(
            lambda event: started.append(event.path) if isinstance(event, ChildStarted) else None
        )
        with expect(tree, SessionOpened) as opened, expect(tree, ModelRestored):
            server.finish_session(old)  # its next beat is told so
        new = opened.event.session_id
        losses.append(step(training, 2)["loss:sum"])
        assert losses[2] < losses[0]
        training.handle.call(CallMethod("forward_backward", (BATCHES[0], "cross_entropy"), {}))
        training.handle.call(CallMethod("optim_step", (ADAM,), {}))
        for one in (sampler, trained):
            assert len(one.sample(PROMPT, 1, ONE).result(WAIT_S).sequences) == 1
        assert rest.get_session(new).result(WAIT_S) is not None
        assert echo.call("after") == 2  # no crash of its own
        assert [path for path in started if path in restarts] == restarts
        unsubscribe()
        last = beats(server, old)
        before = beats(server, new)
        while beats(server, new) < before + 3:
            step(training, 0)
        assert beats(server, old) == last
    assert new != old
    assert [event.session_id for event in events.of(SessionOpened)] == [old, new]
