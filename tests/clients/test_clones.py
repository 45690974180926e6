"""Samplers in other processes: without a key, without a session of their own, without meeting one another."""

import base64
import gc
import json
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from harness import ADAM, BATCHES, KEY, WAIT_S, Server, client

import tinker_actors as ta
from tinker_actors.actors.sampling import CLONE
from tinker_actors.clients import clones
from tinker_actors.errors import ValidationError
from tinker_actors.local.step_log import Beat

PROMPT = ta.ModelInput.from_ints([72, 101])
GREEDY = ta.SamplingParams(max_tokens=3, temperature=0.0)


@pytest.fixture
def service(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[ta.ServiceClient]:
    monkeypatch.setenv("TINKER_API_KEY", KEY)
    with client(server, None) as service:
        yield service


def draw(sampler: ta.SamplingClient, count: int = 1) -> list[list[int]]:
    """Runs in whatever process."""
    futures = [sampler.sample(PROMPT, 1, GREEDY) for _ in range(count)]
    return [list(one.result(WAIT_S).sequences[0].tokens) for one in futures]


def tuned(service: ta.ServiceClient) -> ta.SamplingClient:
    """Over weights that only this session has."""
    training = service.create_lora_training_client("local/tiny", rank=4, seed=1).result(WAIT_S)
    training.forward_backward(BATCHES[0], "cross_entropy")
    training.optim_step(ADAM).result(WAIT_S)
    return training.save_weights_and_get_sampling_client().result(WAIT_S)


def test_workers_of_a_pool_sample_what_their_parent_samples(
    server: Server, service: ta.ServiceClient
) -> None:
    sampler = tuned(service)
    sessions = len(service.create_rest_client().list_sessions().result(WAIT_S).sessions)
    wanted = draw(sampler)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        drawn = [pool.submit(draw, sampler, 3) for _ in range(3)]
        assert [one.result(WAIT_S) for one in drawn] == [wanted * 3] * 3
    assert len(service.create_rest_client().list_sessions().result(WAIT_S).sessions) == sessions
    pulse = service._runtime.published.pulse
    assert pulse is not None
    beats = [entry.owner for entry in server.control.log() if isinstance(entry, Beat)]
    assert set(beats) <= {pulse.session_id}


def test_numbers_of_clones_never_meet(server: Server, service: ta.ServiceClient) -> None:
    sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
    handle = sampler.get_sampler_handle()
    for one in (sampler, *(ta.SamplingClient.from_sampler_handle(handle) for _ in range(2))):
        draw(one, 2)
    session = sampler._sampler.session_id
    assert session is not None
    numbers = [entry.seq_id or 0 for entry in server.control.executed(session)]
    assert len(set(numbers)) == 6
    assert sorted(number // CLONE for number in numbers)[:2] == [0, 0]
    assert len({number // CLONE for number in numbers}) == 3


def test_handle_names_the_sampler_and_holds_no_key(server: Server, service: ta.ServiceClient) -> None:
    sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
    text = base64.urlsafe_b64decode(sampler.get_sampler_handle()).decode()
    assert json.loads(text)["place"]["base_url"] == server.url
    assert KEY not in text
    assert KEY.encode() not in pickle.dumps(sampler)


def test_clones_with_another_key_have_other_connections_and_no_key_is_kept_in_clear(
    service: ta.ServiceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = service.create_sampling_client(base_model="local/tiny").result(WAIT_S).get_sampler_handle()
    first, same = (ta.SamplingClient.from_sampler_handle(handle) for _ in range(2))
    monkeypatch.setenv("TINKER_API_KEY", "tml-another-secret")
    other = ta.SamplingClient.from_sampler_handle(handle)
    assert first._owner is same._owner is not other._owner
    assert "tml-" not in repr(list(clones._owners.keys()))


def test_clone_tells_what_it_is_of(service: ta.ServiceClient) -> None:
    training = service.create_lora_training_client("local/tiny", rank=4, seed=1).result(WAIT_S)
    path = training.save_weights_for_sampler("named").result(WAIT_S).path
    sampler = service.create_sampling_client(path).result(WAIT_S)
    clone = pickle.loads(pickle.dumps(sampler))  # noqa: S301 - our own
    assert (clone.base_model, clone.model_path) == ("local/tiny", path)
    assert pickle.loads(pickle.dumps(clone)).model_path == path  # noqa: S301 - our own; so do clones of clones


def test_clones_of_one_process_share_their_connections_and_leave_nothing_behind(
    service: ta.ServiceClient,
) -> None:
    handle = service.create_sampling_client(base_model="local/tiny").result(WAIT_S).get_sampler_handle()
    before = {thread.ident for thread in threading.enumerate()}
    first, second = (ta.SamplingClient.from_sampler_handle(handle) for _ in range(2))
    assert first._owner is second._owner
    draw(first)
    del first, second
    gc.collect()
    for thread in threading.enumerate():
        if thread.ident not in before:
            thread.join(WAIT_S)
    assert len(clones._owners) == 0


def test_handle_is_good_again_after_what_clones_share_has_stopped(service: ta.ServiceClient) -> None:
    handle = service.create_sampling_client(base_model="local/tiny").result(WAIT_S).get_sampler_handle()
    first = ta.SamplingClient.from_sampler_handle(handle)
    owner: Any = first._owner
    owner.runtime.close("errored", WAIT_S)
    with pytest.raises(ta.RuntimeStoppedError):
        draw(first)
    draw(ta.SamplingClient.from_sampler_handle(handle))


def test_sampler_of_an_embedded_server_needs_no_key_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    with ta.ServiceClient(base_url="local") as service:
        sampler = service.create_sampling_client(base_model="local/tiny").result(WAIT_S)
        clone = ta.SamplingClient.from_sampler_handle(sampler.get_sampler_handle())
        assert draw(clone) == draw(sampler)


def test_key_of_another_service_is_wanted(
    service: ta.ServiceClient, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    handle = service.create_sampling_client(base_model="local/tiny").result(WAIT_S).get_sampler_handle()
    monkeypatch.delenv("TINKER_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ta.ConfigError, match="TINKER_API_KEY"):
        ta.SamplingClient.from_sampler_handle(handle)
    clone = ta.SamplingClient.from_sampler_handle(handle, api_key=KEY)
    assert len(draw(clone)) == 1


@pytest.mark.parametrize("handle", ["", "no handle", base64.urlsafe_b64encode(b"{}").decode(), None, 7])
def test_what_is_no_handle_is_refused(handle: str) -> None:
    with pytest.raises(ValidationError, match="handle"):
        ta.SamplingClient.from_sampler_handle(handle)
