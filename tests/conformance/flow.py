"""A program on the names that the official SDK and this package share, step by step.

    python flow.py MODULE BASE_URL [--flow NAME] [--steps STEPS_URL]

runs it on the library MODULE (`tinker` or `tinker_actors`) and prints one JSON object a step: its name, and
how it failed if it did. With `--steps`, each step is announced to a recorder before it begins. Whatever a step
needs of an earlier one that failed makes it fail, too.
"""

import argparse
import importlib
import json
import os
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

WAIT_S = 60.0
KEY = "tml-conformance"
BASE_MODEL = "local/tiny"

Step = Callable[["Flow"], object]


class Flow:
    """What the steps share."""

    def __init__(self, module: str, base_url: str) -> None:
        self.library: Any = importlib.import_module(module)
        """The SDK or this package; typed by neither."""
        self.base_url = base_url
        self.service: Any = None
        self.training: Any = None
        self.sampler: Any = None
        self.rest: Any = None
        self.state_path = self.sampler_path = ""

    def datum(self, tokens: list[int], **inputs: list[float]) -> Any:
        """Each input token is its own target."""
        ta = self.library
        tensors = {name: ta.TensorData(data=values, dtype="float32") for name, values in inputs.items()}
        tensors["target_tokens"] = ta.TensorData(data=tokens, dtype="int64")
        return ta.Datum(model_input=ta.ModelInput.from_ints(tokens), loss_fn_inputs=tensors)

    def batch(self, size: int) -> list[Any]:
        """Data for cross_entropy, of different lengths."""
        lengths = [2 + number % 3 for number in range(size)]
        return [self.datum(list(range(65, 65 + n)), weights=[0.0] + [1.0] * (n - 1)) for n in lengths]


def open_session(flow: Flow) -> None:
    # Ours would save checkpoints of its own, which is no matter of single requests.
    policy = getattr(flow.library, "RecoveryPolicy", None)
    ours = {} if policy is None else {"recovery": policy(checkpoint_every_steps=0)}
    flow.service = flow.library.ServiceClient(
        user_metadata={"purpose": "conformance"}, base_url=flow.base_url, api_key=KEY, **ours
    )


def create_model(flow: Flow) -> None:
    flow.training = flow.service.create_lora_training_client(
        BASE_MODEL, rank=8, seed=7, train_unembed=False, user_metadata={"run": "1"}
    ).result(WAIT_S)


def train(flow: Flow) -> None:
    """Submitted ahead: no result is waited for before the last request is on its way."""
    forward = flow.training.forward_backward(flow.batch(2), "cross_entropy")
    update = flow.training.optim_step(flow.library.AdamParams(learning_rate=2e-3))
    assert forward.result(WAIT_S).metrics["loss:sum"] is not None
    update.result(WAIT_S)


def train_in_chunks(flow: Flow) -> None:
    outputs = flow.training.forward_backward(flow.batch(2500), "cross_entropy").result(WAIT_S)
    assert len(outputs.loss_fn_outputs) == 2500


def train_in_small_chunks(flow: Flow) -> None:
    flow.training.forward_backward(flow.batch(5), "cross_entropy").result(WAIT_S)


def train_with_a_configured_loss(flow: Flow) -> None:
    data = [flow.datum([65, 66, 67], logprobs=[-1.0, -2.0, -3.0], advantages=[1.0, -1.0, 0.5])]
    config = {"clip_low_threshold": 0.9, "clip_high_threshold": 1.1}
    flow.training.forward_backward(data, "ppo", config).result(WAIT_S)


def train_on_an_image(flow: Flow) -> None:
    ta = flow.library
    image = ta.types.ImageChunk(data=b"\x89PNG\r\n\x1a\n", format="png", expected_tokens=3)
    text = ta.types.EncodedTextChunk(tokens=[65, 66])
    values = {"target_tokens": ([0, 0, 0, 66, 67], "int64"), "weights": ([0.0] * 3 + [1.0] * 2, "float32")}
    tensors = {name: ta.TensorData(data=data, dtype=dtype) for name, (data, dtype) in values.items()}
    datum = ta.Datum(model_input=ta.ModelInput(chunks=[image, text]), loss_fn_inputs=tensors)
    flow.training.forward_backward([datum], "cross_entropy").result(WAIT_S)


