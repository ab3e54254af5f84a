"""schemathesis against ``flyweight serve``, in positive and negative mode, with every check and no filter.

    python tests/interop/schemathesis_against_serve.py --schemathesis COMMAND [--examples 50] [--seed 1]

A server of the demo model is started; schemathesis reads its OpenAPI document and asks every operation. Ends with its
exit code, or with 1 where the server does not answer as before when all is over.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from flyweight.serving.doctor.finding import Trials
from flyweight.serving.doctor.judge import control_answer, expect_alive
from flyweight.serving.doctor.own_server import own_server

CONFIG = Path(__file__).with_name("schemathesis.toml")


def main() -> int:
    parser = argparse.ArgumentParser(description="schemathesis against flyweight serve")
    parser.add_argument("--schemathesis", required=True)
    parser.add_argument("--examples", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with own_server() as (target, _):
        before = control_answer(target)
        code = subprocess.run(
            [
                *(
                    options.schemathesis,
                    "--config-file",
                    str(CONFIG),
                    "run",
                    f"{target.url}/openapi.json",
                    "--mode",
                    "all",
                    "--checks",
                    "all",
                ),
                *("--header", f"Authorization: Bearer {target.key}", "--max-examples", str(options.examples)),
                *("--seed", str(options.seed), "--request-timeout", "60", "--continue-on-failure"),
                *("--generation-deterministic", "--no-color", "--max-response-time", "30"),
            ],
            check=False,
        ).returncode
        trials = Trials()
        expect_alive(trials, target, before, "schemathesis")
        for finding in trials.findings:
            print(finding)
    return code or bool(trials.findings)


if __name__ == "__main__":
    sys.exit(main())
