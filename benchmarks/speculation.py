"""What speculation by prompt lookup brings to one stream: on a copying task, and where nothing is copied.

    python benchmarks/speculation.py --model DIR --text FILE [--tokenizer DIR] [--scripted] [--pairs 7]

Two tasks are cut from a text file:

copy    the prompt is a passage; the answer is the passage again, with a token changed every 32
new     the prompt is a passage; the answer is the text that follows it

With ``--scripted`` the model computes every step as it would, and then its logits are overwritten so that it says what
the task says: the time is that of real steps, the share of right guesses that of real text, for checkpoints whose
weights are random or that would not copy. Without it the model answers as it likes, greedily, and the tasks are
``copy`` (the passage twice, then its beginning: a model that repeats goes on) and ``new`` (sampled at temperature 1).

Plain and speculative runs alternate in one process; a pair gives one ratio of decoding speeds, and printed are the
median of the ratios and the least and the largest.
"""

import argparse
import datetime as dt
import platform
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flyweight
from flyweight.engine.speculation.prompt_lookup import PromptLookup
from flyweight.machine import Machine
from flyweight.tokenizer import Tokenizer


class Scripted:
    """A model's ``forward`` whose logits say a given sequence, whatever it computes."""

    def __init__(self, model: flyweight.LanguageModel) -> None:
        self.script: Sequence[int] = ()
        self._forward = model.forward

    def __call__(self, batch: Any) -> Any:
        logits = self._forward(batch)
        for row, token in enumerate(batch.output_rows):
            following = int(batch.positions[token]) + 1
            logits[row] = 0.0
            logits[row, self.script[min(following, len(self.script) - 1)]] = 50.0
        return logits


def passages(text: Path, tokenizer: Tokenizer, count: int, length: int) -> list[list[int]]:
    """``count`` pieces of ``length`` tokens, spread over the text."""
    ids = tokenizer.encode(text.read_text(errors="replace")[:2_000_000], add_special_tokens=False)
    step = (len(ids) - length) // max(count, 1)
    return [ids[place * step : place * step + length] for place in range(count)]


def task(name: str, passage: list[int], prompt: int, answer: int, scripted: bool) -> tuple[list[int], list[int]]:
    """(prompt, prompt and answer)."""
    if name == "new":
        return passage[:prompt], passage[: prompt + answer]
    if not scripted:
        return [*passage[:prompt], *passage[:prompt], *passage[: prompt // 8]], []
    copied = [passage[place + 1] if place % 32 == 31 else token for place, token in enumerate(passage[:answer])]
    return passage[:prompt], [*passage[:prompt], *copied]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, help="folder of the tokenizer; default: the model's")
    parser.add_argument("--tasks", nargs="+", choices=("copy", "new"), default=["copy", "new"])
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--scripted", action="store_true")
    for name, default in (("prompt", 256), ("answer", 192), ("pairs", 7)):
        parser.add_argument(f"--{name}", type=int, default=default)
    arguments = parser.parse_args()
    model = flyweight.load(arguments.model, compute=arguments.compute, cache_tokens=4096)
    tokenizer = Tokenizer.open(arguments.tokenizer) if arguments.tokenizer else model.tokenizer
    scripted = Scripted(model)
    if arguments.scripted:
        model.forward = scripted  # type: ignore[method-assign]
    print(f"{dt.date.today()}, {Machine.detect().describe()}, Python {platform.python_version()}")
    print(" ".join(["python", *sys.argv]))
    print("\n".join(model.description), end="\n\n")
    print("| task | plain, tokens/s | with prompt lookup | ratio: median | least | largest | guessed | right |")
    print("|---|---|---|---|---|---|---|---|")
    cut = passages(arguments.text, tokenizer, arguments.pairs + 1, arguments.prompt + arguments.answer + 1)
    for name in arguments.tasks:
        speeds: dict[bool, list[float]] = {False: [], True: []}
        drafted = accepted = 0
        for pair, passage in enumerate(cut):
            prompt, scripted.script = task(name, passage, arguments.prompt, arguments.answer, arguments.scripted)
            temperature = 1.0 if name == "new" and not arguments.scripted else 0.0
            options = flyweight.SamplingOptions(
                max_tokens=arguments.answer, ignore_eos=True, temperature=temperature, seed=pair
            )
            answers = {}
            for speculate in (False, True) if pair % 2 else (True, False):
                # A new engine each time: nothing is learnt or cached from the run before.
                model.open_engine(proposer=PromptLookup() if speculate else None)
                (completion,) = model.generate([prompt], options)
                answers[speculate] = completion.token_ids
                if pair:  # the first pair warms up
                    speeds[speculate].append(completion.decode_tokens_per_second)
                    drafted += completion.usage.draft_tokens
                    accepted += completion.usage.accepted_tokens
            if arguments.scripted and answers[False] != answers[True]:
                raise SystemExit("the answers differ: speculation is not lossless")
        ratios = [ahead / plain for plain, ahead in zip(speeds[False], speeds[True], strict=True)]
        print(
            f"| {name} | {statistics.median(speeds[False]):.1f} | {statistics.median(speeds[True]):.1f} | "
            f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} | {drafted} | {accepted} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
