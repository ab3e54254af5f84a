"""Trains the demo model from the seeded generator; resumable, and deterministic from the seed on one machine.

Run from the repository root: ``nice python -m examples.demo_model.train --run build/demo_model``. Killed, it continues
from its last checkpoint when started again. The weights are exported by ``examples.demo_model.export``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from tokenizers import Tokenizer

from examples.demo_model.documents import SHORT_ROW, Curriculum, draw_rows
from examples.demo_model.exact_match import dev_conversations, exact_match
from examples.demo_model.model import DemoModel, ModelConfig
from examples.demo_model.optimizer import Muon

MUON_LEARNING_RATE, ADAM_LEARNING_RATE = 0.02, 0.003
WARMUP_STEPS = 100


def learning_rate_factor(step: int, total_steps: int, decay_steps: int) -> float:
    """Returns the factor of the peak rate at ``step``: linear warmup, constant, linear decay to zero."""
    return min(1.0, (step + 1) / WARMUP_STEPS, (total_steps - step) / decay_steps)


def save_checkpoint(path: Path, state: dict[str, object]) -> None:
    """Writes the checkpoint under a temporary name and renames it, so that a kill never leaves half a file."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def train(arguments: argparse.Namespace) -> None:
    """Trains worker ``arguments.rank`` from the last checkpoint of the run folder (or from step 0) to ``total_steps``.

    Workers are processes of one thread each: they draw different rows, average gradients, and take the same step.
    """
    rank = arguments.rank
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    rendezvous = dist.FileStore(str(arguments.run / "rendezvous"), arguments.workers)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=rendezvous, rank=rank, world_size=arguments.workers)
    tokenizer = Tokenizer.from_file(str(arguments.tokenizer))
    config = ModelConfig(vocab_size=tokenizer.get_vocab_size())
    model = DemoModel(config)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    adam = torch.optim.AdamW(others, lr=ADAM_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    optimizers = ((Muon(matrices, lr=MUON_LEARNING_RATE), MUON_LEARNING_RATE), (adam, ADAM_LEARNING_RATE))
    path, log_path = arguments.run / "checkpoint.pt", arguments.run / "log.jsonl"
    first_step, seconds_before = 0, 0.0
    if path.exists():
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        for (optimizer, _), stored in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)
        first_step, seconds_before = state["step"], state["seconds"]
    loss_of = torch.compile(model.loss, dynamic=False) if arguments.compile else model.loss
    dev = dev_conversations(random.Random("dev"), arguments.dev_samples)
    curriculum = Curriculum(
        ramp_steps=arguments.ramp_steps,
        late_step=arguments.late_step,
        final_step=arguments.final_step,
        typed_step=arguments.typed_step,
    )
    shapes = ((arguments.long_rows, config.context_length), (arguments.short_rows, SHORT_ROW))
    tokens_per_step = arguments.workers * sum(num_rows * length for num_rows, length in shapes)
    started, since, last_logged = time.monotonic(), time.monotonic(), first_step
    window = torch.zeros(2)  # summed loss, summed weight
    last_step = min(arguments.total_steps, arguments.stop_step or arguments.total_steps)
    for step in range(first_step, last_step):
        batches = [
            tuple(
                map(
                    torch.from_numpy,
                    draw_rows(tokenizer, f"{arguments.seed}/{rank}", step, num_rows, length, curriculum),
                )
            )
            for num_rows, length in shapes
        ]
        total_weight = sum(weights[:, 1:].sum() for _, weights in batches)
        for ids, weights in batches:
            with torch.autocast("cpu", torch.bfloat16):
                loss = loss_of(ids, weights) / total_weight
            loss.backward()  # type: ignore[no-untyped-call]
            window[0] += loss.detach() * total_weight
        window[1] += total_weight
        average_gradients(model, arguments.workers)
        factor = learning_rate_factor(step, arguments.total_steps, arguments.decay_steps)
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if rank == 0 and done % arguments.log_every == 0:
            now = time.monotonic()
            line: dict[str, object] = {
                "step": done,
                "loss": round((window[0] / window[1]).item(), 4),
                "tokens_per_second": round((done - last_logged) * tokens_per_step / (now - since)),
                "seconds": round(seconds_before + now - started),
            }
            window.zero_()
            if done % arguments.evaluate_every == 0 or done == last_step:
                line["exact_match"] = exact_match(model, tokenizer, dev)
            with log_path.open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            since, last_logged = time.monotonic(), done
        if rank == 0 and (done % arguments.save_every == 0 or done == last_step):
            seconds = seconds_before + time.monotonic() - started
            save_checkpoint(
                path,
                {
                    "model": model.state_dict(),
                    "step": done,
                    "seconds": seconds,
                    "optimizers": [optimizer.state_dict() for optimizer, _ in optimizers],
                },
            )
    dist.destroy_process_group()


def average_gradients(model: DemoModel, num_workers: int) -> None:
    """Replaces every gradient by its mean over the workers, and clips the whole to norm 1."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= num_workers
    flat *= (1.0 / (flat.norm() + 1e-6)).clamp(max=1.0)
    for gradient, part in zip(gradients, torch.split(flat, [gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder for checkpoint.pt and log.jsonl")
    parser.add_argument("--tokenizer", type=Path, default=Path("src/flyweight/demo_model/tokenizer.json"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--rank", type=int, default=0, help="set by worker 0 for the others that it starts")
    parser.add_argument("--long-rows", type=int, default=2, help="rows of 512 tokens per worker and step")
    parser.add_argument("--short-rows", type=int, default=16, help="rows of 128 tokens per worker and step")
    parser.add_argument("--total-steps", type=int, default=5000)
    parser.add_argument("--decay-steps", type=int, default=1500, help="last steps, in which the rate falls to zero")
    parser.add_argument("--stop-step", type=int, default=None, help="stop here, to go on with another schedule")
    parser.add_argument("--ramp-steps", type=int, default=1000, help="steps over which retrieval lists grow")
    parser.add_argument("--late-step", type=int, default=1500, help="step from which copying gets more of the text")
    parser.add_argument(
        "--final-step", type=int, default=sys.maxsize, help="step from which records and calls get more of the text"
    )
    parser.add_argument(
        "--typed-step",
        type=int,
        default=sys.maxsize,
        help="step from which types must be read and long lists are common",
    )
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--evaluate-every", type=int, default=250)
    parser.add_argument("--save-every", type=int, default=250)
    parser.add_argument("--dev-samples", type=int, default=64, help="dev conversations per task")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="use torch.compile")
    arguments = parser.parse_args()
    arguments.run.mkdir(parents=True, exist_ok=True)
    helpers = []
    if arguments.rank == 0:
        (arguments.run / "rendezvous").unlink(missing_ok=True)
        command = [sys.executable, "-m", "examples.demo_model.train", *sys.argv[1:], "--rank"]
        helpers = [subprocess.Popen([*command, str(rank)]) for rank in range(1, arguments.workers)]
    try:
        train(arguments)
    finally:
        for helper in helpers:
            helper.terminate()
            helper.wait()


if __name__ == "__main__":
    main()
