"""Text to token ids and back, by the tokenizer files of a checkpoint.

Reads ``tokenizer.json``, ``tokenizer_config.json``, ``special_tokens_map.json`` and ``chat_template.jinja``. It does
not know the model: its vocabulary may be padded beyond the ids that the tokenizer knows.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import tokenizers

from flyweight.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from flyweight.chat_template import ChatTemplate

NAMED_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
LONG_TEXT = 1000
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Tokenizer:
    """A checkpoint's tokenizer. Make one with :meth:`open`.

    ``special_tokens`` maps ``bos_token`` and the like to their text, ``bos_token_id`` and ``eos_token_id`` are None
    where the files name no such token.
    """

    def __init__(
        self,
        core: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str | list[str]],
        add_bos: bool | None = None,
        add_eos: bool | None = None,
        templates: "Mapping[str, ChatTemplate] | None" = None,
        origin: str = "the tokenizer",
    ) -> None:
        """``add_bos`` and ``add_eos``: None leaves it to the post-processor of ``core``."""
        self._core = core
        self._core.no_truncation()
        self._core.no_padding()
        self._templates = dict(templates or {})
        self._origin = origin
        self.special_tokens = dict(special_tokens)
        self.bos_token_id = self._special_id("bos_token")
        self.eos_token_id = self._special_id("eos_token")
        self._uses_post_processor = add_bos is None and add_eos is None
        self._prefix = [self.bos_token_id] if add_bos and self.bos_token_id is not None else []
        self._suffix = [self.eos_token_id] if add_eos and self.eos_token_id is not None else []
        _mark_special(core, self.special_tokens)
        self._byte_ids = _byte_fallback_ids(core)
        self._special_ids = _special_ids(core)
        self._longest_token: int | None = None
        self._vocab_size: int | None = (
            None  # counted when it is asked for: a large vocabulary takes a tenth of a second
        )

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Read the tokenizer files in ``folder``.

        Raises:
            CheckpointError: when ``tokenizer.json`` is missing or a file cannot be read.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise CheckpointError(_missing_tokenizer(folder))
        config = _read_json(folder / "tokenizer_config.json")
        try:
            core = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error
        return cls(
            core,
            special_tokens=_special_tokens({**_read_json(folder / "special_tokens_map.json"), **_known(config)}),
            add_bos=config.get("add_bos_token"),
            add_eos=config.get("add_eos_token"),
            templates=_read_templates(folder, config),
            origin=str(folder),
        )

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that the tokenizer knows."""
        if self._vocab_size is None:
            self._vocab_size = max(self._core.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        return self._vocab_size

    @property
    def has_chat_template(self) -> bool:
        return bool(self._templates)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """The token ids of ``text``; with ``add_special_tokens`` with the BOS and EOS that the model expects.

        An ``add_bos_token`` or ``add_eos_token`` in tokenizer_config.json decides; without either the post-processor
        of tokenizer.json does. Special tokens written out in the text become their ids.

        Raises:
            UsageError: when the text holds lone surrogates, which no tokenizer can read.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the text is not valid Unicode at character {error.start}: {error.reason}; give it as UTF-8"
            ) from error
        if not add_special_tokens or self._uses_post_processor:
            return self._ids(text, add_special_tokens=add_special_tokens)
        return [*self._prefix, *self._ids(text, add_special_tokens=False), *self._suffix]

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        # The library holds the interpreter's lock in encode and gives it back in encode_batch: a long text would stop
        # every other thread for as long as it takes.
        if len(text) < LONG_TEXT:
            return list(self._core.encode(text, add_special_tokens=add_special_tokens).ids)
        return list(self._core.encode_batch_fast([text], add_special_tokens=add_special_tokens)[0].ids)

    @property
    def longest_token(self) -> int:
        """Characters of the longest token, as the vocabulary spells it."""
        if self._longest_token is None:
            self._longest_token = max(map(len, self._core.get_vocab(with_added_tokens=True)), default=1)
        return self._longest_token

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of ``ids``. Ids that the tokenizer does not know give nothing, bytes that are not UTF-8 U+FFFD."""
        # The library's own skipping misses special tokens that the file says are to be normalized.
        shown = [index for index in ids if index not in self._special_ids] if skip_special_tokens else list(ids)
        return self._core.decode(shown, skip_special_tokens=skip_special_tokens)

    def token(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it, or None when there is no such id."""
        return self._core.id_to_token(token_id)

    def token_id(self, token: str) -> int | None:
        return self._core.token_to_id(token)

    def to_json(self) -> str:
        """The tokenizer as the text of a ``tokenizer.json``, with all special tokens marked."""
        return self._core.to_str()

    def special_token_id(self, token: str) -> int | None:
        """The id of a special token; None for one that is none."""
        found = self.token_id(token)
        return found if found in self._special_ids else None

    @property
    def chat_template(self) -> str | None:
        """The text of the template that conversations with tools go through."""
        found = self._templates.get("tool_use", self._templates.get("default"))
        return None if found is None else found.source

    def detokenizer(
        self, context: Sequence[int] = (), *, shown: Collection[str] = (), skip_special_tokens: bool = True
    ) -> "Detokenizer":
        """An incremental decoder of what follows the ids in ``context``; special tokens give no text, except those
        ``shown``, or all where they are not to be skipped. They stand as they are spelled, without spaces between."""
        shown_ids = frozenset(self.special_token_id(one) for one in shown) - {None}
        return Detokenizer(
            self,
            byte_ids=self._byte_ids,
            special_ids=self._special_ids,
            context=context,
            shown_ids=shown_ids if skip_special_tokens else self._special_ids,
        )

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The conversation as the model's chat template writes it, special tokens included.

        ``variables`` are further names that the template reads, such as ``enable_thinking``.

        Raises:
            UsageError: when the model has no chat template, or it refuses the conversation.
        """
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise UsageError(
                f"{self._origin} has no chat template (tokenizer_config.json or chat_template.jinja); "
                "give a plain prompt, or add the template of the model it was trained from"
            )
        return self._templates[name].render(
            messages,
            tools=tools,
            variables={**self.special_tokens, **(variables or {})},
            add_generation_prompt=add_generation_prompt,
        )

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Token ids of :meth:`render_chat`; the template has already written BOS."""
        text = self.render_chat(messages, tools=tools, variables=variables, add_generation_prompt=add_generation_prompt)
        return self.encode(text, add_special_tokens=False)

    def _special_id(self, name: str) -> int | None:
        text = self.special_tokens.get(name)
        return self._core.token_to_id(text) if isinstance(text, str) else None


class Detokenizer:
    """Turns ids into text one at a time, so that the pieces joined are the whole decoded at once.

    A token may hold part of a character, and a space may depend on the token before it. So a piece is the difference
    of two decodings of the last few tokens, and it is held back while it ends inside a character. With byte fallback
    tokens (``<0x0A>``) it is held until the run of them ends: one wrong byte changes how the whole run is decoded.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        byte_ids: frozenset[int],
        special_ids: frozenset[int],
        context: Sequence[int],
        shown_ids: frozenset[int | None] = frozenset(),
    ) -> None:
        self._tokenizer = tokenizer
        self._byte_ids = byte_ids
        self._special_ids = special_ids
        self._shown_ids = shown_ids
        self._window = self._context_window([index for index in context if index not in special_ids])
        self._shown = len(self._window)  # tokens of the window whose text has been given out
        self._prefix = tokenizer.decode(self._window)

    def push(self, token_id: int) -> str:
        """The text that ``token_id`` settles; empty while a character is incomplete and for special tokens."""
        if token_id in self._shown_ids:
            return self.finish() + (self._tokenizer.token(token_id) or "")
        if token_id in self._special_ids or self._tokenizer.token(token_id) is None:
            return ""  # not even put in the window: bytes before and after it join to one character
        self._window.append(token_id)
        if token_id in self._byte_ids:
            return ""
        text = self._tokenizer.decode(self._window)
        if text.endswith(REPLACEMENT) or len(text) <= len(self._prefix):
            return ""
        return self._give(text)

    def finish(self) -> str:
        """What was held back, with U+FFFD for a character that was never completed."""
        return self._give(self._tokenizer.decode(self._window))

    def _give(self, text: str) -> str:
        piece = text[len(self._prefix) :]
        del self._window[: self._shown]
        self._shown = len(self._window)
        self._prefix = self._tokenizer.decode(self._window)
        return piece

    def _context_window(self, context: Sequence[int]) -> list[int]:
        """A short tail of the context that decodes to complete text: the next token's left side."""
        length = min(8, len(context))
        while length < len(context):
            text = self._tokenizer.decode(context[-length:])
            if text and not text.startswith(REPLACEMENT):
                break
            length = min(2 * length, len(context))
        return list(context[len(context) - length :])


def _byte_fallback_ids(core: tokenizers.Tokenizer) -> frozenset[int]:
    """The ids of ``<0x00>`` ... where the decoder joins them to characters."""
    decoder = {} if core.decoder is None else json.loads(core.decoder.__getstate__())
    stages = decoder.get("decoders", [decoder])
    if not any(stage.get("type") == "ByteFallback" for stage in stages):
        return frozenset()
    return frozenset(index for token, index in core.get_vocab(True).items() if BYTE_TOKEN.fullmatch(token))


def _special_ids(core: tokenizers.Tokenizer) -> frozenset[int]:
    return frozenset(index for index, token in core.get_added_tokens_decoder().items() if token.special)


def _mark_special(core: tokenizers.Tokenizer, special_tokens: Mapping[str, str | list[str]]) -> None:
    """Some files name special tokens in the configs only; without the mark they would be decoded as text."""
    names = [name for value in special_tokens.values() for name in ([value] if isinstance(value, str) else value)]
    marked = _special_ids(core)
    core.add_special_tokens([name for name in names if core.token_to_id(name) not in (None, *marked)])


def _missing_tokenizer(folder: Path) -> str:
    if (folder / "tokenizer.model").is_file():
        return (
            f"{folder} has a SentencePiece tokenizer.model but no tokenizer.json; write one with transformers: "
            "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
        )
    return f"{folder} has no tokenizer.json; copy the tokenizer files of the model into the folder"


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty when there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}; it must hold an object")
    return content