def train_on_sparse_targets(flow: Flow) -> None:
    ta = flow.library
    place = {"shape": [2, 3], "sparse_crow_indices": [0, 1, 2], "sparse_col_indices": [0, 2]}
    tensors = {
        "target_tokens": ta.TensorData(data=[66, 67], dtype="int64", **place),
        "weights": ta.TensorData(data=[1.0, 0.5], dtype="float32", **place),
    }
    datum = ta.Datum(model_input=ta.ModelInput.from_ints([65, 66]), loss_fn_inputs=tensors)
    flow.training.forward_backward([datum], "cross_entropy").result(WAIT_S)


def train_with_provenance(flow: Flow) -> None:
    ta = flow.library
    plain = flow.datum([65, 66, 67], weights=[0.0, 1.0, 1.0])
    spans = [
        ta.PromptProvenanceSpan(sequence_id="sequence-1", offset=0, length=1),
        ta.SampledProvenanceSpan(sequence_id="sequence-1", offset=0, length=2),
    ]
    datum = ta.Datum(
        model_input=plain.model_input,
        loss_fn_inputs=plain.loss_fn_inputs,
        model_input_spans=spans,
        loss_fn_input_spans=spans,
    )
    flow.training.forward_backward([datum], "cross_entropy").result(WAIT_S)


def forward_only(flow: Flow) -> None:
    flow.training.forward(flow.batch(1), "cross_entropy").result(WAIT_S)


def optim_step_with_every_parameter(flow: Flow) -> None:
    adam = flow.library.AdamParams(
        learning_rate=1e-3, beta1=0.8, beta2=0.99, eps=1e-8, weight_decay=0.01, grad_clip_norm=1.0
    )
    flow.training.optim_step(adam).result(WAIT_S)


def sample_ephemeral(flow: Flow) -> None:
    flow.sampler = flow.training.save_weights_and_get_sampling_client().result(WAIT_S)
    params = flow.library.SamplingParams(max_tokens=4)
    _sample(flow, params)


def sample_with_defaults(flow: Flow) -> None:
    _sample(flow, flow.library.SamplingParams())


def sample_with_parameters(flow: Flow) -> None:
    params = flow.library.SamplingParams(
        max_tokens=4, seed=11, stop=["\n", "end"], temperature=0.5, top_k=5, top_p=0.75
    )
    sampled = flow.sampler.sample(
        flow.library.ModelInput.from_ints([72, 105, 33]), 2, params, include_prompt_logprobs=True
    ).result(WAIT_S)
    assert len(sampled.sequences) == 2
    assert sampled.prompt_logprobs[0] is None


def sample_with_stop_tokens(flow: Flow) -> None:
    _sample(flow, flow.library.SamplingParams(max_tokens=4, stop=[10, 256]))


def sample_without_any_stop(flow: Flow) -> None:
    _sample(flow, flow.library.SamplingParams(max_tokens=4, stop=[]))


def sample_with_every_option(flow: Flow) -> None:
    targets = flow.library.TensorData(data=[65, 66], dtype="int64", shape=[2, 1])
    prompt = flow.library.ModelInput.from_ints([72, 105, 33])
    flow.sampler.sample(
        prompt,
        1,
        flow.library.SamplingParams(max_tokens=4),
        include_prompt_logprobs=True,
        topk_prompt_logprobs=2,
        topk_sample_logprobs=3,
        target_prompt_logprobs=targets,
        prompt_alt_tokens_k=2,
        prompt_logprobs_last_n=1,
    ).result(WAIT_S)


def sample_after_images(flow: Flow) -> None:
    ta = flow.library
    chunks = [
        ta.types.ImageChunk(data=b"\x89PNG\r\n\x1a\n", format="png", expected_tokens=3),
        ta.types.EncodedTextChunk(tokens=[72]),
        ta.types.ImageAssetPointerChunk(location="asset://1", format="jpeg", expected_tokens=2),
        ta.types.EncodedTextChunk(tokens=[105, 33]),
    ]
    flow.sampler.sample(ta.ModelInput(chunks=chunks), 1, ta.SamplingParams(max_tokens=4)).result(WAIT_S)


def compute_logprobs(flow: Flow) -> None:
    flow.sampler.compute_logprobs(flow.library.ModelInput.from_ints([72, 105, 33])).result(WAIT_S)


def save_state(flow: Flow) -> None:
    flow.state_path = flow.training.save_state("state").result(WAIT_S).path


