"""Optimizer families and the parameters of updates: whose they are, what is refused."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tinker_actors as ta
from tinker_actors.types.optimizers import family_fields, optimizer_params


class Pydantic:
    """What the official SDK's parameters look like from outside."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_fields"][name]
        except KeyError:
            raise AttributeError(name) from None

    def model_dump(self) -> dict[str, Any]:
        return self._fields


@dataclass
class Sophia:
    """A family that this package does not know."""

    learning_rate: float
    type: str = "sophia"
    rho: float = 0.04


@pytest.mark.parametrize(
    ("value", "family", "expected"),
    [
        (
            ta.DimuonParams(learning_rate=0.01),
            "dimuon",
            {"learning_rate": 0.01, "beta1": 0.9, "grad_clip_norm": 0.0},
        ),
        (Pydantic(type="dimuon", learning_rate=np.float32(0.5)), "dimuon", {"learning_rate": 0.5}),
        (
            SimpleNamespace(type="dimuon", learning_rate=0, beta1=0.5),
            "dimuon",
            {"learning_rate": 0, "beta1": 0.5},
        ),
        (Sophia(0.1), "sophia", {"learning_rate": 0.1, "rho": 0.04}),
        (ta.AdamParams(learning_rate=0.1), "adamw", {"learning_rate": 0.1, "beta2": 0.95}),
        (Pydantic(learning_rate=0.1, beta2=0.5), "adamw", {"learning_rate": 0.1, "beta2": 0.5}),
    ],
    ids=["ours", "the SDK's", "a duck", "unknown", "Adam", "the SDK's Adam"],
)
def test_parameters_of_the_models_family_are_taken(value: Any, family: str, expected: dict[str, Any]) -> None:
    params = optimizer_params(value, family)
    assert {name: params[name] for name in expected} == expected
    assert params.get("type", "adamw") == family
    assert [type(number) for name, number in params.items() if name == "learning_rate"] == [float]


@pytest.mark.parametrize(
    ("value", "family", "message"),
    [
        (ta.AdamParams(), "dimuon", "optimizer is dimuon, so an update takes DimuonParams, got AdamParams"),
        (ta.DimuonParams(learning_rate=1), "adamw", "optimizer is adamw, so an update takes AdamParams"),
        (Sophia(0.1), "dimuon", "takes DimuonParams, got Sophia"),
        ({"learning_rate": 0.1}, "adamw", "are an AdamParams, got dict"),
        (ta.AdamParams, "adamw", r"got the class; use AdamParams\("),
        (ta.DimuonParams, "dimuon", "got the class"),
        (5, "adamw", "got int"),
        (5, "sophia", "parameters of type 'sophia', got int"),
        (SimpleNamespace(learning_rate=0.1, momentum=0.9), "adamw", "got also momentum"),
        (SimpleNamespace(type="dimuon", learning_rate=1, rho=1), "dimuon", "got also rho"),
        (SimpleNamespace(type="dimuon"), "dimuon", "learning_rate"),
        (SimpleNamespace(type="dimuon", learning_rate=float("nan")), "dimuon", "finite number"),
        (SimpleNamespace(type="sophia", learning_rate=object()), "sophia", "what JSON can"),
    ],
)
def test_parameters_that_the_model_cannot_take_are_refused(value: Any, family: str, message: str) -> None:
    with pytest.raises(ta.ValidationError, match=message):
        optimizer_params(value, family)


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": -1.0},
        {"beta1": 1.0},
        {"beta1": "x"},
        {"grad_clip_norm": float("inf")},
        {"type": "adamw"},
    ],
    ids=repr,
)
def test_wrong_dimuon_parameters_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ta.ValidationError):
        ta.DimuonParams(**{"learning_rate": 0.1, **changes})


def test_a_gradient_limit_of_dimuon_may_be_negative() -> None:
    assert ta.DimuonParams(learning_rate=0.1, grad_clip_norm=float(np.float32(-1))).grad_clip_norm == -1.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, {"type": "adamw"}),
        (ta.AdamOptimizerConfig(), {"type": "adamw"}),
        (ta.DimuonOptimizerConfig(), {"type": "dimuon", "version": 1}),
        (Pydantic(type="dimuon", version=1), {"type": "dimuon", "version": 1}),
        (Sophia(0.1), {"type": "sophia", "learning_rate": 0.1, "rho": 0.04}),
    ],
)
def test_a_family_is_sent_with_what_is_fixed_of_it(value: Any, expected: dict[str, Any]) -> None:
    assert family_fields(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        "dimuon",
        5,
        ta.DimuonOptimizerConfig,
        {"type": "dimuon"},
        SimpleNamespace(type=5),
        SimpleNamespace(type=""),
    ],
)
def test_what_is_no_family_is_refused(value: Any) -> None:
    with pytest.raises(ta.ValidationError, match="optimizer"):
        family_fields(value)
