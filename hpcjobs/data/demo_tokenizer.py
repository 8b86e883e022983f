"""The demo's tokenizer: byte-level BPE with Gemma's special tokens at Gemma's first ids."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 640
SPECIAL = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
"""In the order of their ids: Gemma has padding at 0, the end at 1 and the beginning at 2."""


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Learns at most ``VOCABULARY`` tokens; with a token for each byte, any text can be encoded."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The template's own words are in every prompt, so they deserve tokens of their own.
    tokenizer.train_from_iterator([*texts, *["user\nmodel\n"] * 10], trainer)
    return tokenizer
