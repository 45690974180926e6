"""Our client on servers of other kinds than the hosted service of today."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from harness import ADAM, BATCHES, KEY, WAIT_S, Server, step
from recorder import BASE_MODEL, Profile, Recorder

import tinker_actors as ta

JSON_ERA = Profile(
    flags=None, gives_protobuf=False, has_finish=False, names_sequences=False, loads_into_session=False
)
"""Before SDK 0.18: no flags, results in JSON."""
SKYRL = Profile(
    flags={"pjwt_auth_enabled": False},
    has_finish=False,
    names_sequences=False,
    derives_ids=False,
    fails_with_400=True,
    loads_into_session=False,
)
"""SkyRL's server: bare ids, no metrics, a failed request answers its poll with 400."""

PROFILES = pytest.mark.parametrize(
    "profile",
    [Profile(), Profile(announces_sizes=True, counts_refused=True), JSON_ERA, SKYRL],
    ids=["hosted", "hosted otherwise", "json-era", "skyrl"],
)


@pytest.fixture
def recorder(profile: Profile) -> Iterator[Recorder]:
    with Recorder(profile) as recorder:
        yield recorder


@PROFILES
def test_one_step_is_trained_and_sampled_from(recorder: Recorder) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        forward = training.forward_backward(BATCHES[0], "cross_entropy")
        training.optim_step(ADAM).result(WAIT_S)
        sampler = training.save_weights_and_get_sampling_client().result(WAIT_S)
        sampled = sampler.sample(ta.ModelInput.from_ints([72]), 2, ta.SamplingParams(max_tokens=2))
        assert len(forward.result(WAIT_S).loss_fn_outputs) == len(BATCHES[0])
        assert [sequence.tokens for sequence in sampled.result(WAIT_S).sequences] == [[104, 105]] * 2
    assert [request.path.rpartition("/")[2] for request in recorder.requests][-1] == "finish"


@PROFILES
def test_saved_weights_are_sampled_from(recorder: Recorder) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        saved = training.save_weights_for_sampler("named").result(WAIT_S)
        assert saved.path is not None
        sampler = service.create_sampling_client(model_path=saved.path).result(WAIT_S)
        logprobs = sampler.compute_logprobs(ta.ModelInput.from_ints([72, 105])).result(WAIT_S)
        assert logprobs == [None, -3.0]


@pytest.mark.parametrize(
    ("profile", "error"),
    [
        (Profile(failing=frozenset({"forward_backward"})), ta.RequestFailedError),
        (Profile(failing=frozenset({"forward_backward"}), fails_with_400=True), ta.BadRequestError),
    ],
    ids=["hosted", "skyrl"],
)
def test_a_request_that_fails_on_the_server_tells_why(recorder: Recorder, error: type[Exception]) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        with pytest.raises(error, match="it failed"):
            training.forward_backward(BATCHES[0], "cross_entropy").result(WAIT_S)


@PROFILES
def test_a_name_that_is_taken_is_the_callers_error_and_nothing_else(recorder: Recorder) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        path = training.save_state("a").result(WAIT_S).path
        step(training, 0)
        with pytest.raises(ta.ConflictError):
            training.save_state("a").result(WAIT_S)
        assert training.save_state("a", overwrite=True).result(WAIT_S).path == path
        step(training, 1)
    saves = [one for one in recorder.to("save_weights") if one.document["path"] == "a"]
    assert len(saves) == 3 + recorder.profile.counts_refused


