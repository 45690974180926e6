"""A model that learns to chat: messages to tokens by a chat template, with weights for what it is to write.

First with a tokenizer in a directory in Hugging Face format, as models have one: it is written here, trained on a few
lines. Then with the one of `local/tiny`, which is trained on a few chats and asked a question of them. Needs the extra
`chat`.

    python examples/chat_templates.py [STEPS]
"""

import json
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers, trainers

import tinker_actors as ta
from tinker_actors.tokenization import Tokenizer, get_tokenizer

MODEL = "local/tiny"
TEMPLATE = """
{%- for message in messages %}
    {{- message.role + ': ' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content + eos_token }}{% endgeneration %}
    {%- else %}
        {{- message.content + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}
"""
"""Roles as words; what the assistant says is marked as what a model is to write."""
CAPITALS = {"France": "Paris", "Japan": "Tokyo", "Peru": "Lima", "Egypt": "Cairo"}


def write_tokenizer(directory: Path) -> None:
    """The files of a tokenizer: pairs of bytes merged as a few lines have them, and a template beside it."""
    library = Library(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator([f"user: capital of {country}?" for country in CAPITALS], trainer)
    library.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))
    (directory / "chat_template.jinja").write_text(TEMPLATE)


def show_directory() -> None:
    """What a tokenizer in a directory does with a text and with a chat."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        text = "user: capital of Perú?"
        prompt = ta.ModelInput.from_text(text, folder)
        print(f"{len(text.encode())} bytes are {prompt.length} tokens")
        tokenizer = get_tokenizer(folder)
        print("and back:", tokenizer.decode(prompt.to_ints()))
        print("a chat:", repr(tokenizer.apply_chat_template(chat("Peru", "Lima"), tokenize=False)))


def chat(country: str, capital: str | None = None) -> list[dict[str, str]]:
    """A question, and its answer if that is known."""
    question = [{"role": "user", "content": f"capital of {country}?"}]
    return question if capital is None else [*question, {"role": "assistant", "content": capital}]


def datum(tokenizer: Tokenizer, country: str, capital: str) -> ta.Datum:
    """One chat, of which each token that the assistant writes is learned."""
    found = tokenizer.apply_chat_template(
        chat(country, capital), chat_template=TEMPLATE, return_dict=True, return_assistant_tokens_mask=True
    )
    tokens, mask = found["input_ids"], found["assistant_masks"]
    return ta.Datum(
        model_input=ta.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": ta.TensorData(tokens[1:], dtype="int64"),
            "weights": ta.TensorData(mask[1:], dtype="float32"),
        },
    )


def main(steps: int) -> None:
    """Train on the chats for so many steps, and ask."""
    show_directory()
    with ta.ServiceClient(base_url="local") as service:
        training = service.create_lora_training_client(MODEL, rank=16, seed=1).result()
        tokenizer = training.get_tokenizer()
        data = [datum(tokenizer, country, capital) for country, capital in CAPITALS.items()]
        for step in training.steps(steps):
            forward = training.forward_backward(data, "cross_entropy")
            training.optim_step(ta.AdamParams(learning_rate=1e-2)).result()
            if step in (0, steps - 1):
                print(f"step {step}: loss {forward.result().metrics['loss:sum']:.2f}")
        sampler = training.save_weights_and_get_sampling_client().result()
        for country in CAPITALS:
            prompt = tokenizer.apply_chat_template(
                chat(country), chat_template=TEMPLATE, add_generation_prompt=True
            )
            params = ta.SamplingParams(max_tokens=16, temperature=0.0)
            (sample,) = sampler.sample(ta.ModelInput.from_ints(prompt), 1, params).result().sequences
            print(f"{country}: {tokenizer.decode(sample.tokens)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 60)
