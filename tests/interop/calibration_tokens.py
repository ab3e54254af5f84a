"""Write the demo model's calibration conversations as a matrix of token ids, for compressors that are not ours.

    python calibration_tokens.py OUT.npy [--samples 64] [--length 256]

Conversations through the chat template, one behind the other, cut without gaps. Runs where Flyweight is installed.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from flyweight import demo_model
from flyweight.tokenizer import Tokenizer


def main() -> None:
    """Encode until the matrix is full, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.open(demo_model.model_path())
    wanted = arguments.samples * arguments.length
    ids: list[int] = []
    for line in demo_model.calibration_path().read_text(encoding="utf-8").splitlines():
        ids += tokenizer.encode_chat(json.loads(line)["messages"], add_generation_prompt=False)
        if len(ids) >= wanted:
            break
    else:
        raise SystemExit(f"the calibration file has {len(ids)} tokens; {wanted} are needed")
    np.save(arguments.out, np.array(ids[:wanted], dtype=np.int32).reshape(arguments.samples, arguments.length))


if __name__ == "__main__":
    main()
