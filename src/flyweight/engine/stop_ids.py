"""Which tokens end an answer, by the files of a checkpoint.

What the files name counts, in config.json, generation_config.json and those of the tokenizer. Where none of them names
an end of text, a special token counts that is known as one by its spelling. An id is never guessed from the kind of
model, since models of one kind come with tokenizers of many. It knows no engine.
"""

import logging
from collections.abc import Mapping
from typing import Any

from flyweight.errors import CheckpointError
from flyweight.models.spec import ModelSpec
from flyweight.tokenizer import Tokenizer

END_OF_TEXT = (
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<\N{FULLWIDTH VERTICAL LINE}end\N{LOWER ONE EIGHTH BLOCK}of\N{LOWER ONE EIGHTH BLOCK}sentence"
    "\N{FULLWIDTH VERTICAL LINE}>",
)
"""How published tokenizers spell the special tokens that end a text or a turn."""

log = logging.getLogger("flyweight")


def read_stop_ids(spec: ModelSpec, generation_config: Mapping[str, Any], tokenizer: Tokenizer | None) -> frozenset[int]:
    """Ids that end an answer: every end of text that a file names, else every special token of ``END_OF_TEXT``; and the
    BOS that a file names, with which some models begin the next text. A model without any end of text is warned of.

    Raises:
        CheckpointError: when ``eos_token_id`` of generation_config.json is not an id or a list of ids.
    """
    given = generation_config.get("eos_token_id")
    named = given if isinstance(given, list) else [given]
    if not all(one is None or (isinstance(one, int) and not isinstance(one, bool)) for one in named):
        raise CheckpointError(f"generation_config.json: eos_token_id is {given!r}; it must be an id or a list of ids")
    begins = [spec.bos_token_id]
    ends = [*spec.eos_token_ids, *named]
    if tokenizer is not None:
        begins.append(tokenizer.bos_token_id)
        ends.append(tokenizer.eos_token_id)
        if all(one is None for one in ends):
            ends = [tokenizer.special_token_id(text) for text in END_OF_TEXT]
    found = frozenset(one for one in ends if one is not None)
    if not found:
        log.warning(
            "no end-of-text token is known: config.json, generation_config.json and the tokenizer's files name no "
            "eos_token_id, and no special token is spelled like one; answers end by their length only, by stop strings "
            "and by stop_token_ids. Add eos_token_id to generation_config.json"
        )
    return found | {one for one in begins if one is not None}
