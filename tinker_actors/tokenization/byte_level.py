"""The tokenizer of the generated models: one token a byte of UTF-8."""

from tinker_actors.tokenization.fast import FastBackend
from tinker_actors.tokenization.tokenizer import Tokenizer

__all__ = ["byte_symbols", "byte_tokenizer"]

END_OF_TEXT, BEGIN_OF_TEXT, PADDING = "<|endoftext|>", "<|begin_of_text|>", "<|pad|>"
BYTES = 256


def byte_tokenizer() -> Tokenizer:
    """A tokenizer whose ids 0 to 255 are bytes, and three special tokens after those."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
    from tokenizers import Tokenizer as Library

    vocab = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    library = Library(models.BPE(vocab=vocab, merges=[]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    specials = (END_OF_TEXT, BEGIN_OF_TEXT, PADDING)
    library.add_special_tokens([AddedToken(token, special=True) for token in specials])
    library.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN_OF_TEXT} $A", special_tokens=[(BEGIN_OF_TEXT, library.token_to_id(BEGIN_OF_TEXT))]
    )
    return Tokenizer(
        FastBackend(library),
        special_tokens={"eos_token": END_OF_TEXT, "bos_token": BEGIN_OF_TEXT, "pad_token": PADDING},
        split_special_tokens=True,
    )


def byte_symbols() -> list[str]:
    """The printable character that stands for each byte in byte-level tokenizers.

    Source: GPT-2's `bytes_to_unicode`: printable Latin-1 stands for itself, the others follow from 256.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    symbols, following = [], BYTES
    for byte in range(BYTES):
        if byte in printable:
            symbols.append(chr(byte))
        else:
            symbols.append(chr(following))
            following += 1
    return symbols
