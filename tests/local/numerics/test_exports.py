"""What the server saves, exports and archives, loaded by PEFT on the model that transformers loads."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import peft
import pytest
import torch
import transformers
from model_directories import write_model

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT asks
]

TOKENS = [3, 4, 5, 6, 3, 9, 12, 30]


def document(model_id: str, seq_id: int, key: str) -> dict[str, Any]:
    inputs = {
        "target_tokens": {"data": [*TOKENS[1:], 1], "dtype": "int64"},
        "weights": {"data": [1.0] * len(TOKENS), "dtype": "float32"},
    }
    chunk = {"type": "encoded_text", "tokens": TOKENS}
    data = [{"model_input": {"chunks": [chunk]}, "loss_fn_inputs": inputs}]
    return {"model_id": model_id, "seq_id": seq_id, key: {"data": data, "loss_fn": "cross_entropy"}}


def directory(process: Any, caller: Any, model_id: str, tmp_path: Path) -> Path:  # noqa: ARG001 - one form for all
    """Weights saved for sampling, where the server keeps them."""
    caller.do("save_weights_for_sampler", {"model_id": model_id, "seq_id": 6, "path": "trained"})
    return Path(process.data / "checkpoints" / model_id / "sampler_weights" / "trained")


def export(process: Any, caller: Any, model_id: str, tmp_path: Path) -> Path:  # noqa: ARG001 - as above
    """An export, fetched as its URLs say."""
    caller.do("save_weights_external", {"model_id": model_id, "seq_id": 6, "path": "trained"})
    place = f"training_runs/{model_id}/checkpoints/external_weights/trained/external_weights_urls"
    (tmp_path / "export").mkdir()
    for name, url in caller.http.get(place).json()["urls"].items():
        (tmp_path / "export" / name).write_bytes(httpx.get(url).content)
    return tmp_path / "export"


def archive(process: Any, caller: Any, model_id: str, tmp_path: Path) -> Path:  # noqa: ARG001 - as above
    """The archive of training state, unpacked."""
    caller.do("save_weights", {"model_id": model_id, "seq_id": 6, "path": "trained"})
    place = f"training_runs/{model_id}/checkpoints/weights/trained/archive"
    fetched = httpx.get(caller.http.get(place).headers["location"]).content
    with tarfile.open(fileobj=io.BytesIO(fetched)) as packed:
        packed.extractall(tmp_path / "archive", filter="data")
    return tmp_path / "archive"


@pytest.mark.parametrize("get", [directory, export, archive])
@pytest.mark.parametrize(
    "shape",
    [
        {"model_type": "llama", "rms_norm_eps": 1e-6},
        {"model_type": "qwen3", "head_dim": 6, "num_key_value_heads": 1},
    ],
    ids=["llama", "qwen3"],
)
def test_weights_load_in_peft_and_give_the_same_logprobs(
    process: Any, caller: Any, tmp_path: Path, shape: dict[str, Any], get: Callable[..., Path]
) -> None:
    write_model(tmp_path, **shape)
    made = {"session_id": caller.session(), "model_seq_id": 0, "base_model": str(tmp_path)}
    model_id = caller.do("create_model", {**made, "lora_config": {"rank": 3, "seed": 5}})["model_id"]
    for seq_id in (1, 3):
        caller.do("forward_backward", document(model_id, seq_id, "forward_backward_input"))
        caller.do("optim_step", caller.step_document(model_id, seq_id + 1))
    trained = caller.do("forward", document(model_id, 5, "forward_input"))
    saved = get(process, caller, model_id, tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    with torch.no_grad():
        plain = logprobs(model)
        adapted = logprobs(peft.PeftModel.from_pretrained(model, saved))
    ours = np.array(trained["loss_fn_outputs"][0]["logprobs"]["data"])
    assert np.abs(ours - adapted).max() <= 1e-4 * np.abs(adapted).max()
    assert np.abs(ours - plain).max() > 0.1


def logprobs(model: Any) -> Any:
    shares = torch.log_softmax(model(torch.tensor([TOKENS])).logits[0], dim=-1)
    return shares[torch.arange(len(TOKENS)), torch.tensor([*TOKENS[1:], 1])].numpy()
