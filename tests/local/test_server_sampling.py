"""Sampling sessions and samples, against a server in its own process."""

from typing import Any

import pytest

from tinker_actors.local import samplers
from tinker_actors.wire.protobuf import decode_sample

PROTOBUF = "application/x-protobuf"


def test_each_sequence_has_an_id_from_the_start(caller: Any) -> None:
    sampler = caller.sampler(caller.session())
    handle = caller.ask("asample", caller.sample_document(sampler, num_samples=3))
    assert len(set(handle["sample_sequence_ids"])) == 3
    assert len(caller.poll(handle["request_id"]).json()["sequences"]) == 3


def test_json_and_protobuf_give_the_same_samples(caller: Any) -> None:
    sampler = caller.sampler(caller.session())
    document = caller.sample_document(sampler, num_samples=2, prompt_logprobs=True)
    request_id = caller.ask("asample", document)["request_id"]
    plain = caller.poll(request_id).json()
    decoded = decode_sample(caller.poll(request_id, PROTOBUF).content)
    assert [sequence["tokens"] for sequence in plain["sequences"]] == [s.tokens for s in decoded.sequences]
    assert [sequence["logprobs"] for sequence in plain["sequences"]] == [
        s.logprobs for s in decoded.sequences
    ]
    assert plain["prompt_logprobs"] == decoded.prompt_logprobs
    assert plain["prompt_logprobs"][0] is None


@pytest.mark.parametrize("sparse", [False, True])
def test_every_answer_comes_in_both_encodings(caller: Any, sparse: bool) -> None:
    target = {"data": [-1, 7, 8, 9], "dtype": "int64", "shape": [4, 1]}
    if sparse:
        indices = {"sparse_crow_indices": [0, 0, 1, 2, 3], "sparse_col_indices": [0, 0, 0]}
        target = {**target, "data": [7, 8, 9], **indices}
    document = caller.sample_document(
        caller.sampler(caller.session()),
        prompt_logprobs=True,
        prompt_logprobs_last_n=2,
        topk_prompt_logprobs=3,
        topk_sample_logprobs=2,
        target_prompt_logprobs=target,
        prompt_alt_tokens_k=2,
    )
    request_id = caller.ask("asample", document)["request_id"]
    plain = caller.poll(request_id).json()
    decoded = decode_sample(caller.poll(request_id, PROTOBUF).content)
    assert plain["prompt_logprobs"][:3] == [None, None, None]
    assert [row is None for row in plain["topk_prompt_logprobs"]] == [True, True, True, False, False]
    assert plain["topk_prompt_logprobs"][4] == [
        list(pair) for pair in (decoded.topk_prompt_logprobs or [])[4] or ()
    ]
    (sequence,) = plain["sequences"]
    assert [len(row) for row in sequence["topk_logprobs"]] == [2] * len(sequence["tokens"])
    assert decoded.target_prompt_logprobs is not None
    assert plain["target_prompt_logprobs"]["data"] == decoded.target_prompt_logprobs.data
    assert decoded.target_prompt_logprobs.is_sparse is sparse
    assert plain["target_prompt_logprobs"].get("sparse_col_indices") == target.get("sparse_col_indices")
    assert decoded.prompt_alt_tokens is not None
    assert plain["prompt_alt_tokens"]["tokens"]["data"] == decoded.prompt_alt_tokens.tokens.data
    assert plain["prompt_alt_tokens"]["logprobs"]["shape"] == [4, 2]


def test_a_repeated_sample_is_the_same_request_and_a_changed_one_is_refused(caller: Any) -> None:
    sampler = caller.sampler(caller.session())
    first = caller.ask("asample", caller.sample_document(sampler))
    assert caller.ask("asample", caller.sample_document(sampler)) == first
    changed = caller.sample_document(sampler, sampling_params={"max_tokens": 9})
    assert caller.post("asample", changed).status_code == 422


def test_samples_differ_without_a_seed_and_agree_with_one(caller: Any) -> None:
    sampler = caller.sampler(caller.session())
    seeds: list[dict[str, int]] = [{}, {}, {"seed": 5}, {"seed": 5}]
    drawn = [
        caller.do("asample", caller.sample_document(sampler, seq_id, sampling_params=seed))["sequences"]
        for seq_id, seed in enumerate(seeds)
    ]
    assert drawn[0] != drawn[1]
    assert drawn[2] == drawn[3]


