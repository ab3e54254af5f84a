"""Quality of RTN and GPTQ, ours and llm-compressor's, on the same calibration tokens and through the same evaluator.

    python benchmarks/gptq_quality.py --model DIR --train-text FILE --eval-text FILE --work DIR --peer-python PYTHON

Every candidate is a compressed-tensors checkpoint, decoded by ``dense_weights`` (a reader of its own) and run by the
transformers model in float32, so a row differs from another only by its weights. Figures: perplexity per token, mean KL
divergence of the original's next-token distribution from the candidate's in nats, top-1 agreement. Intervals are 95 %
bootstrap intervals over stories, paired where two candidates are compared.

It needs torch and transformers here, and llm-compressor in the environment whose interpreter ``--peer-python`` names.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from dense_weights import read_dense, stored_weight_bits
from measured_run import machine_line, run_measured
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

HERE = Path(__file__).resolve().parent
SEPARATOR = "<|endoftext|>"
CALIBRATION_SAMPLES, CALIBRATION_LENGTH = 128, 256
EVALUATION_STORIES, EVALUATION_LENGTH = 200, 511


@dataclass(frozen=True, kw_only=True, slots=True)
class Scheme:
    """One symmetric integer scheme; the same for every compressor."""

    bits: int
    group_size: int

    @property
    def name(self) -> str:
        return f"int{self.bits}-g{self.group_size}"


SCHEMES = (
    Scheme(bits=8, group_size=64),
    Scheme(bits=4, group_size=32),
    Scheme(bits=4, group_size=64),
    Scheme(bits=3, group_size=32),
)
COMPRESSORS = ("ours-rtn", "ours-gptq", "llm-compressor-rtn", "llm-compressor-gptq")


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """Per-position figures of one story: KL in nats, negative log likelihood in nats, agreement as 0 or 1."""

    divergence: NDArray[np.float64]
    loss: NDArray[np.float64]
    agreement: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One line of the table."""

    compressor: str
    scheme: str
    bits_per_weight: float
    perplexity: float
    mean_kl: float
    mean_kl_low: float
    mean_kl_high: float
    top1: float
    seconds: float | None
    peak_rss_bytes: int | None


def stories(text: str) -> list[str]:
    """The non-empty stories of a TinyStories file, stripped."""
    return [part.strip() for part in text.split(SEPARATOR) if part.strip()]


def calibration_matrix(tokenizer: Tokenizer, text: str) -> NDArray[np.int32]:
    """The first 128 x 256 tokens of the text: stories with their BOS, one behind the other, cut without gaps."""
    ids: list[int] = []
    for story in stories(text):
        ids += tokenizer.encode(story).ids
        if len(ids) >= CALIBRATION_SAMPLES * CALIBRATION_LENGTH:
            break
    wanted = CALIBRATION_SAMPLES * CALIBRATION_LENGTH
    if len(ids) < wanted:
        raise SystemExit(f"--train-text has {len(ids)} tokens; {wanted} are needed")
    return np.array(ids[:wanted], dtype=np.int32).reshape(CALIBRATION_SAMPLES, CALIBRATION_LENGTH)


def evaluation_sequences(tokenizer: Tokenizer, text: str, limit: int) -> list[list[int]]:
    """The first ``limit`` stories, each alone, BOS first, at most 511 tokens."""
    return [tokenizer.encode(story).ids[:EVALUATION_LENGTH] for story in stories(text)[:limit]]


def ours_command(arguments: argparse.Namespace, scheme: Scheme, method: str, tokens: Path, out: Path) -> list[str]:
    """Our command line for a scheme, with the recipe written beside the output."""
    recipe = out.with_suffix(".yaml")
    options = f"    options: {{damping: {arguments.damp}}}\n" if method == "gptq" else ""
    recipe.write_text(
        f"rules:\n  - match: 'model.layers.*'\n    method: {method}\n{options}"
        f"    format: {{bits: {scheme.bits}, group_size: {scheme.group_size}, symmetric: true}}\n"
    )
    command = [arguments.flyweight_python, "-m", "flyweight", "compress", str(arguments.model), str(out)]
    command += ["--recipe", str(recipe)]
    if method == "gptq":
        command += ["--calibration", str(tokens), "--sequences", str(CALIBRATION_SAMPLES)]
        command += ["--sequence-length", str(CALIBRATION_LENGTH), "--memory", arguments.memory]
    return command


