"""A downloaded adapter, made ready for others: its base model named, and a model card beside it. No network."""

import re
from pathlib import Path

import msgspec

from tinker_actors.errors import ValidationError
from tinker_actors.types import CheckpointPath, WeightsInfoResponse

__all__ = ["CARD", "foreign_paths", "hub_name", "make_ready", "model_card"]

CARD = "README.md"
CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
LONGEST_NAME = 96
"""Of a repository on the hub."""
_BASE_MODEL = "base_model_name_or_path"


def make_ready(folder: Path, path: CheckpointPath, info: WeightsInfoResponse, *, with_card: bool) -> None:
    """Name the base model in the adapter's configuration, and write a card, where they are missing.

    Raises:
        ValidationError: what lies in `folder` is no adapter.
    """
    if not (folder / CONFIG).is_file() or not any((folder / name).is_file() for name in WEIGHTS):
        found = ", ".join(sorted(file.name for file in folder.iterdir())) or "nothing"
        raise ValidationError(
            f"an adapter was wanted, with {CONFIG} and {' or '.join(WEIGHTS)}; {path} has {found}; save the weights"
            " for sampling, or export them"
        )
    try:
        config = msgspec.json.decode((folder / CONFIG).read_bytes(), type=dict[str, object])
    except msgspec.DecodeError as error:
        raise ValidationError(f"{CONFIG} of {path} must be a JSON object: {error}") from error
    if not config.get(_BASE_MODEL):
        config[_BASE_MODEL] = info.base_model
        (folder / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(config), indent=2))
    if with_card and not (folder / CARD).exists():
        (folder / CARD).write_text(model_card(path, info), encoding="utf-8")


def model_card(path: CheckpointPath, info: WeightsInfoResponse) -> str:
    """What the hub shows of the adapter; its first lines are read by programs."""
    from huggingface_hub import ModelCardData

    head = ModelCardData(
        base_model=info.base_model, library_name="peft", tags=["lora", "tinker"], tinker_path=str(path)
    )
    parts = {"attention": info.train_attn, "MLP": info.train_mlp, "unembedding": info.train_unembed}
    trained = ", ".join(name for name, is_trained in parts.items() if is_trained)
    facts = {
        "Base model": f"`{info.base_model}`",
        "LoRA rank": info.lora_rank,
        "Trained parts": trained,
        "Checkpoint": f"`{path}`",
    }
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items() if value)
    return (
        f"---\n{head.to_yaml()}\n---\n\n# LoRA adapter for {info.base_model}\n\n{lines}\n\n"
        f"```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{info.base_model}")\n'
        f'model = PeftModel.from_pretrained(base, "REPOSITORY")\n```\n'
    )


def foreign_paths(readme: str, path: CheckpointPath) -> list[str]:
    """The checkpoints of other runs that a README names, unless it names one of the run of `path`, too."""
    found = re.findall(r"tinker://[^\s`'\"<>)\]]+", readme)
    own = f"tinker://{path.training_run_id}/"
    return [] if any(one.startswith(own) for one in found) else sorted(set(found))


def hub_name(text: str) -> str:
    """`text` as the name of a repository or a branch on the hub."""
    name = re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)
    name = re.sub(r"([-.])[-.]+", r"\1", name)[:LONGEST_NAME].strip("-.")
    return name.removesuffix(".git").removesuffix(".lock") or "adapter"
