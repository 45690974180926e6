"""What training can be asked for beside gradients: other optimizers, exports, samplers in flight."""

from collections.abc import Iterator
from typing import Any

import pytest
from harness import BATCHES, KEY, NO_CHECKPOINTS, WAIT_S
from recorder import BASE_MODEL, Recorder

import tinker_actors as ta

DIMUON = ta.DimuonParams(learning_rate=0.01)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    with Recorder() as recorder:
        yield recorder


@pytest.fixture
def service(recorder: Recorder) -> Iterator[ta.ServiceClient]:
    with ta.ServiceClient(base_url=recorder.url, api_key=KEY, recovery=NO_CHECKPOINTS) as service:
        yield service


@pytest.fixture
def training(service: ta.ServiceClient) -> ta.TrainingClient:
    return service.create_lora_training_client(BASE_MODEL, rank=8).result(WAIT_S)


def test_a_model_is_created_and_updated_by_the_optimizer_asked_for(
    recorder: Recorder, service: ta.ServiceClient
) -> None:
    training = service.create_lora_training_client(
        BASE_MODEL, rank=8, optimizer=ta.DimuonOptimizerConfig()
    ).result(WAIT_S)
    training.optim_step(DIMUON).result(WAIT_S)
    assert recorder.to("create_model")[0].document["optimizer_config"] == {"type": "dimuon", "version": 1}
    sent = recorder.to("optim_step")[0].document
    assert sent["optimizer_params"]["type"] == "dimuon"
    assert "adam_params" not in sent
    with pytest.raises(ta.ValidationError, match="takes DimuonParams"):
        training.optim_step(ta.AdamParams())


def test_a_checkpoint_is_continued_with_the_optimizer_asked_for(
    recorder: Recorder, service: ta.ServiceClient
) -> None:
    path = "tinker://session-0:train:0/weights/a"
    for optimizer in (None, ta.DimuonOptimizerConfig()):
        service.create_training_client_from_state(path, optimizer=optimizer).result(WAIT_S)
    sent = [request.document.get("optimizer_config") for request in recorder.to("load_weights")]
    assert sent == [None, {"type": "dimuon", "version": 1}]


def test_parameters_of_another_optimizer_are_refused_before_anything_is_sent(
    recorder: Recorder, training: ta.TrainingClient
) -> None:
    with pytest.raises(ta.ValidationError, match="takes AdamParams, got DimuonParams"):
        training.optim_step(DIMUON)
    assert recorder.to("optim_step") == []


def test_a_run_is_not_resumed_with_another_optimizer(recorder: Recorder, tmp_path: Any) -> None:
    def create(optimizer: Any) -> ta.TrainingClient:
        with ta.ServiceClient(base_url=recorder.url, api_key=KEY, run_dir=tmp_path / "run") as service:
            return service.create_lora_training_client(BASE_MODEL, rank=8, optimizer=optimizer).result(WAIT_S)

    create(None)
    create(ta.AdamOptimizerConfig())
    with pytest.raises(ta.ConfigError, match="optimizer was"):
        create(ta.DimuonOptimizerConfig())


def test_weights_are_exported_in_their_place(recorder: Recorder, training: ta.TrainingClient) -> None:
    training.forward_backward(BATCHES[0], "cross_entropy")
    training.optim_step(ta.AdamParams())
    export = training.save_weights_external("export", 3600, ["age1abc"]).result(WAIT_S)
    assert export.path == f"tinker://{training.model_id}/external_weights/export"
    assert export.size_bytes == 7
    sent = recorder.to("save_weights_external")[0].document
    assert (sent["seq_id"], sent["ttl_seconds"], sent["age_encryption_recipients"]) == (3, 3600, ["age1abc"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("a/b",),
        ("a", 0),
        ("a", None, "age1abc"),
        ("a", None, [5]),
        ("a", None, ["x"] * 11),
        ("a", None, [""]),
    ],
    ids=repr,
)
def test_wrong_arguments_of_an_export_are_refused(
    recorder: Recorder, training: ta.TrainingClient, arguments: tuple[Any, ...]
) -> None:
    with pytest.raises(ta.ValidationError):
        training.save_weights_external(*arguments)
    assert recorder.to("save_weights_external") == []


def test_a_sampler_in_flight_is_asked_for_as_one(recorder: Recorder, training: ta.TrainingClient) -> None:
    for kind in ("snapshot", "inflight"):
        training.save_weights_and_get_sampling_client(kind=kind).result(WAIT_S)
    sent = [request.document for request in recorder.to("save_weights_for_sampler")]
    assert [(one["kind"], one["sampling_session_seq_id"]) for one in sent] == [
        ("snapshot", 0),
        ("inflight", 1),
    ]


def test_a_sampler_in_flight_has_no_name(training: ta.TrainingClient) -> None:
    with pytest.raises(ta.ValidationError, match="has no name"):
        training.save_weights_and_get_sampling_client("a", kind="inflight")


def test_a_checkpoint_is_not_loaded_into_a_model_that_exists(
    recorder: Recorder, training: ta.TrainingClient
) -> None:
    path = "tinker://session-0:train:0/weights/a"
    with pytest.raises(
        ta.ValidationError, match=r"ServiceClient.create_training_client_from_state\(\"tinker"
    ):
        training.load_state(path)
    with pytest.raises(
        ta.ValidationError, match=r"from_state_with_optimizer\(.*, weights_access_token"
    ) as caught:
        training.load_state_with_optimizer(path, "secret")
    assert "secret" not in str(caught.value)
    with pytest.raises(ta.TinkerPathError):
        training.load_state("here")
    assert recorder.to("load_weights") == []
