"""``flyweight generate``: one prompt in, one answer out, as it is made."""

import json as json_format
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flyweight.checkpoint.huggingface import Checkpoint
from flyweight.engine.generation import Completion
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.engine.kv_self_test import DEFAULT_MOST_KL
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.load import KVChoice, load
from flyweight.engine.preparing import WeightOptions
from flyweight.engine.prompts import Message, encode_prompt
from flyweight.engine.request import check_room
from flyweight.engine.sampling import SamplingOptions
from flyweight.errors import UsageError
from flyweight.models import read_spec
from flyweight.progress import Bar, Silent
from flyweight.runtime.prepared import ModelCompute
from flyweight.tokenizer import Tokenizer

STANDARD_INPUT = "-"


def generate(
    model: str,
    prompt: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    prompt_file: Path | None = None,
    chat: Annotated[bool, Parameter(negative="")] = False,
    system: str | None = None,
    options: Annotated[SamplingOptions | None, Parameter(name="*")] = None,
    compute: ModelCompute = "auto",
    cache_tokens: int | None = None,
    kv_dtype: KVChoice = "auto",
    kv_most_kl: float = DEFAULT_MOST_KL,
    samples: Annotated[int, Parameter(alias="-n")] = 1,
    batch_invariant: Annotated[bool, Parameter(negative="")] = False,
    weights: Annotated[WeightOptions | None, Parameter(name="*")] = None,
    speculate: str = "off",
    json_schema: Path | None = None,
    regex: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    choice: Annotated[list[str] | None, Parameter(negative="", allow_leading_hyphen=True)] = None,
    grammar: Path | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    stats: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Continue a text, or answer a message, and print the answer as it is made.

    Sampling options that are not given come from the model's generation_config.json; without one the most likely token
    is always taken.

    Examples:

        flyweight generate ./model "Once upon a time" --max-tokens 100

        flyweight generate ./model "What is two plus three?" --chat --temperature 0.7 --seed 1

        flyweight generate ./model --prompt-file prompt.txt --stop "." --json

        flyweight generate ./model "A name for a cat:" --samples 5 --temperature 1 --max-tokens 8

        flyweight generate ./model "Is snow white?" --chat --choice yes --choice no

    Parameters
    ----------
    model
        A checkpoint folder or a hub id.
    prompt
        The text; - reads it from standard input.
    prompt_file
        Read the prompt from this file instead, as it is.
    chat
        Send the prompt as a user's message through the model's chat template.
    system
        The system message before it (with --chat).
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
    samples
        Answers to make, side by side; their prompt is computed once. Above 1 they are printed when all are complete,
        each below its number, with --json one object on each line.
    batch_invariant
        Compute the same bits whatever runs side by side, so that a sample does not depend on how many there are.
    speculate
        Guess tokens ahead, which changes the speed and not the answer: off; prompt-lookup, from the text so far; or
        draft:PATH, by a smaller model of the same vocabulary.
    json_schema
        A file with a JSON schema, which the answer keeps to.
    regex
        A regular expression that matches the answer as a whole.
    choice
        One of the texts that the answer may be; give it once for each.
    grammar
        A file with a grammar in Lark's notation, which the answer keeps to.
    json
        Print one JSON object with text, token ids, finish reason, usage and timings, when the answer is complete.
    stats
        Print what runs, and the speed of prefill and decode, on standard error.
    """
    text = read_prompt(prompt, prompt_file)
    if samples < 1:
        raise UsageError(f"--samples {samples} is not allowed; choose 1 or more")
    if system is not None and not chat:
        raise UsageError("--system needs --chat: without the chat template there is no system message")
    constraint = read_constraint(json_schema, regex, choice, grammar)
    checkpoint = Checkpoint.open(model)
    # All of this is checked before the weights are read.
    context_length = read_spec(checkpoint.config).max_positions
    tokenizer = Tokenizer.open(checkpoint.folder)
    ids = encode_prompt(tokenizer, conversation(text, system) if chat else text)
    check_room(len(ids), context_length)
    loaded = load(
        checkpoint,
        compute=compute,
        cache_tokens=cache_tokens,
        kv_dtype=kv_dtype,
        kv_most_kl=kv_most_kl,
        batch_invariant=batch_invariant,
        weights=weights,
        speculate=speculate,
        tokenizer=tokenizer,
        progress=Bar() if sys.stderr.isatty() else Silent(),
    )
    if stats:
        print("\n".join(loaded.description), file=sys.stderr)
    if samples == 1:
        completions = [stream_to_terminal(loaded, ids, options, constraint, is_shown=not json)]
    else:
        completions = loaded.generate([ids], options, constraint=constraint, samples=samples)
    for number, completion in enumerate(completions, 1):
        if json:
            print(json_format.dumps({"model": model, **describe(completion)}, ensure_ascii=False))
        elif samples > 1:
            show(f"[{number} of {samples}]\n{completion.text.strip()}\n\n")
        if stats:
            print(speed(completion), file=sys.stderr)
    return 0


def stream_to_terminal(
    model: LanguageModel,
    ids: Sequence[int],
    options: SamplingOptions | None,
    constraint: ConstraintSpec | None = None,
    *,
    is_shown: bool,
) -> Completion:
    """Make one answer and show it as it comes."""
    completion: Completion | None = None
    for piece in model.stream(ids, options, constraint=constraint):
        if is_shown:
            show(piece.text)
        completion = piece.completion
    assert completion is not None
    if is_shown:
        show("\n")
    return completion


def read_prompt(prompt: str | None, prompt_file: Path | None) -> str:
    """The prompt from wherever it was given.

    Raises:
        UsageError: when it was given in no way or in two, or its file cannot be read as UTF-8.
    """
    if (prompt is None) == (prompt_file is None):
        raise UsageError("give the prompt either as an argument (- reads standard input) or with --prompt-file")
    try:
        if prompt_file is not None:
            return prompt_file.read_text(encoding="utf-8")
        return sys.stdin.buffer.read().decode("utf-8") if prompt == STANDARD_INPUT else str(prompt)
    except FileNotFoundError as error:
        raise UsageError(f"--prompt-file {prompt_file} does not exist") from error
    except UnicodeDecodeError as error:
        source = "standard input" if prompt_file is None else f"--prompt-file {prompt_file}"
        raise UsageError(f"{source} is not UTF-8 (byte {error.start}); convert it first") from error


def read_constraint(
    json_schema: Path | None, regex: str | None, choice: list[str] | None, grammar: Path | None
) -> ConstraintSpec | None:
    """What the answer must look like, if anything was said.

    Raises:
        UsageError: when it was said in two ways, or a file cannot be read.
    """
    given = {"--json-schema": json_schema, "--regex": regex, "--choice": choice, "--grammar": grammar}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} both say what the answer must look like; give one of them")
    if json_schema is not None:
        return ConstraintSpec.json_schema(
            _read_text("--json-schema", json_schema), origin=f"--json-schema {json_schema}"
        )
    if regex is not None:
        return ConstraintSpec.regex(regex, origin="--regex")
    if choice is not None:
        return ConstraintSpec.choice(choice, origin="--choice")
    if grammar is not None:
        return ConstraintSpec.lark(_read_text("--grammar", grammar), origin=f"--grammar {grammar}")
    return None


def _read_text(option: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{option} {path} is not UTF-8 (byte {error.start}); convert it first") from error


def conversation(text: str, system: str | None) -> list[Message]:
    """A user's message, after a system message if there is one."""
    before = [] if system is None else [{"role": "system", "content": system}]
    return [*before, {"role": "user", "content": text}]


def show(text: str) -> None:
    """Write to the terminal at once; what its encoding lacks becomes a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
    sys.stdout.flush()


def describe(completion: Completion) -> dict[str, object]:
    """A completion as it is printed with --json."""
    return {
        **asdict(completion),
        "prefill_tokens_per_second": round(completion.prefill_tokens_per_second, 2),
        "decode_tokens_per_second": round(completion.decode_tokens_per_second, 2),
    }


def speed(completion: Completion) -> str:
    """One line about how fast an answer came."""
    usage, timings = completion.usage, completion.timings
    cached = f" ({usage.cached_tokens} from the cache)" if usage.cached_tokens else ""
    return (
        f"prompt {usage.prompt_tokens} tokens{cached} in {timings.prefill_seconds:.3f} s "
        f"({completion.prefill_tokens_per_second:.1f} tokens/s), answer {usage.completion_tokens} tokens in "
        f"{timings.decode_seconds:.3f} s ({completion.decode_tokens_per_second:.1f} tokens/s), "
        f"ended by {completion.finish_reason}"
        + (f"; {usage.accepted_tokens} of {usage.draft_tokens} guesses right" if usage.draft_tokens else "")
    )
