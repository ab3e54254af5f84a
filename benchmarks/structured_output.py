"""Whether real JSON schemas are kept to, and what keeping to them costs.

    python benchmarks/structured_output.py schemas --data maskbench.jsonl --model MODEL [--vocabulary DIR] [--limit N]
    python benchmarks/structured_output.py overhead --model DIR [--streams 1,16] [--tokens 64] [--rounds 1]

``schemas``: every schema is compiled, or refused with a reason. Instances of a compiled one are walked token
by token: valid ones should be allowed, invalid ones not; each mask on the way is timed. Then the model answers under
the constraint at temperature 1, and every answer that ends with ``stop`` is parsed and validated by the ``jsonschema``
package. MODEL should be small: what it says does not matter. ``--vocabulary`` names a tokenizer for compiling, walking
and timing.

``overhead``: the time of a step with and without constraints, step by step in turn, in one engine.
Meant for a random checkpoint of a real shape (``make_random_checkpoint.py``).
"""

import argparse
import collections
import datetime as dt
import json
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

import flyweight
from flyweight.bench.statistics import paired_ratio
from flyweight.engine.grammar.compiler import GrammarCompiler
from flyweight.engine.grammar.matcher import CompiledGrammar
from flyweight.engine.grammar.spec import ConstraintSpec
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.preparing import WeightOptions
from flyweight.engine.sampling import SamplingOptions
from flyweight.errors import FlyweightError, UsageError
from flyweight.machine import Machine
from flyweight.tokenizer import Tokenizer

BATCH = 16
LONG_SCHEMA = {
    "type": "array",
    "minItems": 100_000,
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 24},
            "kind": {"enum": ["alpha", "beta", "gamma"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 9999},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 4},
        },
        "required": ["name", "kind", "count", "tags"],
        "additionalProperties": False,
    },
}