def save_state_with_options(flow: Flow) -> None:
    flow.training.save_state(
        "after-a-beat", ttl_seconds=3600, overwrite=True, user_metadata={"best": "yes"}
    ).result(WAIT_S)


def save_for_sampler(flow: Flow) -> None:
    saved = flow.training.save_weights_for_sampler("named", ttl_seconds=3600).result(WAIT_S)
    flow.sampler_path = saved.path


def save_external(flow: Flow) -> None:
    recipients = ["age1qyqszqgpqyqszqgpqyqszqgp", "ssh-ed25519 AAAAC3Nz"]
    saved = flow.training.save_weights_external("export", 3600, recipients).result(WAIT_S)
    assert saved.path.endswith("/external_weights/export")


def sample_in_flight(flow: Flow) -> None:
    flow.sampler = flow.training.save_weights_and_get_sampling_client(kind="inflight").result(WAIT_S)
    _sample(flow, flow.library.SamplingParams(max_tokens=4))


def train_with_another_optimizer(flow: Flow) -> None:
    training = flow.service.create_lora_training_client(
        BASE_MODEL, rank=8, seed=7, optimizer=flow.library.DimuonOptimizerConfig()
    ).result(WAIT_S)
    training.forward_backward(flow.batch(1), "cross_entropy").result(WAIT_S)
    training.optim_step(flow.library.DimuonParams(learning_rate=1e-2, grad_clip_norm=1.0)).result(WAIT_S)


def resume_with_another_optimizer(flow: Flow) -> None:
    flow.service.create_training_client_from_state(
        flow.state_path, optimizer=flow.library.DimuonOptimizerConfig()
    ).result(WAIT_S)


def sample_from_path(flow: Flow) -> None:
    flow.sampler = flow.service.create_sampling_client(model_path=flow.sampler_path).result(WAIT_S)
    _sample(flow, flow.library.SamplingParams(max_tokens=4))


def base_model_of_saved_weights(flow: Flow) -> None:
    assert flow.sampler.get_base_model() == BASE_MODEL, "the sampler does not know its base model"


def sample_from_base_model(flow: Flow) -> None:
    flow.sampler = flow.service.create_sampling_client(base_model=BASE_MODEL).result(WAIT_S)
    _sample(flow, flow.library.SamplingParams(max_tokens=4))


def resume_with_optimizer(flow: Flow) -> None:
    flow.service.create_training_client_from_state_with_optimizer(flow.state_path).result(WAIT_S)


def resume_without_optimizer(flow: Flow) -> None:
    flow.service.create_training_client_from_state(flow.state_path).result(WAIT_S)


def open_rest_client(flow: Flow) -> None:
    flow.rest = flow.library.RestClient(base_url=flow.base_url, api_key=KEY)


def list_what_is_kept(flow: Flow) -> None:
    flow.rest.list_training_runs().result(WAIT_S)
    run_id = flow.state_path.split("/")[2]
    flow.rest.get_training_run(run_id).result(WAIT_S)
    flow.rest.list_checkpoints(run_id).result(WAIT_S)
    flow.rest.list_user_checkpoints().result(WAIT_S)


def ask_for_sessions(flow: Flow) -> None:
    session_id = flow.rest.list_sessions().result(WAIT_S).sessions[0]
    sampler_id = flow.rest.get_session(session_id).result(WAIT_S).sampler_ids[0]
    flow.rest.get_sampler(sampler_id).result(WAIT_S)


def list_pages_of_others(flow: Flow) -> None:
    flow.rest.list_training_runs(5, 10, access_scope="accessible", project_id="project-1").result(WAIT_S)
    flow.rest.list_user_checkpoints(7, 14).result(WAIT_S)
    flow.rest.list_sessions(3, 6, access_scope="accessible").result(WAIT_S)
    flow.rest.get_training_run_by_tinker_path(flow.state_path, access_scope="accessible").result(WAIT_S)


def search_for_sessions(flow: Flow) -> None:
    request = flow.library.types.SessionSearchRequest(
        display_name="nightly", user_metadata={"a": "b"}, limit=9
    )
    flow.rest.search_sessions(request).result(WAIT_S)
    flow.rest.search_sessions(flow.library.types.SessionSearchRequest()).result(WAIT_S)


def change_sessions(flow: Flow) -> None:
    session_id = flow.rest.list_sessions().result(WAIT_S).sessions[0]
    flow.rest.assign_session_project(session_id, "project-2").result(WAIT_S)
    flow.rest.export_session_trace(session_id).result(WAIT_S)


