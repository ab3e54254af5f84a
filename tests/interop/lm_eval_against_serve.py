"""lm-evaluation-harness against ``flyweight serve``: the same log likelihoods as Flyweight computes itself.

    python tests/interop/lm_eval_against_serve.py --lm-eval PYTHON [--model FOLDER] [--prompts 40] [--documents 20]

``--lm-eval`` is the interpreter of an environment with ``lm_eval[api]`` and ``transformers`` (scripts/lm_eval.sh makes
one). A server of the model is started; the harness asks its /v1/completions for multiple choice (loglikelihood) and for
text (loglikelihood_rolling), with the model's own tokenizer and nothing from the network. Every log likelihood of its
samples is then computed again with ``LanguageModel.score`` on the same tokens, and the byte perplexity of the text with
``flyweight evaluate``. Ends with 1 where any differs by more than 1e-3.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from flyweight import evaluate, load
from flyweight.demo_model import golden_path, heldout_path, model_path
from flyweight.serving.doctor.own_server import own_server

TOLERANCE = 1e-3
CHOICE = """task: flyweight_choice
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
target_delimiter: ""
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
TEXT = """task: flyweight_text
dataset_path: json
dataset_kwargs: {data_files: {test: %s}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="lm-evaluation-harness against flyweight serve")
    parser.add_argument("--lm-eval", required=True)
    parser.add_argument("--model", type=Path, default=model_path())
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--documents", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_tasks(work, options.prompts, options.documents)
        with own_server(f"model={options.model}") as (target, _):
            run_harness(options.lm_eval, work, target.url, target.key, options.model)
        return compare(work, options.model)


def write_tasks(work: Path, prompts: int, documents: int) -> None:
    """Questions of the golden facts with a right answer and three of other questions, and the held-out text."""
    lines = [json.loads(line) for line in (golden_path() / "facts.jsonl").read_text().splitlines()[:prompts]]
    with (work / "choice.jsonl").open("w") as file:
        for place, line in enumerate(lines):
            others = [lines[(place + step) % len(lines)]["expected"] for step in (1, 2, 3)]
            choices = [*others[: place % 4], line["expected"], *others[place % 4 :]]
            text = f"<|bos|><|user|>{line['messages'][-1]['content']}<|end|><|assistant|>"
            file.write(json.dumps({"question": text, "choices": choices, "label": place % 4}) + "\n")
    texts = [text.strip("\n") for text in heldout_path().read_text().split("<|endoftext|>")][:documents]
    with (work / "text.jsonl").open("w") as file:
        for text in texts:
            file.write(json.dumps({"text": text.removeprefix("<|bos|>")}) + "\n")
    (work / "choice.yaml").write_text(CHOICE % (work / "choice.jsonl"))
    (work / "text.yaml").write_text(TEXT % (work / "text.jsonl"))


def run_harness(python: str, work: Path, url: str, key: str, model: Path) -> None:
    arguments = {
        "model": "model",
        "base_url": f"{url}/v1/completions",
        "tokenizer": str(model),
        "tokenizer_backend": "huggingface",
        "tokenized_requests": "True",
        "num_concurrent": "4",
        "max_length": "512",
        "custom_prefix_token_id": str(load(model).tokenizer.bos_token_id),
    }
    environment = {**os.environ, "OPENAI_API_KEY": key, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    environment["HF_HOME"] = str(work / "hf")
    subprocess.run(
        [
            *(python, "-m", "lm_eval", "--model", "local-completions", "--include_path", str(work)),
            *("--tasks", "flyweight_choice,flyweight_text", "--output_path", str(work / "out"), "--log_samples"),
            *("--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())),
        ],
        check=True,
        env=environment,
    )


def compare(work: Path, folder: Path) -> int:
    model = load(folder)
    tokenizer = model.tokenizer
    bos = tokenizer.bos_token_id
    if bos is None:
        raise SystemExit("the model has no BOS token to begin a text with")

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    worst, count = 0.0, 0
    for path in (work / "out").rglob("samples_*.jsonl"):
        for line in path.read_text().splitlines():
            sample = json.loads(line)
            arguments = sample["arguments"]
            listed = list(arguments.values()) if isinstance(arguments, dict) else arguments
            for given, answer in zip(listed, sample["resps"], strict=True):
                parts = list(given.values()) if isinstance(given, dict) else given
                theirs = answer[0][0] if isinstance(answer[0], list) else answer[0]
                if len(parts) == 2:
                    context = len(encode(parts[0]))
                    tokens = encode(parts[0] + parts[1])
                    ours = log_likelihood(model, tokens, context)
                else:
                    tokens = [bos, *encode(parts[0])]
                    ours = log_likelihood(model, tokens, 1)
                worst, count = max(worst, abs(float(theirs) - ours)), count + 1
    found = next((work / "out").rglob("results_*.json"))
    results = json.loads(found.read_text())["results"]
    (work / "heldout.jsonl").write_text((work / "text.jsonl").read_text())
    report = evaluate(folder, text=work / "heldout.jsonl")
    byte_perplexity = results["flyweight_text"]["byte_perplexity,none"]
    print(f"{count} log likelihoods, largest difference {worst:.2e}")
    own = report.text.perplexity.byte.value
    print(f"byte perplexity: harness {byte_perplexity:.6f}, flyweight evaluate {own:.6f}")
    print(f"accuracy of the harness: {results['flyweight_choice']['acc,none']:.4f}")
    close = math.isclose(byte_perplexity, own, abs_tol=TOLERANCE)
    return 0 if count and worst <= TOLERANCE and close else 1


def log_likelihood(model, tokens: list[int], start: int) -> float:
    """Sum of the log probabilities of the tokens from ``start`` on."""
    total = 0.0
    for _, first, logits in model.score([tokens]):
        for row, values in enumerate(logits.astype(np.float64)):
            place = first + row + 1
            if start <= place < len(tokens):
                total += values[tokens[place]] - np.log(np.exp(values - values.max()).sum()) - values.max()
    return total


if __name__ == "__main__":
    sys.exit(main())