def read_cases(path: Path, limit: int | None) -> list[dict[str, Any]]:
    """Lines of the data with a schema and its instances; spread over the file where fewer are wanted."""
    lines = path.read_text(encoding="utf-8").splitlines()
    step = max(1, len(lines) // limit) if limit else 1
    return [json.loads(line) for line in lines[::step]][:limit]


def percentiles(values: Sequence[float]) -> str:
    ordered = sorted(values)
    if not ordered:
        return "none"
    shares = (0.5, 0.95, 0.99)
    named = [
        f"p{round(100 * share)} {ordered[min(len(ordered) - 1, int(share * len(ordered)))]:.3g}" for share in shares
    ]
    return f"mean {statistics.fmean(ordered):.3g}, {', '.join(named)}, max {ordered[-1]:.3g} (of {len(ordered)})"


def is_allowed(grammar: CompiledGrammar, tokenizer: Tokenizer, text: str, seconds: list[float]) -> bool:
    """Whether a text may be the whole answer; the time of every mask goes to ``seconds``."""
    constraint = grammar()
    for token in tokenizer.encode(text, add_special_tokens=False):
        began = time.perf_counter()
        words = constraint.masks(()).words[0]
        seconds.append(time.perf_counter() - began)
        if not int(words[token // 32]) >> (token % 32) & 1:
            return False
        constraint.push(token)
        if constraint.is_complete:
            return True
    return constraint.is_complete or constraint.masks(()).may_end[0]


def in_order(value: Any, schema: Any) -> Any:
    """The same value with the members of its objects in the order in which the schema lists them."""
    if isinstance(value, list):
        items = schema.get("items") if isinstance(schema, dict) else None
        return [in_order(one, items) for one in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties") if isinstance(schema, dict) else None
    listed = list(properties) if isinstance(properties, dict) else []
    names = [name for name in listed if name in value] + [name for name in value if name not in listed]
    return {name: in_order(value[name], (properties or {}).get(name)) for name in names}


def schemas(arguments: argparse.Namespace) -> None:
    model = flyweight.load(arguments.model, cache_tokens=BATCH * 512)
    compiler, tokenizer = model.grammars, model.tokenizer
    if arguments.vocabulary is not None:
        tokenizer = Tokenizer.open(arguments.vocabulary)
        ends = [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else []
        compiler = GrammarCompiler(tokenizer, vocab_size=tokenizer.vocab_size, stop_ids=ends)
    compiler.prepare()
    cases = read_cases(arguments.data, arguments.limit)
    counts: collections.Counter[str] = collections.Counter()
    reasons: collections.Counter[str] = collections.Counter()
    compile_seconds: list[float] = []
    mask_seconds: list[float] = []
    compiled: list[tuple[Any, ConstraintSpec]] = []
    wrong: list[str] = []
    for case in cases:
        spec = ConstraintSpec.json_schema(case["schema"])
        began = time.perf_counter()
        try:
            grammar = compiler.compile(spec)
        except UsageError as error:
            counts["refused"] += 1
            reasons[str(error).partition(": ")[2].partition(":")[0][:60]] += 1
            continue
        compile_seconds.append(time.perf_counter() - began)
        counts["compiled"] += 1
        compiled.append((case["schema"], spec))
        for test in case["tests"]:
            kind = "valid" if test["valid"] else "invalid"
            data = in_order(test["data"], case["schema"])
            try:
                allowed = is_allowed(grammar, tokenizer, json.dumps(data, ensure_ascii=False), mask_seconds)
            except FlyweightError as error:
                allowed = False
                wrong.append(f"{case.get('path')}: {error}")
                counts["instances that ended in an error"] += 1
            counts[f"{kind} instances"] += 1
            if allowed != test["valid"]:
                counts[f"{kind} instances {'allowed' if allowed else 'not allowed'}"] += 1
    print(f"schemas {len(cases)}:", dict(counts))
    print("reasons:", reasons.most_common(12))
    print("compile ms:", percentiles([1e3 * one for one in compile_seconds]))
    print("mask us:", percentiles([1e6 * one for one in mask_seconds]))
    print("\n".join(wrong[:5]))
    if arguments.answers:
        answer_all(model, compiled, arguments.answers, arguments.max_tokens)


def answer_all(model: LanguageModel, compiled: Sequence[tuple[Any, ConstraintSpec]], samples: int, most: int) -> None:
    """Answers under every constraint, checked by another implementation of JSON Schema."""
    counts: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    # Ends of texts, lists and objects are made likelier: a model that knows nothing of JSON would go on for ever.
    closing = [token for token in range(model.spec.vocab_size) if (model.tokenizer.token(token) or "")[:1] in '"}]']
    bias = tuple((token, 4.0) for token in closing[:1000])
    for number, (schema, spec) in enumerate(compiled):
        options = SamplingOptions(temperature=1.0, top_k=0, top_p=1.0, max_tokens=most, seed=number, logit_bias=bias)
        try:
            answers = model.generate(["JSON: "], options, constraint=spec, samples=samples)
        except UsageError:
            counts["refused with this vocabulary"] += 1
            continue
        except FlyweightError as error:
            counts["ended with an error"] += 1
            faults.append(str(error))
            continue
        for answer in answers:
            counts[answer.finish_reason] += 1
            if answer.finish_reason == "stop" and (fault := fault_of(answer.text, schema)):
                counts["not valid"] += 1
                faults.append(f"{fault} in {answer.text[:200]} for {json.dumps(schema)[:300]}")
    print(f"answers of {len(compiled)} schemas, {samples} each:", dict(counts))
    print("\n".join(faults[:10]))


def fault_of(text: str, schema: Any) -> str:
    """Why a text does not satisfy a schema; empty when it does."""
    try:
        value = json.loads(text)
        jsonschema.validators.validator_for(schema)(schema).validate(value)
    except ValueError as error:
        return f"no JSON: {error}"
    except jsonschema.ValidationError as error:
        return f"not valid: {error.message[:200]}"
    return ""


def overhead(arguments: argparse.Namespace) -> None:
    model = flyweight.load(
        arguments.model,
        compute=arguments.compute,
        cache_tokens=arguments.cache_tokens,
        weights=WeightOptions(head=arguments.head),
    )
    print("\n".join(model.description))
    spec = ConstraintSpec.json_schema(LONG_SCHEMA)
    model.grammars.compile(spec)
    for streams in map(int, arguments.streams.split(",")):
        began = time.perf_counter()
        rounds = [timed_steps(model, spec, streams, arguments.tokens, seed) for seed in range(arguments.rounds)]
        steps = [one for found in rounds for one in found]
        ratio = paired_ratio([one.bound for one in steps], [one.free for one in steps])
        print(
            f"{streams} streams: free {1e3 * statistics.median(one.free for one in steps):.2f} ms a step, bound "
            f"{1e3 * statistics.median(one.bound for one in steps):.2f} ms; ratio median {ratio.median:.4f} "
            f"[{ratio.low:.4f}, {ratio.high:.4f}] covers {ratio.coverage:.0%} of {ratio.num_pairs} pairs; of sums "
            f"{sum(one.bound for one in steps) / sum(one.free for one in steps):.4f}"
        )
        per_round = [paired_ratio([one.bound for one in found], [one.free for one in found]).median for found in rounds]
        print(
            f"  of the rounds: {', '.join(f'{one:.4f}' for one in per_round)}; masks "
            f"{1e3 * statistics.median(one.masks for one in steps):.2f} ms a step beside the forward pass, waited for "
            f"{1e6 * statistics.median(one.waited for one in steps):.0f} us; beside forward pass and waiting: free "
            f"{1e3 * statistics.median(one.free_rest for one in steps):.2f} ms, bound "
            f"{1e3 * statistics.median(one.bound_rest for one in steps):.2f} ms ({time.perf_counter() - began:.0f} s)"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepPair:
    """Seconds of two neighbouring steps, without and with constraints; ``rest`` is what is neither forward pass nor
    waiting for masks; ``masks`` were made meanwhile, on the helper thread."""

    free: float
    bound: float
    free_rest: float
    bound_rest: float
    masks: float
    waited: float


def timed_steps(model: LanguageModel, spec: ConstraintSpec, streams: int, tokens: int, seed: int) -> list[StepPair]:
    """Two groups of answers in one engine, which take turns step by step; one of them is bound.

    So the machine is the same for both steps of a pair as far as it can be. The first step of each group computes the
    prompts, the next four pairs let the grammar's lexer learn; they are not counted.
    """
    engine, forward = model.engine, TimedForward(model)
    engine.forget_prefixes()
    options = SamplingOptions(temperature=1.0, top_k=0, top_p=1.0, max_tokens=tokens + 8, ignore_eos=True, seed=seed)
    groups: list[list[int]] = []
    for constraint in (None, spec):
        asked = [model.ask([7 + place] * 16, options, constraint=constraint).request for place in range(streams)]
        groups.append([engine.add(one) for one in asked])
    found: list[StepPair] = []
    for number in range(-6, tokens):
        times: list[tuple[float, float, float, float]] = [(0.0, 0.0, 0.0, 0.0)] * 2
        for which in (0, 1) if number % 2 else (1, 0):
            before = engine.metrics()
            forward.seconds = 0.0
            began = time.perf_counter()
            events = engine.step(only=groups[which])
            seconds = time.perf_counter() - began
            after = engine.metrics()
            if number > -6 and (len(events) != streams or any(one.reason is not None for one in events)):
                raise SystemExit(f"a step brought {events}; every answer should go on")
            waited = after.mask_wait_seconds - before.mask_wait_seconds
            masks = after.mask_seconds - before.mask_seconds
            times[which] = seconds, seconds - forward.seconds - waited, masks, waited
        if number >= 0:
            free, bound = times
            found.append(
                StepPair(
                    free=free[0],
                    bound=bound[0],
                    free_rest=free[1],
                    bound_rest=bound[1],
                    masks=bound[2],
                    waited=bound[3],
                )
            )
    for request in [*groups[0], *groups[1]]:
        engine.abort(request)
    return found


class TimedForward:
    """Stands in for the engine's forward pass and adds up the seconds it takes."""

    def __init__(self, model: LanguageModel) -> None:
        self._forward = model.forward
        self.seconds = 0.0
        model.engine._forward = self

    def __call__(self, batch: Any) -> Any:
        began = time.perf_counter()
        found = self._forward(batch)
        self.seconds += time.perf_counter() - began
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    schemas_parser = verbs.add_parser("schemas")
    schemas_parser.add_argument("--data", type=Path, required=True)
    schemas_parser.add_argument("--model", required=True)
    schemas_parser.add_argument("--vocabulary", type=Path)
    schemas_parser.add_argument("--limit", type=int)
    schemas_parser.add_argument("--answers", type=int, default=2, help="answers to each schema; 0: none")
    schemas_parser.add_argument("--max-tokens", type=int, default=400)
    schemas_parser.set_defaults(run=schemas)
    overhead_parser = verbs.add_parser("overhead")
    overhead_parser.add_argument("--model", required=True)
    overhead_parser.add_argument("--streams", default="1,16")
    overhead_parser.add_argument("--tokens", type=int, default=64, help="pairs of steps in a round")
    overhead_parser.add_argument("--rounds", type=int, default=1)
    overhead_parser.add_argument("--cache-tokens", type=int, default=8192)
    overhead_parser.add_argument("--compute", choices=["auto", "float32", "bfloat16", "int8"], default="auto")
    overhead_parser.add_argument("--head", choices=["as-stored", "int8", "int6", "int4"], default="as-stored")
    overhead_parser.set_defaults(run=overhead)
    arguments = parser.parse_args()
    print(f"{Machine.detect().describe()}; Python {platform.python_version()}; {dt.date.today()}")
    arguments.run(arguments)


if __name__ == "__main__":
    main()