def peer_command(arguments: argparse.Namespace, scheme: Scheme, method: str, tokens: Path, out: Path) -> list[str]:
    """llm-compressor's command line for a scheme."""
    command = [arguments.peer_python, str(HERE / "peers" / "llm_compressor_gptq.py"), "--model", str(arguments.model)]
    command += ["--out", str(out), "--method", method, "--bits", str(scheme.bits)]
    command += ["--group-size", str(scheme.group_size), "--damp", str(arguments.damp)]
    return command + (["--calibration-tokens", str(tokens)] if method == "gptq" else [])


def compress(
    arguments: argparse.Namespace, compressor: str, scheme: Scheme, tokens: Path
) -> tuple[Path, float | None, int | None]:
    """Make one candidate unless it is there already: folder, seconds and peak bytes (None where not known any more)."""
    maker, _, method = compressor.rpartition("-")
    out = arguments.work / f"{compressor}-{scheme.name}"
    cost = out.with_suffix(".cost.json")
    if out.exists() and not arguments.again:
        seconds, peak = json.loads(cost.read_text()) if cost.exists() else (None, None)
        return out, seconds, peak
    build = ours_command if maker == "ours" else peer_command
    if out.exists():
        raise SystemExit(f"{out} exists from an earlier run; remove it or give another --work folder")
    log = out.with_suffix(".log")
    log.unlink(missing_ok=True)
    measured = run_measured(build(arguments, scheme, method, tokens, out), log=log, environment=dict(os.environ))
    if measured.exit_status != 0:
        raise SystemExit(f"{compressor} {scheme.name} ended with {measured.exit_status}:\n{log.read_text()[-2000:]}")
    cost.write_text(json.dumps([measured.seconds, measured.peak_rss_bytes]))
    return out, measured.seconds, measured.peak_rss_bytes


def next_token_log_probabilities(model: torch.nn.Module, sequences: list[list[int]]) -> Iterator[torch.Tensor]:
    """For every story the float32 log probabilities [tokens - 1, vocabulary] of each next token."""
    with torch.inference_mode():
        for ids in sequences:
            yield torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].float(), dim=-1)


def evaluate(
    folder: Path, expected: list[torch.Tensor], model: torch.nn.Module, sequences: list[list[int]]
) -> list[Story]:
    """Load the candidate's dense weights into ``model`` and compare it with the original's ``expected`` per story."""
    missing, unexpected = model.load_state_dict(read_dense(folder), strict=False)
    if unexpected or [name for name in missing if name != "lm_head.weight"]:
        raise SystemExit(f"{folder}: tensors missing {missing} or unknown {unexpected}")
    result = []
    for ids, wanted, actual in zip(sequences, expected, next_token_log_probabilities(model, sequences), strict=True):
        divergence = (wanted.exp() * (wanted - actual)).sum(dim=-1)
        loss = -actual.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        agreement = wanted.argmax(dim=-1) == actual.argmax(dim=-1)
        result.append(
            Story(
                divergence=divergence.double().numpy(),
                loss=loss.double().numpy(),
                agreement=agreement.double().numpy(),
            )
        )
    return result


