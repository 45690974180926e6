"""Random Llama and Qwen3 models, made by transformers, on both sides: here in PyTorch, there in the engine."""

from importlib.util import find_spec

collect_ignore_glob = (
    [] if find_spec("torch") and find_spec("transformers") and find_spec("peft") else ["test_*"]
)
"""Without PyTorch nothing here can be imported; `.ci/run` has an environment with it and fails if nothing ran."""
