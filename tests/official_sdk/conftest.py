"""The official SDK, unmodified, in the process of the tests; it needs an environment that has it (extra `sdk`)."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import KEY, WAIT_S, Server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "official_sdk" in item.path.parts:
            item.add_marker(pytest.mark.sdk)


@pytest.fixture(scope="session")
def tinker() -> Any:
    """The SDK; typed by nobody here."""
    return pytest.importorskip("tinker", reason="the official SDK is not installed (extra `sdk`)")


@pytest.fixture
def service(tinker: Any, server: Server) -> Iterator[Any]:
    """A service client of the SDK."""
    service = tinker.ServiceClient(base_url=server.url, api_key=KEY)
    yield service
    service.close("success").result(WAIT_S)


@pytest.fixture
def training(service: Any) -> Any:
    """A training client of the SDK on a fresh model."""
    return service.create_lora_training_client("local/tiny", rank=8, seed=7).result(WAIT_S)


@pytest.fixture
def datum(tinker: Any) -> Callable[..., Any]:
    """A datum whose every token is learned: `datum(text, **loss_fn_inputs)`."""

    def make(text: str, **inputs: list[float]) -> Any:
        tokens = list(text.encode())
        tensors = {name: tinker.TensorData(data=values, dtype="float32") for name, values in inputs.items()}
        tensors.setdefault("weights", tinker.TensorData(data=[1.0] * len(tokens), dtype="float32"))
        tensors["target_tokens"] = tinker.TensorData(data=[*tokens[1:], 256], dtype="int64")
        return tinker.Datum(model_input=tinker.ModelInput.from_ints(tokens), loss_fn_inputs=tensors)

    return make


@pytest.fixture
def step(tinker: Any, datum: Callable[..., Any]) -> Callable[..., float]:
    """Takes one optimizer step, submitted ahead; the loss before it: `step(training, number)`."""
    texts = ["the quick brown fox", "jumps over", "the lazy dog"]

    def take(training: Any, number: int = 0) -> float:
        forward = training.forward_backward([datum(texts[number % len(texts)])], "cross_entropy")
        training.optim_step(tinker.AdamParams(learning_rate=5e-3)).result(WAIT_S)
        return float(forward.result(WAIT_S).metrics["loss:sum"])

    return take
