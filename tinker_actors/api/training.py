"""Training endpoints. Whatever runs in the background answers with a `FutureHandle`."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from tinker_actors.api.futures import read_handle
from tinker_actors.types import GetInfoResponse, LoraConfig
from tinker_actors.wire.calls import PROTOBUF, Call, json_body, read_json
from tinker_actors.wire.documents import (
    CreateModelRequest,
    FutureHandle,
    GetInfoRequest,
    LoadWeightsRequest,
    OptimizerStepRequest,
    OptimStepRequest,
    SaveWeightsExternalRequest,
    SaveWeightsForSamplerRequest,
    SaveWeightsRequest,
)
from tinker_actors.wire.json import training_body
from tinker_actors.wire.protobuf import decode_training_request, with_ids
from tinker_actors.wire.retry import PATIENT

__all__ = [
    "create_model",
    "forward_backward",
    "get_info",
    "load_weights",
    "load_weights_into",
    "optim_step",
    "save_weights",
    "save_weights_external",
    "save_weights_for_sampler",
    "unload_model",
]

MOST_RECIPIENTS = 10
"""Of one encrypted export."""


def _submit(operation: str, body: bytes) -> Call[FutureHandle]:
    return Call(operation=operation, path=operation, body=body, retry=PATIENT, read=read_handle)


def create_model(
    session_id: str,
    model_seq_id: int,
    base_model: str,
    lora: LoraConfig,
    user_metadata: Mapping[str, Any] | None = None,
    optimizer: Mapping[str, Any] | None = None,
) -> Call[FutureHandle]:
    """A new model in training; the same ids give the same model.

    Args:
        session_id: of the session it lives in.
        model_seq_id: its number there, from 0.
        base_model: what is fine-tuned.
        lora: which matrices are trained.
        user_metadata: kept beside it.
        optimizer: the family and what else is fixed of it, such as `{"type": "dimuon", "version": 1}`; AdamW without.
    """
    request = CreateModelRequest(
        session_id=session_id,
        model_seq_id=model_seq_id,
        base_model=base_model,
        lora_config=lora,
        user_metadata=user_metadata or UNSET,
    )
    if optimizer is None:
        return _submit("create_model", json_body(request))
    return _submit("create_model", json_body({**msgspec.to_builtins(request), "optimizer_config": optimizer}))


def load_weights(
    session_id: str,
    model_seq_id: int,
    path: str,
    *,
    optimizer: bool,
    base_model: str | None = None,
    user_metadata: Mapping[str, Any] | None = None,
    access_token: str | None = None,
    optimizer_config: Mapping[str, Any] | None = None,
) -> Call[FutureHandle]:
    """A new model in training from a checkpoint, with or without its optimizer's state.

    Without, `optimizer_config` may choose another family, as in `create_model`.
    """
    request = LoadWeightsRequest(
        session_id=session_id,
        model_seq_id=model_seq_id,
        path=path,
        optimizer=optimizer,
        base_model=base_model or UNSET,
        user_metadata=user_metadata or UNSET,
        weights_access_token=access_token or UNSET,
    )
    if optimizer_config is None:
        return _submit("load_weights", json_body(request))
    chosen = {**msgspec.to_builtins(request), "optimizer_config": optimizer_config}
    return _submit("load_weights", json_body(chosen))


def load_weights_into(
    model_id: str, seq_id: int, path: str, *, optimizer: bool, access_token: str | None = None
) -> Call[FutureHandle]:
    """A checkpoint into a model that was created just now: services take it as `seq_id` 1 alone."""
    request = LoadWeightsRequest(
        model_id=model_id,
        seq_id=seq_id,
        path=path,
        optimizer=optimizer,
        weights_access_token=access_token or UNSET,
    )
    return _submit("load_weights", json_body(request))


def unload_model(model_id: str) -> Call[FutureHandle]:
    """The end of a model on the service; its checkpoints stay."""
    return _submit("unload_model", json_body(GetInfoRequest(model_id=model_id, type="unload_model")))


def get_info(model_id: str) -> Call[GetInfoResponse]:
    """What the service says of a model; 404 once it is gone."""
    return Call(
        operation="get_info",
        path="get_info",
        body=json_body(GetInfoRequest(model_id=model_id)),
        retry=PATIENT,
        read=read_json(GetInfoResponse),
    )


def forward_backward(model_id: str, seq_id: int, content: bytes) -> Call[FutureHandle]:
    """Loss and gradients of the data in `content`; see `wire.protobuf.encode_training_content`."""
    body = with_ids(content, model_id, seq_id)
    return msgspec.structs.replace(
        _submit("forward_backward", body),
        content_type=PROTOBUF,
        is_compressible=True,
        in_json=partial(_forward_backward_in_json, body),
    )


def _forward_backward_in_json(body: bytes) -> Call[FutureHandle]:
    """The same for a server before protobuf; without gradients it has an endpoint of its own there."""
    request = decode_training_request(body)
    return _submit("forward" if request.forward_only else "forward_backward", training_body(request))


def optim_step(model_id: str, seq_id: int, content: bytes) -> Call[FutureHandle]:
    """One optimizer update; `content` is its parameters in JSON, AdamW's unless they name their family in `type`."""
    params = msgspec.json.decode(content)
    if "type" in params:
        return _submit(
            "optim_step",
            json_body(OptimizerStepRequest(model_id=model_id, seq_id=seq_id, optimizer_params=params)),
        )
    request = OptimStepRequest(model_id=model_id, seq_id=seq_id, adam_params=params)
    return _submit("optim_step", json_body(request))


