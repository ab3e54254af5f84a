"""The tokens of a model as llguidance reads them: the bytes of each, and which are special.

Both kinds of vocabulary are understood: byte-level BPE, and SentencePiece's with byte tokens (``<0x0A>``). Special
tokens are never text: only a grammar that names one may allow it. It knows no grammar.
"""

from collections.abc import Collection

import llguidance

from flyweight.errors import UsageError
from flyweight.tokenizer import Tokenizer


def read_vocabulary(tokenizer: Tokenizer, *, vocab_size: int, stop_ids: Collection[int]) -> llguidance.LLTokenizer:
    """The vocabulary of a model with ``vocab_size`` logits, of which ids beyond the tokenizer's are never allowed.

    Takes seconds for a vocabulary of a hundred thousand tokens.

    Raises:
        UsageError: when the tokenizer is of a kind whose tokens' bytes cannot be known.
    """
    size = max(vocab_size, tokenizer.vocab_size)
    ends = [token for token in sorted(stop_ids) if token < size]
    try:
        return llguidance.LLTokenizer(tokenizer.to_json(), n_vocab=size, eos_token=ends or None)
    except Exception as error:
        raise UsageError(
            f"structured output is not possible with this model's tokenizer: {str(error)[:300]}; byte-level and "
            "SentencePiece BPE with byte fallback are supported"
        ) from error