@PROFILES
@pytest.mark.parametrize("optimizer", [True, False])
def test_a_checkpoint_is_gone_on_from(recorder: Recorder, optimizer: bool, tmp_path: Path) -> None:
    path = "tinker://model/weights/state"
    for number in range(2):  # the second time out of the journal
        with ta.ServiceClient(base_url=recorder.url, api_key=KEY, run_dir=tmp_path) as service:
            make = (
                service.create_training_client_from_state_with_optimizer
                if optimizer
                else service.create_training_client_from_state
            )
            training = make(path, user_metadata={"kept": "yes"}).result(WAIT_S)
            step(training, number)
    if recorder.profile.loads_into_session:
        return
    created, loaded = recorder.to("create_model")[0], recorder.to("load_weights")[1]
    assert created.document["lora_config"]["rank"] == 8
    assert created.document["user_metadata"] == {"kept": "yes"}
    assert loaded.document == {
        "path": path,
        "optimizer": optimizer,
        "model_id": recorder.to("forward_backward")[0].document["model_id"],
        "seq_id": 1,
        "type": "load_weights",
    }
    assert recorder.to("forward_backward")[0].document["seq_id"] == 2


JSON_ONLY = Profile(flags=None, takes_protobuf=False, gives_protobuf=False)
"""Before SDK 0.19, behind something that looks at the media type."""


@pytest.mark.parametrize(
    "profile",
    [JSON_ONLY, replace(JSON_ONLY, refuses_protobuf_with=422), replace(JSON_ONLY, refuses_protobuf_with=400)],
    ids=["415", "422", "400"],
)
def test_a_server_that_reads_no_protobuf_is_sent_json_from_then_on(recorder: Recorder) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        for batch in BATCHES:
            output = training.forward_backward(batch, "cross_entropy").result(WAIT_S)
            assert len(output.loss_fn_outputs) == len(batch)
        training.forward(BATCHES[0], "cross_entropy").result(WAIT_S)
    kinds = [request.headers["content-type"] for request in recorder.to("forward_backward")]
    assert kinds == ["application/x-protobuf", "application/json", "application/json"]
    assert [request.headers["content-type"] for request in recorder.to("forward")] == ["application/json"]
    refused, accepted = (request.document for request in recorder.to("forward_backward")[:2])
    assert (accepted["model_id"], accepted["seq_id"]) == (refused["model_id"], refused["seq_id"])
    assert set(accepted["forward_backward_input"]) == {"data", "loss_fn"}


@pytest.mark.parametrize("profile", [JSON_ONLY], ids=["415"])
def test_a_run_on_such_a_server_goes_on_in_another_process(recorder: Recorder, tmp_path: Path) -> None:
    def begin() -> ta.ServiceClient:
        return ta.ServiceClient(base_url=recorder.url, api_key=KEY, run_dir=tmp_path)

    with begin() as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        step(training, 0)
    with begin() as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        assert training.step == 1
        step(training, 1)
        assert training.step == 2


@pytest.mark.parametrize("profile", [Profile()], ids=["hosted"])
def test_the_codec_may_be_chosen(recorder: Recorder) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY, codec="json") as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        training.forward_backward(BATCHES[0], "cross_entropy").result(WAIT_S)
    assert {request.headers["content-type"] for request in recorder.requests if request.document} == {
        "application/json"
    }
    assert {request.headers["accept"] for request in recorder.requests} == {"application/json"}


@pytest.mark.parametrize("profile", [replace(JSON_ONLY, flags={}, refuses_protobuf_with=422)])
def test_a_server_of_protobufs_time_is_believed_when_it_refuses(recorder: Recorder) -> None:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY) as service:
        training = service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)
        with pytest.raises(ta.UnprocessableEntityError):
            training.forward_backward(BATCHES[0], "cross_entropy").result(WAIT_S)
    assert len(recorder.to("forward_backward")) == 1


def test_json_trains_like_protobuf(tmp_path: Path) -> None:
    losses = {}
    with Server(tmp_path / "data") as server:
        for codec in ("protobuf", "json"):
            with ta.ServiceClient(base_url=server.url, api_key=KEY, codec=codec) as service:
                training = service.create_lora_training_client(BASE_MODEL, rank=8, seed=7).result(WAIT_S)
                losses[codec] = [step(training, number)["loss:sum"] for number in range(2)]
    assert losses["json"] == losses["protobuf"]
