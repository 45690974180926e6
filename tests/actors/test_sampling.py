"""Samplers: what they survive, and that they leave nothing behind."""

import contextlib
import gc
import threading
from pathlib import Path

import pytest
from control import Control
from harness import ADAM, BATCHES, WAIT_S, Server, client, step

import tinker_actors as ta
from tinker_actors.actors.sampling import SamplingActor
from tinker_actors.clients.future import APIFuture
from tinker_actors.errors import SamplerLostError, TinkerPathError, ValidationError
from tinker_actors.supervision import NORMAL, ChildExited, ChildStarted
from tinker_actors.supervision.testing import crash, expect

PROMPT = ta.ModelInput.from_ints(list(b"hello"))
GREEDY = ta.SamplingParams(max_tokens=4, temperature=0.0)
SAMPLER = "service/session/sampling/sampling:1"


def tokens(sampler: ta.SamplingClient) -> list[int]:
    return sampler.sample(PROMPT, 1, GREEDY).result(WAIT_S).sequences[0].tokens


def train(training: ta.TrainingClient) -> None:
    for _ in range(20):
        training.forward_backward(BATCHES[0], "cross_entropy")
        training.optim_step(ADAM)


def test_a_sampler_draws_what_its_weights_say(server: Server) -> None:
    with client(server, None) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=1).result(WAIT_S)
        train(training)
        tuned = training.save_weights_and_get_sampling_client("tuned").result(WAIT_S)
        again = service.create_sampling_client(model_path=tuned.model_path).result(WAIT_S)
        base = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        assert tokens(tuned) == tokens(again)
        assert tokens(base) != tokens(tuned)


def test_samples_under_way_when_the_actor_crashes_are_drawn_again(server: Server) -> None:
    with client(server, None) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        wanted = tokens(sampler)
        with expect(service._runtime.tree, ChildStarted, path=SAMPLER, epoch=2, timeout_s=WAIT_S):
            futures = [sampler.sample(PROMPT, 2, GREEDY) for _ in range(8)]
            crash(service.address(SAMPLER))
        drawn = [sequence for future in futures for sequence in future.result(WAIT_S).sequences]
        assert all(sequence.tokens == wanted for sequence in drawn)
        ids = {sequence.sequence_id for sequence in drawn} - {None}
        assert len(ids) == len(drawn)


def test_a_sample_whose_result_expired_is_asked_for_again(server: Server) -> None:
    with client(server, None) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        wanted = tokens(sampler)
        (name,) = server.control.arm(
            {"effect": "expire_result", "operation": "retrieve_future", "of": "sample"}
        )
        assert tokens(sampler) == wanted
        assert len(server.control.fired(name)) == 1


def test_an_unnamed_sampler_holds_the_weights_of_its_place_in_the_order(server: Server) -> None:
    with client(server, None) as service:
        training = service.create_lora_training_client("local/tiny", rank=4, seed=1).result(WAIT_S)
        before = training.save_weights_and_get_sampling_client()
        train(training)
        after = training.save_weights_and_get_sampling_client()
        base = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        assert tokens(before.result(WAIT_S)) == tokens(base) != tokens(after.result(WAIT_S))


def test_an_unnamed_sampler_that_the_service_forgot_says_so(server: Server, run_dir: Path) -> None:
    with client(server, run_dir) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        step(training, 0)
        sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
        weights = sampler._sampler.weights
        assert weights is not None
        weights.home = weights.home[0], "gone:sample:0"
        with expect(service._runtime.tree, ChildStarted, path=SAMPLER, timeout_s=WAIT_S):
            crash(service.address(SAMPLER))
        with pytest.raises(SamplerLostError, match="under a name"):
            tokens(sampler)
        training.optim_step(ADAM).result(WAIT_S)


def test_a_sampler_that_nobody_holds_ends_its_actor(server: Server) -> None:
    with client(server, None) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        assert tokens(sampler)
        with expect(service._runtime.tree, ChildExited, path=SAMPLER, timeout_s=WAIT_S):
            del sampler
            gc.collect()
        assert service.tree().find(SAMPLER) is None


def test_a_sampler_that_nobody_holds_still_answers_what_it_was_asked(server: Server) -> None:
    with client(server, None) as service:
        future = (
            service.create_sampling_client(base_model="local/tiny").result(WAIT_S).sample(PROMPT, 1, GREEDY)
        )
        gc.collect()
        assert future.result(WAIT_S).sequences


def sampler_is_gone(service: ta.ServiceClient) -> None:
    """Wait until the finalizer of the last sampler was obeyed."""
    gc.collect()
    obeyed = threading.Event()
    service._runtime.settler.run(obeyed.set)
    assert obeyed.wait(WAIT_S)


def hanging_sample(service: ta.ServiceClient) -> APIFuture[ta.SampleResponse]:
    """A sample that the service never answers, of a sampler that nobody holds."""
    future = service.create_sampling_client(base_model="local/tiny").result(WAIT_S).sample(PROMPT, 1, GREEDY)
    sampler_is_gone(service)
    return future


