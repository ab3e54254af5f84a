"""What a first token must not wait for: modules that ``generate`` and ``serve`` do without until they need them."""

import subprocess
import sys

import pytest

GENERATE = """
from flyweight.cli import main
from flyweight.demo_model import model_path
assert main(["generate", str(model_path()), "Once", "--max-tokens", "1"]) == 0
"""
IDS_ONLY = """
import flyweight
from flyweight.demo_model import model_path
next(flyweight.load(model_path(), tokenizer="lazy").score([[1, 2, 3]]))
"""
SERVE = "import flyweight.cli, flyweight.cli.serve"
OTHER_WORK = {"flyweight.bench", "flyweight.compression", "flyweight.evaluation", "flyweight.shipping"}
LIBRARIES = {"huggingface_hub", "llguidance", "opentelemetry", "rich", "torch", "transformers"}
OF_A_SERVER = {
    "asyncio",
    "http.client",
    "prometheus_client",
    "pydantic",
    "starlette",
    "uvicorn",
    "yaml",
    "flyweight.serving",
}


@pytest.mark.parametrize(
    ("program", "spared"),
    [
        (GENERATE, OTHER_WORK | LIBRARIES | OF_A_SERVER),
        (IDS_ONLY, OTHER_WORK | LIBRARIES | OF_A_SERVER | {"cyclopts", "jinja2"}),
        (SERVE, OTHER_WORK | LIBRARIES),
    ],
    ids=["generate", "ids", "serve"],
)
def test_it_starts_without(program: str, spared: set[str]) -> None:
    shown = "\nimport sys\nprint('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program + shown], capture_output=True, text=True, check=True)
    imported = set(done.stdout.splitlines()[-1].split())
    assert not imported & spared
