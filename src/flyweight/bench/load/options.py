"""What a load run can be told. The fields are the command line's options; their texts are its help."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flyweight.bench.load.asks import Endpoint
from flyweight.bench.load.lengths import Lengths
from flyweight.bench.load.prompts import PromptKind
from flyweight.bench.load.slo import parse_levels
from flyweight.errors import UsageError

LoadShape = Literal["concurrency", "poisson", "constant", "gamma", "ramp", "sweep", "trace"]
WITH_RATE = ("poisson", "constant", "gamma")
BODY_FIELDS = ("model", "prompt", "messages", "max_tokens", "stream", "stream_options", "temperature", "ignore_eos")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadOptions:
    """What is asked, when, and how answers are judged.

    Raises:
        UsageError: a value is out of range, or one does not belong to the load's shape.
    """

    load: LoadShape = "concurrency"
    """When requests are sent. concurrency: always so many in flight, each answer followed by the next request (a closed
    loop). The others do not wait for answers: poisson, constant (equal gaps) and gamma (see burstiness) at each rate;
    ramp from the first rate to the second; trace replays a file. sweep: one request at a time, then as many as
    max-in-flight, then Poisson at rates between what the two gave, until the server no longer follows."""

    rate: tuple[float, ...] = ()
    """Requests per second; several make several stages. A ramp takes two, its start and its end."""

    concurrency: tuple[int, ...] = ()
    """Requests in flight, for load concurrency; several make several stages. By default 1."""

    burstiness: float = 1.0
    """Load gamma: shape of the gaps; below 1 burstier than Poisson, above 1 more even."""

    trace: Path | None = None
    """Load trace: JSON lines with timestamp, and input_tokens and output_tokens or a prompt."""

    trace_unit: Literal["s", "ms"] = "s"
    """Unit of the trace's timestamps."""

    trace_speed: float = 1.0
    """Replay the trace so many times faster."""

    requests: int | None = None
    """Requests of each stage. By default 100 where no duration is given; a trace's and a sweep's are all they have."""

    duration: float | None = None
    """Seconds in which each stage sends requests; what is in flight then is waited for. By default 30 in a sweep."""

    max_in_flight: int | None = None
    """Open loops: send no more than so many at once. Due requests wait in the client, and the time counts from when
    they were due. A sweep's most concurrent requests, there by default 32."""

    sweep_stages: int = 6
    """Load sweep: number of rates."""

    warmup: int = 4
    """Requests that are sent before, as many at once as fit the load, and kept out of every figure."""

    prompts: PromptKind = "random"
    """random: words of the wanted number of tokens; ids: random token ids (completions, needs a tokenizer); file."""

    prompt_file: Path | None = None
    """Prompts file: JSON lines with prompt or messages, and max_tokens; or text, a prompt on each line."""

    input_tokens: str = "256"
    """Tokens of random prompts: 256, uniform:128-512, normal:256,64 or lognormal:256,0.5."""

    output_tokens: str = "64"
    """Tokens asked for (max_tokens), in the same forms."""

    shared_prefix: int = 0
    """Tokens that go before each random prompt and are the same in many, for prefix caches."""

    prefixes: int = 1
    """How many different shared prefixes there are."""

    tokenizer: Path | None = None
    """Folder of the server's tokenizer. Without it the server is asked how many tokens some prompts have."""

    model: str | None = None
    """Model name to ask for; by default the first that the server lists."""

    endpoint: Endpoint = "completions"
    """completions or chat."""

    temperature: float = 0.0
    """Sampling temperature."""

    ignore_eos: bool = True
    """Ask for answers of the full length; --no-ignore-eos for servers that do not know the option."""

    extra_body: str = "{}"
    """More fields of each request's body, as JSON."""

    slo: tuple[str, ...] = ()
    """Service levels in milliseconds, such as ttft:500 tpot:50 e2e:8000; goodput counts the requests that keep all."""

    timeout: float = 600.0
    """Seconds that one answer may take."""

    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable that holds the API key, if the server wants one."""

    seed: int = 0
    """Seed of arrivals, lengths, prompts and intervals."""

    events: bool = False
    """Keep the time and tokens of every event in the JSON."""

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_shape()
        Lengths.parse(self.input_tokens)
        Lengths.parse(self.output_tokens)
        parse_levels(self.slo)
        self.extra_fields()
        if (self.prompts == "file") != (self.prompt_file is not None):
            raise UsageError("prompts=file and prompt_file belong together; give both or neither")
        if self.prompts == "ids" and (self.tokenizer is None or self.endpoint != "completions"):
            raise UsageError("prompts=ids needs a tokenizer, for the size of its vocabulary, and endpoint=completions")
        if self.prompts == "file" and self.shared_prefix:
            raise UsageError("shared_prefix belongs to random prompts; write it into the file's prompts instead")

    def extra_fields(self) -> dict[str, Any]:
        """``extra_body`` as a mapping."""
        try:
            found = json.loads(self.extra_body)
        except ValueError as error:
            raise UsageError(f"extra_body {self.extra_body[:80]!r} is no JSON: {error}") from error
        if not isinstance(found, dict):
            raise UsageError(f'extra_body {self.extra_body[:80]!r} is no JSON object; write it like {{"top_k": 20}}')
        for name in found:
            if name in BODY_FIELDS:
                raise UsageError(f"extra_body sets {name}, which this program sets itself; use its option instead")
        return found

    def _check_ranges(self) -> None:
        """Every number inside its range."""
        for rate in self.rate:
            least = 0.0 if self.load == "ramp" else 1e-6
            if not least <= rate <= 1e6:
                raise UsageError(f"rate={rate} is not allowed; choose more than 0 and at most 1000000 per second")
        for places in self.concurrency:
            if not 1 <= places <= 65536:
                raise UsageError(f"concurrency={places} is not allowed; choose from 1 to 65536")
        whole = {
            "requests": (1, 10_000_000),
            "max_in_flight": (1, 65536),
            "sweep_stages": (2, 100),
            "warmup": (0, 10_000),
        }
        whole |= {"shared_prefix": (0, 10_000_000), "prefixes": (1, 10_000), "seed": (0, 2**63 - 1)}
        for name, (low, high) in whole.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name}={value} is not allowed; choose from {low} to {high}")
        real = {"duration": (1e-3, 1e6), "burstiness": (1e-3, 1e6), "trace_speed": (1e-3, 1e6), "timeout": (1e-3, 1e6)}
        real |= {"temperature": (0.0, 100.0)}
        for name, (least, most) in real.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise UsageError(f"{name}={value} is not allowed; choose from {least:g} to {most:g}")

    def _check_shape(self) -> None:
        """Each option goes with the shapes that use it, and each shape has what it needs."""
        uses = {
            "rate": (bool(self.rate), (*WITH_RATE, "ramp")),
            "concurrency": (bool(self.concurrency), ("concurrency",)),
            "burstiness": (self.burstiness != 1.0, ("gamma",)),
            "trace": (self.trace is not None, ("trace",)),
            "trace_unit": (self.trace_unit != "s", ("trace",)),
            "trace_speed": (self.trace_speed != 1.0, ("trace",)),
            "sweep_stages": (self.sweep_stages != 6, ("sweep",)),
            "max_in_flight": (self.max_in_flight is not None, (*WITH_RATE, "ramp", "sweep", "trace")),
            "duration": (self.duration is not None, ("concurrency", *WITH_RATE, "ramp", "sweep")),
        }
        for name, (given, shapes) in uses.items():
            if given and self.load not in shapes:
                raise UsageError(f"{name} does not belong to load {self.load}; it goes with {', '.join(shapes)}")
        if self.load in WITH_RATE and not self.rate:
            raise UsageError(f"load {self.load} needs a rate, in requests per second")
        if self.load == "ramp" and (len(self.rate) != 2 or self.rate[0] == self.rate[1]):
            raise UsageError(f"load ramp needs two different rates, its start and its end; {self.rate} were given")
        if self.load == "trace" and self.trace is None:
            raise UsageError("load trace needs a trace file")
