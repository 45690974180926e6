"""The official SDK's public names, methods, arguments and fields are here, but for differences listed with reasons."""

import enum
import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from types import ModuleType
from typing import Any

import pytest

import tinker_actors as ta

pytestmark = [
    pytest.mark.sdk,
    pytest.mark.skipif(
        importlib.util.find_spec("tinker") is None, reason="the official SDK (extra `sdk`) is not here"
    ),
]

CLIENTS = ["ServiceClient", "TrainingClient", "SamplingClient", "RestClient", "APIFuture"]
GIVEN = [
    "AdamParams",
    "Datum",
    "DmelChunk",
    "EncodedTextChunk",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "LoraConfig",
    "ModelInput",
    "PromptProvenanceSpan",
    "SampledProvenanceSpan",
    "SamplingParams",
    "TensorData",
]
"""Types that callers build: what they are built with is compared, too."""

# What may differ, `*` for anything, and why. An entry that matches nothing fails.

ALLOWED = {
    # Names of the package
    "AdminClient: *": "billing and audit",
    "Backcompat*ClientFuture: *": "ours is ClientFuture, one class for each kind of client",
    "ExperimentalWarning: *": "ours warns with FutureWarning",
    "LossHandle: *": "server-traced losses",
    "PerDatumLossFn: *": "server-traced losses",
    "ModelID: *": "a str",
    "OptimStepRequest: *": "documents of the wire, which callers do not build",
    "SampleRequest: *": "documents of the wire, which callers do not build",
    "RequestOptions: *": "of the SDK's HTTP layer",
    "Timeout: *": "of the SDK's HTTP layer",
    "__title__: *": "of the distribution",
    "auth: *": "of the SDK's login command",
    # Methods
    "RestClient.get_audit_log*: only official": "audit",
    "RestClient.get_billing_usage*: only official": "billing",
    "RestClient.get_current_checkpoint_storage_usage*: only official": "billing",
    "SamplingClient.create: only official": "wants the SDK's own holder",
    "SamplingClient.on_queue_state_change: only official": "the SDK's hook for itself; ours are events",
    "ServiceClient.create_custom_loss: only official": "server-traced losses",
    # Arguments
    "ServiceClient.close(status): *": "ours has a default",
    "LoraConfig(rank): *": "ours has the default of create_lora_training_client",
    "LoraConfig(seed): *": "no method takes a LoraConfig; UNSET leaves the choice to the service",
    "*Chunk(type): only official": "a chunk's class says its type",
    # Fields
    "*Response.type: only official": "a response's class says its type",
    "*.model_config: only official": "pydantic's",
    "*.serialize_d*: only official": "pydantic's",
    "*.validate_d*: only official": "pydantic's",
    # Types
    **{
        f"types.{names}: only official": "documents of the wire, which callers do not build"
        for names in (
            "*Request",
            "*Response",
            "*ResponseInternal",
            "ForwardBackwardInput",
            "FutureCompletion",
            "FutureFailed",
            "FutureFinished",
            "RequestErrorCategory",
            "SamplingSessionFuturesTarget",
            "UntypedAPIFuture",
        )
    },
    **{
        f"types.{names}: only official": "telemetry"
        for names in ("*Event", "EventType", "Severity", "TelemetryBatch")
    },
    **{
        f"types.{names}: only official": "billing and audit"
        for names in ("Billing*", "AuditLogEntry", "*UsageItem")
    },
    "types.CustomLoss*: only official": "server-traced losses",
    "types.LossFn*puts: only official": "a dict of tensors",
    "types.LossFnOutput: only official": "a dict of tensors",
    "types.ModelID: only official": "a str",
    "types.RequestID: only official": "a str",
    "types.*SearchOwner: only official": "ours is SessionSearchOwner, with a type",
    "types.*StatusQuery: only official": "ours is SessionStatusQuery, with a type",
    "types.Session*: only official": "a session's status is the service's document",
    "types.ClientSession*: only official": "a session's status is the service's document",
}


@pytest.fixture(scope="module")
def sdk() -> ModuleType:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("tinker")


def public(kind: type[Any]) -> dict[str, Any]:
    """Methods, properties and fields, those of libraries' base classes left out."""
    members = {
        name: inspect.getattr_static(kind, name)
        for base in kind.__mro__
        if base.__module__.partition(".")[0] in ("tinker", "tinker_actors")
        for name in (*vars(base), *vars(base).get("__annotations__", ()))
        if not name.startswith("_") and hasattr(kind, name)
    }
    fields: Iterable[str] = ()
    for declared in ("model_fields", "__struct_fields__", "__dataclass_fields__"):
        fields = fields or getattr(kind, declared, ())
    return {**{name: None for name in fields if name[0] != "_"}, **members}


def differ_in_members(name: str, ours: type[Any], official: type[Any]) -> Iterator[str]:
    mine, theirs = public(ours), public(official)
    yield from (f"{name}.{member}: only official" for member in theirs.keys() - mine.keys())
    for member in mine.keys() & theirs.keys():
        if callable(getattr(ours, member, None)) and callable(getattr(official, member, None)):
            yield from differ_in_arguments(
                f"{name}.{member}", getattr(ours, member), getattr(official, member)
            )


def differ_in_arguments(name: str, ours: Any, official: Any) -> Iterator[str]:
    """Why a call that is right there would be wrong here, or mean something else."""
    mine, theirs = arguments(ours), arguments(official)
    yield from (f"{name}({argument}): only official" for argument in theirs.keys() - mine.keys())
    for argument, parameter in mine.items():
        expected = theirs.get(argument)
        if expected is None:
            if parameter.default is parameter.empty:
                yield f"{name}({argument}): only ours, and wanted"
        elif default_of(parameter) != default_of(expected):
            yield f"{name}({argument}): ours {default_of(parameter)}, official {default_of(expected)}"
    places = [argument for argument, one in theirs.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    if list(mine)[: len(places)] != places and mine.keys() >= set(places):
        yield f"{name}: ours in the order {list(mine)}, official {places}"


def arguments(function: Any) -> dict[str, inspect.Parameter]:
    """By name, in order."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one for one in parameters if one.name != "self" and one.kind is not one.VAR_KEYWORD}


def default_of(parameter: inspect.Parameter) -> str:
    if parameter.default is parameter.empty:
        return "without a default"
    default = parameter.default.value if isinstance(parameter.default, enum.Enum) else parameter.default
    return f"default {float(default) if type(default) in (int, float) else default!r}"


@pytest.fixture(scope="module")
def differences(sdk: ModuleType) -> list[str]:
    told = [f"{name}: only official" for name in sdk.__all__ if not hasattr(ta, name)]
    told += [
        f"types.{name}: only official"
        for name in dir(sdk.types)
        if name[0].isupper() and not hasattr(ta.types, name)
    ]
    for name in CLIENTS:
        told += differ_in_members(name, getattr(ta, name), getattr(sdk, name))
    for name in dir(sdk.types):
        ours, official = getattr(ta.types, name, None), getattr(sdk.types, name)
        if isinstance(ours, type) and isinstance(official, type):
            told += differ_in_members(name, ours, official)
            if name in GIVEN:
                told += differ_in_arguments(name, ours, official)
    return sorted(told)


def test_every_difference_to_the_official_names_is_listed_with_its_reason(differences: list[str]) -> None:
    assert [one for one in differences if not any(fnmatchcase(one, entry) for entry in ALLOWED)] == []


def test_every_listed_difference_is_still_there(differences: list[str]) -> None:
    assert [entry for entry in ALLOWED if not any(fnmatchcase(one, entry) for one in differences)] == []