def _known(config: Mapping[str, Any]) -> dict[str, Any]:
    names = (*NAMED_SPECIAL_TOKENS, "additional_special_tokens")
    return {name: config[name] for name in names if config.get(name) is not None}


def _special_tokens(found: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Special tokens as text; the files write them as strings or as objects with ``content``."""
    tokens: dict[str, str | list[str]] = {}
    for name, value in _known(found).items():
        if isinstance(value, list):
            tokens[name] = [_text(name, item) for item in value]
        else:
            tokens[name] = _text(name, value)
    return tokens


def _text(name: str, value: Any) -> str:
    text = value.get("content") if isinstance(value, Mapping) else value
    if not isinstance(text, str):
        raise CheckpointError(f"{name} in the tokenizer files is {value!r}; it must be a string")
    return text


def _read_templates(folder: Path, config: Mapping[str, Any]) -> "dict[str, ChatTemplate]":
    """Chat templates by name: ``chat_template.jinja`` first, else the string or list in tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    given, origin = config.get("chat_template"), str(folder / "tokenizer_config.json")
    has_file = path.is_file()
    if given is None and not has_file:
        return {}
    from flyweight.chat_template import ChatTemplate  # its library takes a twentieth of a second to import

    if has_file:
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path} is not UTF-8 (byte {error.start}); download it again") from error
        return {"default": ChatTemplate(source, origin=str(path))}
    if isinstance(given, str):
        return {"default": ChatTemplate(given, origin=origin)}
    try:
        return {entry["name"]: ChatTemplate(entry["template"], origin=origin) for entry in cast(list[Any], given)}
    except (TypeError, KeyError) as error:
        raise CheckpointError(
            f"chat_template in {origin} must be a string or a list of objects with name and template"
        ) from error
