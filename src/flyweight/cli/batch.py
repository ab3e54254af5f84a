"""``flyweight batch``: a file of requests in, a file of answers out."""

import json as json_format
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flyweight.engine.offline import BatchOptions
from flyweight.engine.offline import batch as answer_file
from flyweight.engine.preparing import WeightOptions
from flyweight.kernels import KVDtype
from flyweight.progress import Bar
from flyweight.runtime.prepared import ModelCompute

SOME_LINES_FAILED = 3


def batch(
    source: Path,
    output: Path,
    /,
    *,
    model: str,
    options: Annotated[BatchOptions | None, Parameter(name="*")] = None,
    compute: ModelCompute = "auto",
    cache_tokens: int | None = None,
    kv_dtype: KVDtype = "float32",
    speculate: str = "off",
    weights: Annotated[WeightOptions | None, Parameter(name="*")] = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Answer a file of requests in the OpenAI batch format, as many at once as the machine takes.

    Finished lines are kept in OUTPUT.partial: after an interruption the same command goes on. The exit code is 3 when
    some lines could not be answered; their results say why.

    Examples:

        flyweight batch requests.jsonl answers.jsonl --model ./model

        flyweight batch requests.jsonl answers.jsonl --model ./model --max-tokens 512 --speculate prompt-lookup

    Parameters
    ----------
    source
        One JSON object a line: custom_id, method POST, url /v1/chat/completions or /v1/completions, body.
    output
        The results, one JSON object a line, in the order of the input.
    model
        A checkpoint folder or a hub id.
    compute
        What linear layers compute in; as in flyweight generate.
    cache_tokens
        Tokens that the KV cache holds; the default follows the model's context and the free memory.
    kv_dtype
        How keys and values are stored.
    speculate
        Guess tokens ahead: off, prompt-lookup or draft:PATH; as in flyweight generate.
    json
        Print what became of the batch as one JSON object.
    """
    with Bar() as progress:
        report = answer_file(
            source,
            output,
            model=model,
            options=options,
            compute=compute,
            cache_tokens=cache_tokens,
            kv_dtype=kv_dtype,
            speculate=speculate,
            weights=weights,
            progress=progress,
        )
    if json:
        print(json_format.dumps(asdict(report)))
    else:
        print(
            f"{report.lines - report.failed} of {report.lines} requests answered"
            + (f" ({report.resumed} by an earlier run)" if report.resumed else "")
            + f", {report.completion_tokens} tokens in {report.seconds:.1f} s "
            f"({report.completion_tokens / max(report.seconds, 1e-9):.1f} tokens/s): {output}"
        )
    return SOME_LINES_FAILED if report.failed else 0