def resampled_mean_kl(per_story: list[Story], draws: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean KL of every bootstrap draw of stories; ``draws`` is [repetitions, stories]."""
    sums = np.array([story.divergence.sum() for story in per_story])
    counts = np.array([story.divergence.size for story in per_story])
    result: NDArray[np.float64] = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    return result


def table(rows: list[Row], original_perplexity: float) -> str:
    """The rows as markdown."""
    lines = [
        "| | scheme | bits/weight | ppl | mean KL [95 %] | top-1 | seconds | peak MB |",
        "|---|---|---|---|---|---|---|---|",
        f"| original, float32 | | 32 | {original_perplexity:.3f} | 0 | 1 | | |",
    ]
    lines.extend(
        f"| {row.compressor} | {row.scheme} | {row.bits_per_weight:.2f} | {row.perplexity:.3f} "
        f"| {row.mean_kl:.4f} [{row.mean_kl_low:.4f}, {row.mean_kl_high:.4f}] | {row.top1:.4f} "
        f"| {row.seconds:.1f} | {row.peak_rss_bytes / 1e6:.0f} |"
        for row in rows
    )
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Llama-type checkpoint folder with tokenizer.json")
    parser.add_argument("--train-text", type=Path, required=True, help=f"calibration stories between {SEPARATOR}")
    parser.add_argument("--eval-text", type=Path, required=True, help=f"evaluation stories between {SEPARATOR}")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints and logs; reused")
    parser.add_argument("--peer-python", help="interpreter with llm-compressor; without it those rows are left out")
    parser.add_argument("--flyweight-python", default=sys.executable, help="interpreter with Flyweight")
    parser.add_argument("--compressors", nargs="*", choices=COMPRESSORS, default=list(COMPRESSORS))
    parser.add_argument("--damp", type=float, default=0.01, help="GPTQ damping of both compressors")
    parser.add_argument("--memory", default="500MB", help="our memory ceiling")
    parser.add_argument("--stories", type=int, default=EVALUATION_STORIES, help="evaluation stories")
    parser.add_argument("--threads", type=int, default=1, help="threads of the evaluator (not of the compressors)")
    parser.add_argument("--again", action="store_true", help="refuse to reuse candidates of an earlier run")
    parser.add_argument("--out", type=Path, help="write table (.md) and figures (.json) under this stem")
    return parser.parse_args()


def main() -> None:
    """Make every candidate, evaluate it, print and write the table."""
    arguments = parse_arguments()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    matrix = calibration_matrix(tokenizer, arguments.train_text.read_text())
    tokens = arguments.work / "calibration_tokens.npy"
    np.save(tokens, matrix)
    evaluation_text = arguments.eval_text.read_text()
    sequences = evaluation_sequences(tokenizer, evaluation_text, arguments.stories)
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)  # comes in evaluation mode
    expected = list(next_token_log_probabilities(model, sequences))
    baseline = evaluate(arguments.model, expected, model, sequences)
    original_perplexity = float(np.exp(np.concatenate([story.loss for story in baseline]).mean()))
    draws = np.random.default_rng(0).integers(len(sequences), size=(2000, len(sequences)))

    rows: list[Row] = []
    resampled: dict[tuple[str, str], NDArray[np.float64]] = {}
    for scheme in SCHEMES:
        for compressor in arguments.compressors:
            if compressor.startswith("llm-compressor") and arguments.peer_python is None:
                continue
            folder, seconds, peak = compress(arguments, compressor, scheme, tokens)
            per_story = evaluate(folder, expected, model, sequences)
            means = resampled_mean_kl(per_story, draws)
            resampled[compressor, scheme.name] = means
            low, high = np.quantile(means, [0.025, 0.975])
            rows.append(
                Row(
                    compressor=compressor,
                    scheme=scheme.name,
                    bits_per_weight=stored_weight_bits(folder)[0],
                    perplexity=float(np.exp(np.concatenate([story.loss for story in per_story]).mean())),
                    mean_kl=float(np.concatenate([story.divergence for story in per_story]).mean()),
                    mean_kl_low=float(low),
                    mean_kl_high=float(high),
                    top1=float(np.concatenate([story.agreement for story in per_story]).mean()),
                    seconds=seconds,
                    peak_rss_bytes=peak,
                )
            )
            print(f"{compressor} {scheme.name}: KL {rows[-1].mean_kl:.4f}", file=sys.stderr, flush=True)

    protocol = {
        "date": dt.date.today().isoformat(),
        "machine": machine_line(),
        "command": " ".join(["python", "benchmarks/gptq_quality.py", *sys.argv[1:]]),
        "calibration_sha256": hashlib.sha256(matrix.tobytes()).hexdigest(),
        "evaluation_sha256": hashlib.sha256(json.dumps(sequences).encode()).hexdigest(),
        "evaluated_positions": int(sum(story.loss.size for story in baseline)),
        "stories": len(sequences),
        "damping": arguments.damp,
        "original_perplexity": original_perplexity,
    }
    ratios = {
        scheme.name: ratio_of_mean_kl(rows, resampled, scheme.name)
        for scheme in SCHEMES
        if {("ours-gptq", scheme.name), ("llm-compressor-gptq", scheme.name)} <= resampled.keys()
    }
    text = table(rows, original_perplexity)
    for name, (ratio, low, high) in ratios.items():
        text += f"\n\nmean KL ours / llm-compressor, GPTQ {name}: {ratio:.3f} [{low:.3f}, {high:.3f}]"
    print(f"{json.dumps(protocol, indent=1)}\n\n{text}")
    if arguments.out is not None:
        arguments.out.with_suffix(".md").write_text(text + "\n")
        figures = {"protocol": protocol, "rows": [asdict(row) for row in rows], "ratios": ratios}
        arguments.out.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n")


def ratio_of_mean_kl(
    rows: list[Row], resampled: dict[tuple[str, str], NDArray[np.float64]], scheme: str
) -> tuple[float, float, float]:
    """Ours over llm-compressor's mean KL with its paired 95 % interval."""
    ours, peer = resampled["ours-gptq", scheme], resampled["llm-compressor-gptq", scheme]
    low, high = np.quantile(ours / peer, [0.025, 0.975])
    point = {row.compressor: row.mean_kl for row in rows if row.scheme == scheme}
    return point["ours-gptq"] / point["llm-compressor-gptq"], float(low), float(high)


if __name__ == "__main__":
    main()
