"""``flyweight serve``: models over HTTP, as OpenAI's clients expect it.

Every option can also stand in the file named with --config, and in the environment as FLYWEIGHT_SERVE_NAME; a flag wins
over the environment, and that over the file.
"""

import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import yaml
from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict, Env

from flyweight import kernels
from flyweight.demo_model import model_path
from flyweight.engine.load import KVChoice
from flyweight.engine.options import EngineOptions
from flyweight.engine.preparing import WeightOptions
from flyweight.errors import UsageError
from flyweight.progress import Bar, Silent
from flyweight.runtime.prepared import ModelCompute
from flyweight.serving.limits import ServerLimits
from flyweight.serving.logs import logging_to
from flyweight.serving.model_loader import ModelLoader
from flyweight.serving.options import ServeOptions
from flyweight.serving.start import run_server

DEMO = "demo"
LARGEST_CONFIG = 1 << 20

from_environment = Env("FLYWEIGHT_SERVE_", command=False)


def from_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Fill options that were given in no other way from the file that --config names."""
    tokens = [token for argument in arguments if argument.name == "--config" for token in argument.tokens]
    if tokens:
        path = Path(tokens[-1].value)
        Dict(_read_config(path), source=str(path), use_commands_as_keys=False)(app, commands, arguments)


serve = App(name="serve", config=(from_environment, from_file))


@serve.default
def run(
    models: Annotated[tuple[str, ...], Parameter(name="model")],
    /,
    *,
    config: Path | None = None,
    options: Annotated[ServeOptions | None, Parameter(name="*")] = None,
    limits: Annotated[ServerLimits | None, Parameter(name="*", group="Limits")] = None,
    compute: ModelCompute = "auto",
    cache_tokens: int | None = None,
    kv_dtype: KVChoice = "auto",
    max_sequences: int | None = None,
    step_tokens: int | None = None,
    prefix_caching: bool = True,
    batch_invariant: Annotated[bool, Parameter(negative="")] = False,
    weights: Annotated[WeightOptions | None, Parameter(name="*")] = None,
    speculate: str = "off",
) -> int:
    """Serve models over HTTP: OpenAI's chat, completions, responses and embeddings, Anthropic's messages.

    Every option can also be given as an environment variable (--port as FLYWEIGHT_SERVE_PORT) or in a YAML file
    (--config, one line for each option: port: 8000). A flag wins over the environment, and that over the file.

    Examples:

        flyweight serve demo

        flyweight serve ./small --port 9000 --api-key alice=correct-horse-battery

        flyweight serve chat=./small other=./large --config serve.yaml

    Parameters
    ----------
    models
        Checkpoint folders or hub ids, each as it is or as NAME=MODEL; demo is the small model in this package. The
        first answers requests that name none.
    config
        A YAML file with further options.
    compute
        What linear layers compute in; auto: float32 for models stored so, else bfloat16, and int8 where the checkpoint
        asks for it.
    cache_tokens
        Tokens that each KV cache holds; the default follows the model's context and the free memory.
    kv_dtype
        How keys and values are stored; auto: bfloat16, or float32 when the linear layers compute in it.
    max_sequences
        Answers that run at once; by default up to 32, fewer where the cache is small.
    step_tokens
        Tokens that a step computes at most; by default what this machine computes in about a second.
    prefix_caching
        Keep keys and values of prompts and answers for later requests that begin with the same tokens.
    batch_invariant
        Compute the same bits whatever runs side by side.
    speculate
        Guess tokens ahead, which changes the speed and not the answers: off; prompt-lookup; or draft:PATH.
    """
    kernels.share_one_heap()  # before the first thread: requests begin on one and end on another
    options = options if options is not None else ServeOptions()
    loader = ModelLoader(
        compute=compute,
        kv_dtype=kv_dtype,
        batch_invariant=batch_invariant,
        engine=EngineOptions(max_sequences=max_sequences, step_tokens=step_tokens, prefix_caching=prefix_caching),
        weights=weights if weights is not None else WeightOptions(),
        speculate=speculate,
    )
    with logging_to(sys.stderr.fileno(), options.log_format) as sink:
        progress = Bar() if sys.stderr.isatty() else Silent()
        loaded = {
            name: loader.load(path, cache_tokens=cache_tokens, progress=progress)
            for name, path in name_models(models).items()
        }
        run_server(
            loaded,
            options,
            limits if limits is not None else ServerLimits(),
            loader=loader,
            sink=sink,
            on_listening=_announce,
        )
    return 0


def name_models(given: tuple[str, ...]) -> dict[str, str]:
    """Where each served name's model lies.

    Raises:
        UsageError: when none is given, or two have one name.
    """
    if not given:
        raise UsageError("name a model to serve: a folder, a hub id, or demo")
    named: dict[str, str] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals or not name or "/" in name:
            path, name = one, one if one == DEMO or not Path(one).exists() else Path(one).resolve().name
        if name in named:
            raise UsageError(f"two models would be served as {name!r}; name them, as NAME={path}")
        named[name] = str(model_path()) if path == DEMO else path
    return named


def _announce(url: str, _server: object) -> None:
    with suppress(OSError):  # a full disk under the log is no reason not to serve
        print(f"serving on {url}", file=sys.stderr, flush=True)


def _read_config(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise UsageError(f"{path} is larger than a configuration can be")
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--config {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path} is not YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"--config {path} must hold one line for each option, such as port: 8000")
    return found
