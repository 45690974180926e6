"""A downloaded adapter made ready for others."""

from pathlib import Path

import msgspec
import pytest

from tinker_actors.actors.adapters import make_ready
from tinker_actors.errors import ValidationError
from tinker_actors.types import CheckpointPath, WeightsInfoResponse

PATH = CheckpointPath.parse("tinker://r:train:0/sampler_weights/final")
INFO = WeightsInfoResponse(base_model="org/model", is_lora=True, lora_rank=8, train_attn=True)


def adapter(folder: Path, config: bytes = b"{}", weights: str = "adapter_model.safetensors") -> Path:
    (folder / "adapter_config.json").write_bytes(config)
    (folder / weights).write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (b'{"r": 8}', "org/model"),
        (b'{"r": 8, "base_model_name_or_path": null}', "org/model"),
        (b'{"r": 8, "base_model_name_or_path": "other/model"}', "other/model"),
    ],
)
def test_the_base_model_is_named_where_it_is_missing(tmp_path: Path, config: bytes, named: str) -> None:
    make_ready(adapter(tmp_path, config), PATH, INFO, with_card=True)
    found = msgspec.json.decode((tmp_path / "adapter_config.json").read_bytes())
    assert found == {"r": 8, "base_model_name_or_path": named}


def test_weights_may_be_of_the_older_form(tmp_path: Path) -> None:
    make_ready(adapter(tmp_path, weights="adapter_model.bin"), PATH, INFO, with_card=False)
    assert not (tmp_path / "README.md").exists()


def test_a_card_of_the_checkpoints_own_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    make_ready(adapter(tmp_path), PATH, INFO, with_card=True)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_what_is_not_known_is_not_in_the_card(tmp_path: Path) -> None:
    info = WeightsInfoResponse(base_model="org/model", is_lora=True)
    make_ready(adapter(tmp_path), PATH, info, with_card=True)
    card = (tmp_path / "README.md").read_text()
    assert "LoRA rank" not in card
    assert "Trained parts" not in card
    assert f"- Checkpoint: `{PATH}`\n" in card


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has nothing"),
        ({"model.safetensors": b""}, r"has model\.safetensors"),
        ({"adapter_config.json": b"{}"}, r"has adapter_config\.json"),
        ({"adapter_config.json": b"[]", "adapter_model.bin": b""}, "must be a JSON object"),
    ],
)
def test_what_is_no_adapter_is_refused(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValidationError, match=message):
        make_ready(tmp_path, PATH, INFO, with_card=True)
