"""A small typed reader for config.json: wrong or missing values get an error that names the key.

It remembers which keys were asked for, so that an option nobody read can be told to the user instead of being
dropped in silence. It knows JSON values and the keys that never change a forward pass; it knows no architecture.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from flyweight.errors import CheckpointError, UnsupportedModelError

LARGEST_INTEGER = 2**40

# Keys of transformers' configs that concern training, saving, loading or text, never the forward pass of inference.
# fmt: off
HARMLESS_KEYS = frozenset(
    [
        "_attn_implementation_autoset", "_commit_hash", "_name_or_path", "add_cross_attention", "architectures",
        "attention_dropout", "attn_implementation", "attn_pdrop", "auto_map", "bad_words_ids",
        "begin_suppress_tokens", "bos_token_id", "cache_implementation", "chunk_size_feed_forward",
        "cross_attention_hidden_size", "decoder_start_token_id", "diversity_penalty", "do_sample", "dtype",
        "early_stopping", "embd_pdrop", "encoder_no_repeat_ngram_size", "eos_token_id",
        "exponential_decay_length_penalty", "finetuning_task", "forced_bos_token_id", "forced_eos_token_id",
        "gradient_checkpointing", "hidden_dropout", "id2label", "initializer_range", "is_llama_config",
        "keys_to_ignore_at_inference", "label2id", "length_penalty", "max_length", "min_length", "model_type",
        "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_return_sequences", "output_attentions",
        "output_hidden_states", "output_scores", "pad_token_id", "prefix", "pretraining_tp", "problem_type",
        "pruned_heads", "quantization_config", "remove_invalid_values", "repetition_penalty", "resid_pdrop",
        "return_dict", "return_dict_in_generate", "sep_token_id", "suppress_tokens", "task_specific_params",
        "temperature", "tf_legacy_loss", "tie_encoder_decoder", "tokenizer_class", "top_k", "top_p",
        "torch_dtype", "torchscript", "transformers_version", "typical_p", "unsloth_fixed", "unsloth_version",
        "use_bfloat16", "use_cache",
    ]
)
# fmt: on

_REQUIRED = object()


class ConfigReader:
    """One JSON object of a config, read key by key.

    A key that holds null counts as absent. Every method raises CheckpointError, naming the key, when the value
    is missing (and no default is given), of the wrong type or out of range.
    """

    def __init__(self, values: Mapping[str, Any], *, where: str = "config.json") -> None:
        self._values = values
        self._where = where
        self._read: set[str] = set()
        self._sections: list[ConfigReader] = []

    def has(self, key: str) -> bool:
        """Whether the key is there with a value other than null."""
        return self._values.get(key) is not None

    def mentions(self, key: str) -> bool:
        """Whether the key is there at all, be it with null."""
        return key in self._values

    def integer(self, key: str, default: int | object = _REQUIRED, *, minimum: int = 1) -> int:
        """A whole number of at least ``minimum``."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, "a whole number")
        if not minimum <= value <= LARGEST_INTEGER:
            raise self._wrong(key, value, f"a whole number of at least {minimum} (and at most {LARGEST_INTEGER})")
        return value

    def number(
        self, key: str, default: float | object = _REQUIRED, *, above: float = 0.0, at_most: float = 1e30
    ) -> float:
        """A finite number greater than ``above``."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a number")
        if not above < value <= at_most or not math.isfinite(value):
            raise self._wrong(key, value, f"a number above {above:g} and at most {at_most:g}")
        return float(value)

    def boolean(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str | object = _REQUIRED) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def numbers(self, key: str, *, length: int) -> tuple[float, ...]:
        """A list of exactly ``length`` positive finite numbers."""
        value = self._value(key, _REQUIRED)
        numeric = isinstance(value, list) and all(
            isinstance(item, int | float) and not isinstance(item, bool) and 1e-9 < item <= 1e30 for item in value
        )
        if not numeric or len(value) != length:
            raise self._wrong(key, value, f"a list of {length} positive numbers")
        return tuple(float(item) for item in value)

    def flags(self, key: str, *, minimum_length: int) -> tuple[bool, ...]:
        """A list of at least ``minimum_length`` zeros and ones (or truth values)."""
        value = self._value(key, _REQUIRED)
        if not isinstance(value, list) or len(value) < minimum_length or any(item not in (0, 1) for item in value):
            raise self._wrong(key, value, f"a list of at least {minimum_length} zeros and ones")
        return tuple(bool(item) for item in value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings; empty when the key is absent."""
        value = self._value(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._wrong(key, value, "a list of strings")
        return tuple(value)

    def token_ids(self, key: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """A token id or a list of them; null and absence give ``default``."""
        value = self._value(key, list(default))
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) or not isinstance(item, int) or not 0 <= item < 2**31 for item in items):
            raise self._wrong(key, value, "a token id or a list of token ids")
        return tuple(items)

    def section(self, key: str, *, required: bool = False) -> "ConfigReader":
        """The JSON object under ``key``; an empty one when it is absent and not required."""
        value = self._value(key, _REQUIRED if required else {})
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
            raise self._wrong(key, value, "an object")
        reader = ConfigReader(value, where=f"{key} of {self._where}")
        self._sections.append(reader)
        return reader

    def expect(self, key: str, *allowed: Any, reason: str) -> None:
        """Refuse values other than ``allowed`` (absence and null are always fine).

        Raises:
            UnsupportedModelError: naming the key, the value, what is supported and ``reason``.
        """
        value = self._value(key, None)
        if value is None or any(type(value) is type(item) and value == item for item in allowed):
            return
        supported = " or ".join(_short(item) for item in allowed) if allowed else "leaving it out"
        raise UnsupportedModelError(
            f"{key}={_short(value)} in {self._where} is not supported ({reason}); supported: {supported}"
        )

    def refuse(self, key: str, reason: str) -> UnsupportedModelError:
        """The error for a value that is well formed but not supported, for the caller to raise."""
        name = key if key.isidentifier() else _short(key)  # a key from the file may hold anything
        return UnsupportedModelError(f"{name}={_short(self._values.get(key))} in {self._where}: {reason}")

    def contradiction(self, message: str) -> CheckpointError:
        """The error for values that contradict each other, for the caller to raise."""
        return CheckpointError(f"{self._where} contradicts itself: {message}")

    def ignore(self, keys: Iterable[str]) -> None:
        """Mark keys as known to have no effect on this architecture."""
        self._read.update(keys)

    def unread(self) -> tuple[str, ...]:
        """Keys with a value that nobody read and that are not known to be harmless, sorted; sections included."""
        own = [
            key
            for key, value in self._values.items()
            if value is not None and key not in self._read and key not in HARMLESS_KEYS
        ]
        nested = [f"{section._where.split(' of ')[0]}.{key}" for section in self._sections for key in section.unread()]
        return tuple(sorted(own + nested))

    def nested(self) -> tuple[str, ...]:
        """The keys that hold JSON objects."""
        return tuple(key for key, value in self._values.items() if isinstance(value, Mapping))

    def _value(self, key: str, default: Any) -> Any:
        self._read.add(key)
        value = self._values.get(key)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise CheckpointError(f"{self._where} lacks {key}, which this architecture needs")
        return default

    def _wrong(self, key: str, value: Any, needed: str) -> CheckpointError:
        return CheckpointError(f"{key}={_short(value)} in {self._where} must be {needed}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