def copy_weights(flow: Flow) -> None:
    flow.rest.copy_weights(flow.state_path, "project-2", ttl_seconds=3600).result(WAIT_S)
    flow.rest.copy_weights(flow.state_path, "project-2", weights_access_token="word").result(WAIT_S)  # noqa: S106


def ask_for_exported_files(flow: Flow) -> None:
    path = flow.state_path.replace("/weights/", "/external_weights/")
    flow.rest.get_external_weights_urls(path).result(WAIT_S)


def ask_for_capabilities(flow: Flow) -> None:
    flow.rest.get_server_capabilities().result(WAIT_S)


def ask_for_weights_info(flow: Flow) -> None:
    flow.rest.get_weights_info_by_tinker_path(flow.state_path).result(WAIT_S)


def change_checkpoints(flow: Flow) -> None:
    flow.rest.publish_checkpoint_from_tinker_path(flow.state_path).result(WAIT_S)
    flow.rest.unpublish_checkpoint_from_tinker_path(flow.state_path).result(WAIT_S)
    flow.rest.set_checkpoint_ttl_from_tinker_path(flow.state_path, None).result(WAIT_S)
    flow.rest.set_checkpoint_ttl_from_tinker_path(flow.state_path, 3600).result(WAIT_S)
    flow.rest.delete_checkpoint_from_tinker_path(flow.state_path).result(WAIT_S)
    flow.rest.delete_checkpoint(flow.state_path.split("/")[2], "sampler_weights/named").result(WAIT_S)


def close(flow: Flow) -> None:
    flow.service.close("success").result(WAIT_S)


def _sample(flow: Flow, params: Any) -> None:
    prompt = flow.library.ModelInput.from_ints([72, 105])
    sampled = flow.sampler.sample(prompt, 1, params).result(WAIT_S)
    assert len(sampled.sequences) == 1


WHOLE: list[Step] = [
    open_session,
    create_model,
    train,
    train_in_chunks,
    train_with_a_configured_loss,
    train_on_an_image,
    train_on_sparse_targets,
    train_with_provenance,
    forward_only,
    optim_step_with_every_parameter,
    sample_ephemeral,
    sample_with_defaults,
    sample_with_parameters,
    sample_with_stop_tokens,
    sample_without_any_stop,
    compute_logprobs,
    sample_after_images,
    sample_with_every_option,
    save_state,
    save_state_with_options,
    save_for_sampler,
    sample_from_path,
    base_model_of_saved_weights,
    sample_from_base_model,
    resume_with_optimizer,
    resume_without_optimizer,
    open_rest_client,
    list_what_is_kept,
    list_pages_of_others,
    ask_for_sessions,
    search_for_sessions,
    change_sessions,
    ask_for_capabilities,
    ask_for_weights_info,
    copy_weights,
    ask_for_exported_files,
    change_checkpoints,
    close,
]
FLAGGED: list[Step] = [open_session, create_model, train_in_small_chunks, sample_from_base_model, close]
HOSTED: list[Step] = [
    open_session,
    create_model,
    save_external,
    sample_in_flight,
    save_state,
    resume_with_another_optimizer,
    train_with_another_optimizer,
    close,
]
"""What the hosted service alone has."""
FLOWS = {"whole": WHOLE, "flagged": FLAGGED, "hosted": HOSTED}


def name_of(step: Step) -> str:
    """As it stands in reports: "train in chunks"."""
    return step.__name__.replace("_", " ")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module")
    parser.add_argument("base_url")
    parser.add_argument("--flow", choices=FLOWS, default="whole")
    parser.add_argument("--steps")
    arguments = parser.parse_args()
    flow = Flow(arguments.module, arguments.base_url)
    for step in FLOWS[arguments.flow]:
        if arguments.steps:
            announcement = f"{arguments.steps}/{urllib.parse.quote(name_of(step))}"
            urllib.request.urlopen(announcement).close()  # noqa: S310 - the recorder's own URL
        try:
            step(flow)
            failure = None
        except Exception as error:  # noqa: BLE001 - whatever a library raises is the report
            failure = f"{type(error).__name__}: {error}"
        print(json.dumps({"step": name_of(step), "failure": failure}), flush=True)  # noqa: T201 - the report
    os._exit(0)  # whatever a failed step left running is not waited for


if __name__ == "__main__":
    main()