def test_what_was_asked_of_a_sampler_that_nobody_holds_ends_with_the_service(tmp_path: Path) -> None:
    with Server(tmp_path / "server", "--control") as server, client(server, None) as service:
        Control(server.url).arm({"effect": "hang", "operation": "asample", "count": "always"})
        future = hanging_sample(service)
        assert service.status().clients[0].unanswered == 1
        service.close()
        with pytest.raises(ta.RuntimeStoppedError):
            future.result(WAIT_S)


@pytest.mark.parametrize("victim", ["service/session/sampling", SAMPLER])
def test_a_sampler_that_nobody_holds_is_brought_back_for_what_it_was_asked(
    victim: str, tmp_path: Path
) -> None:
    with Server(tmp_path / "server", "--control") as server, client(server, None) as service:
        control = Control(server.url)
        control.arm({"effect": "hang", "operation": "asample", "count": 1})
        future = hanging_sample(service)
        with expect(service._runtime.tree, ChildExited, path=SAMPLER, reason=NORMAL, timeout_s=WAIT_S):
            crash(service.address(victim))
            assert future.result(WAIT_S).sequences
        assert service.status().clients == ()


def test_weights_that_the_service_does_not_have_are_an_error_of_the_client_future(server: Server) -> None:
    with client(server, None) as service:
        with expect(service._runtime.tree, ChildExited, path=SAMPLER, reason=NORMAL, timeout_s=WAIT_S):
            made = service.create_sampling_client(model_path="tinker://nowhere/sampler_weights/x")
            with pytest.raises(ta.TinkerActorsError, match="nowhere"):
                made.result(WAIT_S)
        assert service.status().clients == ()


def test_logprobs_of_a_prompt_begin_undefined(server: Server) -> None:
    with client(server, None) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        first, *rest = sampler.compute_logprobs(PROMPT).result(WAIT_S)
    assert first is None
    assert len(rest) == PROMPT.length - 1
    assert all(value is not None and value < 0 for value in rest)


def test_each_sequence_has_an_id_of_its_own(server: Server) -> None:
    with client(server, None) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        futures = [sampler.sample(PROMPT, 3, GREEDY) for _ in range(2)]
        ids = [sequence.sequence_id for future in futures for sequence in future.result(WAIT_S).sequences]
    assert None not in ids
    assert len(set(ids)) == 6


def test_wrong_arguments_are_refused_before_anything_is_sent(server: Server) -> None:
    with client(server, None) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        with pytest.raises(ValidationError, match="num_samples"):
            sampler.sample(PROMPT, 0, GREEDY)
        with pytest.raises(ValidationError, match="vocabulary of local/tiny"):
            sampler.sample(ta.ModelInput.from_ints([9999]), 1, GREEDY)
        with pytest.raises(ValidationError, match="at least one token"):
            sampler.sample(ta.ModelInput.empty(), 1, GREEDY)
        with pytest.raises(ValidationError, match="one of model_path and base_model"):
            service.create_sampling_client()
        with pytest.raises(TinkerPathError, match="kind sampler_weights"):
            service.create_sampling_client(model_path="tinker://m/weights/x")


def test_a_sampler_over_a_path_knows_its_base_model(server: Server) -> None:
    with client(server, None) as service:
        training = service.create_lora_training_client("local/tiny", rank=4).result(WAIT_S)
        path = training.save_weights_for_sampler("here").result(WAIT_S).path
        sampler = service.create_sampling_client(model_path=path).result(WAIT_S)
        assert sampler.get_base_model() == "local/tiny"
        with pytest.raises(ta.ValidationError, match="vocabulary of local/tiny"):
            sampler.sample(ta.ModelInput.from_ints([10**6]), 1, GREEDY)


def test_a_sampler_with_a_full_mailbox_takes_what_it_is_asked(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client(server, None) as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        go_on, handle = threading.Event(), SamplingActor.on_receive

        def held(actor: SamplingActor, message: object) -> None:
            assert go_on.wait(WAIT_S)
            handle(actor, message)

        monkeypatch.setattr(SamplingActor, "on_receive", held)
        with contextlib.suppress(ta.MailboxFullError):
            while True:
                service.address(SAMPLER).tell("news")
        future = sampler.sample(PROMPT, 1, GREEDY)
        go_on.set()
        assert future.result(WAIT_S).sequences


def test_a_sampler_over_weights_of_another_model_knows_that_ones_base_model(server: Server) -> None:
    with client(server, None) as service:
        models = ["local/small", "local/tiny"]
        clients = [service.create_lora_training_client(name, rank=4).result(WAIT_S) for name in models]
        paths = [str(one.save_weights_for_sampler("here").result(WAIT_S).path) for one in clients]
        samplers = [clients[1].create_sampling_client(path).result(WAIT_S) for path in paths]
        assert [one.base_model for one in samplers] == models
