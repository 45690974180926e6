"""From a model's name to its tokenizer, between text and token ids, and from messages to the text of a chat."""

from tinker_actors.tokenization.loading import get_tokenizer, tokenizer_at_hand
from tinker_actors.tokenization.names import tokenizer_id_of
from tinker_actors.tokenization.tokenizer import Tokenizer

__all__ = ["Tokenizer", "get_tokenizer", "tokenizer_at_hand", "tokenizer_id_of"]