def test_a_named_save_is_sampled_from(caller: Any) -> None:
    session_id = caller.session()
    model_id = caller.model(session_id)
    save = {"model_id": model_id, "seq_id": 1, "path": "final"}
    path = caller.do("save_weights_for_sampler", save)["path"]
    assert path == f"tinker://{model_id}/sampler_weights/final"
    sampler = caller.sampler(session_id, model_path=path)
    assert caller.http.get(f"samplers/{sampler}").json() == {
        "sampler_id": sampler,
        "base_model": "local/tiny",
        "model_path": path,
    }
    assert caller.http.get(f"samplers/{sampler.replace(':', '%3A')}").json()["sampler_id"] == sampler
    assert caller.do("asample", caller.sample_document(sampler))["sequences"]


def test_an_ephemeral_save_is_a_sampling_session_with_the_trained_weights(caller: Any) -> None:
    session_id = caller.session()
    model_id = caller.model(session_id)
    caller.forward_backward(model_id, 1)
    caller.optim_step(model_id, 2, 0.1)
    save = {"model_id": model_id, "seq_id": 3, "sampling_session_seq_id": 0}
    sampler = caller.do("save_weights_for_sampler", save)["sampling_session_id"]
    assert sampler == f"{session_id}:sample:0"
    prompt = {"chunks": [{"type": "encoded_text", "tokens": caller.TEXT}]}
    scored = [
        caller.do("asample", caller.sample_document(each, prompt=prompt, prompt_logprobs=True))[
            "prompt_logprobs"
        ][1:]
        for each in (sampler, caller.sampler(session_id, 1))
    ]
    assert sum(scored[0]) > sum(scored[1])


def test_more_adapters_than_are_kept_are_sampled_from_at_once(caller: Any) -> None:
    session_id = caller.session()
    model_id = caller.model(session_id)
    asked = []
    for number in range(samplers.ADAPTERS_KEPT + 3):
        caller.optim_step(model_id, 2 * number + 1)
        save = {"model_id": model_id, "seq_id": 2 * number + 2, "sampling_session_seq_id": number}
        sampler = caller.do("save_weights_for_sampler", save)["sampling_session_id"]
        asked.append(caller.sample_document(sampler, sampling_params={"max_tokens": 100, "stop": []}))
    ids = [caller.ask("asample", document)["request_id"] for document in asked]
    assert all(len(caller.poll(one).json()["sequences"][0]["tokens"]) == 100 for one in ids)


def test_a_sampling_session_is_made_once(caller: Any) -> None:
    session_id = caller.session()
    assert caller.sampler(session_id, 4) == caller.sampler(session_id, 4) == f"{session_id}:sample:4"
    model_id = caller.model(session_id)
    save = {"model_id": model_id, "seq_id": 1, "sampling_session_seq_id": 4}
    assert caller.post("save_weights_for_sampler", save).status_code == 409


@pytest.mark.parametrize(
    "more",
    [
        {"num_samples": 0},
        {"num_samples": 10**9},
        {"prompt": {"chunks": []}},
        {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [9999]}]}},
        {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1] * 1024}]}},
        {"sampling_params": {"max_tokens": 0}},
        {"sampling_params": {"temperature": -1}},
        {"sampling_params": {"seed": 2**63}},
        {"sampling_params": {"stop": [""]}},
        {"topk_prompt_logprobs": -1},
        {"prompt_logprobs_last_n": 2},
        {"record_stability_info": True},
        {"seq_id": -1},
    ],
)
def test_a_sample_that_cannot_be_drawn_is_refused(caller: Any, more: dict[str, Any]) -> None:
    document = caller.sample_document(caller.sampler(caller.session()), **more)
    response = caller.post("asample", document)
    assert response.status_code in (400, 422)
    assert response.json()["detail"]
    good = caller.sample_document(document["sampling_session_id"])
    assert caller.post("asample", good).status_code == 200