class SaveContent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a save asks for, apart from model and order."""

    name: str | None = None
    """The checkpoint's name; None is an ephemeral sampler."""
    ttl_seconds: int | None = None
    """Seconds until the service may delete it; None is never."""
    overwrite: bool = False
    """Replace a checkpoint of that name (training state only)."""
    user_metadata: Mapping[str, Any] | None = None
    """Kept beside it."""
    sampling_session_seq_id: int | None = None
    """Number of the sampling session over an ephemeral save."""
    kind: Literal["snapshot", "inflight"] = "snapshot"
    """What a sampler is of: these weights for ever, or the model's newest ones at any time."""
    age_encryption_recipients: Sequence[str] = ()
    """Whom exported files are encrypted to; at most 10 age public keys."""

    @property
    def is_lasting(self) -> bool:
        """Whether what is under the name from now on will stay there as it is."""
        return self.ttl_seconds is None and not self.overwrite


def save_weights(model_id: str, seq_id: int, content: bytes) -> Call[FutureHandle]:
    """Training state under a name; `content` is a `SaveContent` in JSON."""
    save = msgspec.json.decode(content, type=SaveContent)
    request = SaveWeightsRequest(
        model_id=model_id,
        seq_id=seq_id,
        path=save.name or UNSET,
        ttl_seconds=UNSET if save.ttl_seconds is None else save.ttl_seconds,
        overwrite=save.overwrite,
        user_metadata=save.user_metadata or UNSET,
    )
    return _submit("save_weights", json_body(request))


def save_weights_for_sampler(model_id: str, seq_id: int, content: bytes) -> Call[FutureHandle]:
    """Sampler weights, named or ephemeral; `content` is a `SaveContent` in JSON."""
    save = msgspec.json.decode(content, type=SaveContent)
    session_seq = save.sampling_session_seq_id
    request = SaveWeightsForSamplerRequest(
        model_id=model_id,
        seq_id=seq_id,
        path=save.name or UNSET,
        sampling_session_seq_id=UNSET if session_seq is None else session_seq,
        kind=save.kind,
        ttl_seconds=UNSET if save.ttl_seconds is None else save.ttl_seconds,
        user_metadata=save.user_metadata or UNSET,
    )
    return _submit("save_weights_for_sampler", json_body(request))


def save_weights_external(model_id: str, seq_id: int, content: bytes) -> Call[FutureHandle]:
    """Weights in a public format, to be fetched; `content` is a `SaveContent` with a name, in JSON."""
    save = msgspec.json.decode(content, type=SaveContent)
    request = SaveWeightsExternalRequest(
        model_id=model_id,
        seq_id=seq_id,
        path=save.name or "",
        ttl_seconds=UNSET if save.ttl_seconds is None else save.ttl_seconds,
        age_encryption_recipients=save.age_encryption_recipients or UNSET,
    )
    return _submit("save_weights_external", json_body(request))
