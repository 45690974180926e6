"""--deterministic: equal requests give equal bits, whatever else the server does and however often it is killed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PROTOBUF = "application/x-protobuf"
ROUNDS = 5
KILLS = 20


class Run:
    """One model's training and sampling, a request each time it is told to."""

    def __init__(self, data: Path, caller: Any) -> None:
        self._data = data
        self.session = caller.session()
        # Neither the adapter nor half of the samples name a seed.
        made = {
            "session_id": self.session,
            "model_seq_id": 0,
            "base_model": "local/tiny",
            "lora_config": {"rank": 4},
        }
        self.model = caller.do("create_model", made)["model_id"]
        self._seq_id = 0
        self.sent: list[str] = []

    @property
    def requests(self) -> list[Callable[[Any], Any]]:
        """What is to be sent, in order."""
        rounds = [
            request
            for number in range(ROUNDS)
            for request in (
                self._train,
                self._train,
                self._step,
                lambda caller, number=number: self._save(caller, number),
                lambda caller, number=number: self._sample(caller, number),
            )
        ]
        return [*rounds, self._end]

    def results(self, caller: Any) -> list[bytes]:
        """What the requests came to, without what names the session."""
        bodies = [caller.poll(request_id, PROTOBUF).content for request_id in self.sent]
        return [body.replace(self.session.encode(), b"") for body in bodies]

    def checkpoint(self) -> bytes:
        folder: Path = self._data / "checkpoints" / self.model / "weights" / "end"
        return (folder / "checkpoint.safetensors").read_bytes()

    def _next(self) -> dict[str, Any]:
        self._seq_id += 1
        return {"model_id": self.model, "seq_id": self._seq_id}

    def _keep(self, answer: Any) -> None:
        assert answer.status_code == 200, answer.text
        self.sent.append(answer.json()["request_id"])

    def _train(self, caller: Any) -> None:
        place = self._next()
        tokens = np.random.default_rng(place["seq_id"]).integers(256, size=40).tolist()
        self._keep(caller.forward_backward(self.model, place["seq_id"], tokens))

    def _step(self, caller: Any) -> None:
        self._keep(caller.optim_step(self.model, self._next()["seq_id"], 0.05))

    def _save(self, caller: Any, number: int) -> None:
        self._keep(
            caller.post("save_weights_for_sampler", {**self._next(), "sampling_session_seq_id": number})
        )

    def _sample(self, caller: Any, number: int) -> None:
        caller.poll(self.sent[-1])  # its weights must be there
        params = {"max_tokens": 60, **({"seed": number} if number % 2 else {})}
        sampler = f"{self.session}:sample:{number}"
        document = caller.sample_document(sampler, 7, sampling_params=params, num_samples=3)
        self._keep(caller.post("asample", {**document, "prompt_logprobs": True, "prompt_alt_tokens_k": 2}))

    def _end(self, caller: Any) -> None:
        self._keep(caller.post("save_weights", {**self._next(), "path": "end"}))


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory, start_shared: Any, open_caller: Any
) -> tuple[list[bytes], bytes]:
    """Results and checkpoint of a run that has a server of its own."""
    data = tmp_path_factory.mktemp("undisturbed")
    caller = open_caller(start_shared(data, "--deterministic"))
    run = Run(data, caller)
    for request in run.requests:
        request(caller)
    return run.results(caller), run.checkpoint()


def test_company_changes_no_bit(
    start: Any, open_caller: Any, tmp_path: Path, undisturbed: tuple[list[bytes], bytes]
) -> None:
    caller = open_caller(start(tmp_path / "s", "--deterministic", "--most-live-models", "1"))
    other = caller.sampler(caller.session())
    run, companion = Run(tmp_path / "s", caller), Run(tmp_path / "s", caller)
    for number, (request, theirs) in enumerate(zip(run.requests, companion.requests, strict=True)):
        for part in range(3):
            noise = caller.sample_document(other, 3 * number + part, sampling_params={"max_tokens": 50})
            caller.ask("asample", noise)
        request(caller)
        theirs(caller)
    assert (run.results(caller), run.checkpoint()) == undisturbed
    assert (companion.results(caller), companion.checkpoint()) == undisturbed


def test_kills_at_twenty_points_change_no_bit(
    start: Any, open_caller: Any, tmp_path: Path, undisturbed: tuple[list[bytes], bytes]
) -> None:
    options = ("--deterministic", "--snapshot-every", "3")
    process = start(tmp_path / "s", *options)
    caller = open_caller(process)
    run = Run(tmp_path / "s", caller)
    for number, request in enumerate(run.requests):
        request(caller)
        if number % 3 == 1:
            caller.poll(run.sent[-1])
        if number < KILLS:
            process.kill()
            process = start(tmp_path / "s", *options)
            caller = open_caller(process)
    assert (run.results(caller), run.checkpoint()) == undisturbed
