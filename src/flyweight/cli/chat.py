"""``flyweight chat``: a conversation in the terminal."""

import contextlib
import sys
from typing import Annotated

from cyclopts import Parameter

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.cli.generate import show, speed
from flyweight.engine.generation import Completion
from flyweight.engine.kv_self_test import DEFAULT_MOST_KL
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.load import KVChoice, load
from flyweight.engine.options import EngineOptions
from flyweight.engine.preparing import WeightOptions
from flyweight.engine.prompts import Message
from flyweight.engine.sampling import SamplingOptions
from flyweight.errors import UsageError
from flyweight.models import read_spec
from flyweight.progress import Bar, Silent
from flyweight.runtime.prepared import ModelCompute
from flyweight.tokenizer import Tokenizer

HELP = "/reset forgets the conversation, /system TEXT begins a new one with a system message, /exit (or Ctrl-D) leaves"


def chat(
    model: str,
    /,
    *,
    system: str | None = None,
    options: Annotated[SamplingOptions | None, Parameter(name="*")] = None,
    compute: ModelCompute = "auto",
    cache_tokens: int | None = None,
    kv_dtype: KVChoice = "auto",
    kv_most_kl: float = DEFAULT_MOST_KL,
    prefix_caching: bool = True,
    batch_invariant: Annotated[bool, Parameter(negative="")] = False,
    weights: Annotated[WeightOptions | None, Parameter(name="*")] = None,
    stats: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Talk with a model in the terminal; it sees the whole conversation.

    /reset forgets it, /system TEXT begins a new one with a system message, /exit leaves. Ctrl-C stops an answer, not
    the program. Sampling options that are not given come from the model's generation_config.json; without one the
    most likely token is always taken.

    Examples:

        flyweight chat ./model

        flyweight chat ./model --system "Answer in one sentence." --temperature 0.7 --top-p 0.9

    Parameters
    ----------
    model
        A checkpoint folder or a hub id, with a chat template.
    system
        The system message that the conversation begins with.
    compute
        What linear layers compute in; auto: float32 for models stored so, else bfloat16, and int8 where the checkpoint
        asks for it.
    cache_tokens
        Tokens that the KV cache holds; the default follows the model's context and the free memory.
    kv_dtype
        How keys and values are stored; auto: bfloat16, or float32 when the linear layers compute in it. int8 and int4
        hold two and three times as many tokens as bfloat16 in the same memory, and are first tried on a text.
    kv_most_kl
        Mean KL divergence from a float32 cache, in nats, above which float16, int8 and int4 are refused.
    prefix_caching
        Keep what was computed of the conversation, so that each turn computes only what is new.
    batch_invariant
        Compute the same bits whether an earlier turn is found in the cache or computed again.
    stats
        Print what runs, and after each answer its speed, on standard error.
    """
    checkpoint = Checkpoint.open(model)
    read_spec(checkpoint.config)
    tokenizer = Tokenizer.open(checkpoint.folder)
    tokenizer.render_chat([{"role": "user", "content": "Hello"}])  # refuses before the loading
    loaded = load(
        checkpoint,
        compute=compute,
        cache_tokens=cache_tokens,
        kv_dtype=kv_dtype,
        kv_most_kl=kv_most_kl,
        engine=EngineOptions(prefix_caching=prefix_caching),
        batch_invariant=batch_invariant,
        weights=weights,
        tokenizer=tokenizer,
        progress=Bar() if sys.stderr.isatty() else Silent(),
    )
    if stats:
        print("\n".join(loaded.description), file=sys.stderr)
    Conversation(loaded, options, system=system, has_stats=stats).run()
    return 0


class Conversation:
    """The messages so far and the loop that asks for more."""

    def __init__(
        self, model: LanguageModel, options: SamplingOptions | None, *, system: str | None, has_stats: bool
    ) -> None:
        self._model = model
        self._options = options
        self._system = system
        self._has_stats = has_stats
        self._messages: list[Message] = []
        self.reset()

    def reset(self) -> None:
        self._messages = [] if self._system is None else [{"role": "system", "content": self._system}]

    def run(self) -> None:
        """Ask and answer until /exit or the end of input."""
        is_terminal = sys.stdin.isatty()
        if is_terminal:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (line editing and history for input())
            print(HELP, file=sys.stderr)
        while True:
            try:
                line = input("> " if is_terminal else "")
            except EOFError:
                return
            except KeyboardInterrupt:
                print("\n/exit or Ctrl-D leaves", file=sys.stderr)
                continue
            if not self.take(line.strip()):
                return

    def take(self, line: str) -> bool:
        """One line of the user: a command or a message. False when it ends the conversation."""
        command, _, rest = line.partition(" ")
        if command in ("/exit", "/quit"):
            return False
        if command == "/reset":
            self.reset()
        elif command == "/system":
            self._system = rest.strip() or None
            self.reset()
        elif command.startswith("/"):
            print(f"{command} is not a command. {HELP}", file=sys.stderr)
        elif line:
            self._answer(line)
        return True

    def _answer(self, line: str) -> None:
        self._messages.append({"role": "user", "content": line})
        text: list[str] = []
        completion: Completion | None = None
        try:
            with contextlib.closing(self._model.stream(self._messages, self._options)) as pieces:
                for piece in pieces:
                    fresh = piece.text if text else piece.text.lstrip()  # the space that joins it to the prompt
                    if fresh:
                        show(fresh)
                        text.append(fresh)
                    completion = piece.completion
        except UsageError as error:
            self._messages.pop()
            print(f"{error}. /reset forgets the conversation so far", file=sys.stderr)
            return
        except KeyboardInterrupt:
            print("\n[stopped]", file=sys.stderr)
        else:
            show("\n")
        # What was shown stays part of the conversation, also when it was stopped.
        self._messages.append({"role": "assistant", "content": "".join(text).strip()})
        if completion is None:
            return
        used = completion.usage.prompt_tokens + completion.usage.completion_tokens
        if used >= self._model.context_length:
            print(f"[the context of {self._model.context_length} tokens is full; {HELP}]", file=sys.stderr)
        elif completion.finish_reason == "length":
            print("[stopped at --max-tokens]", file=sys.stderr)
        if self._has_stats:
            print(speed(completion), file=sys.stderr)
