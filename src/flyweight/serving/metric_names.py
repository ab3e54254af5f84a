"""Every metric that a server exposes: name, kind, meaning, labels, buckets. Names that vLLM has mean what they mean
there, with its labels and buckets, so that dashboards made for it work; ours begin with ``flyweight:``.

All metrics of a model carry ``model_name`` and ``engine`` before their own labels. Nothing is counted here.
"""

from dataclasses import dataclass
from typing import Literal

FIRST_TOKEN_BOUNDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0,
    640.0, 2560.0,
)  # fmt: skip
TOKEN_BOUNDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_BOUNDS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
STEP_TOKEN_BOUNDS = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)
SAMPLE_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0)
# From a tiny model's step to a large one's: vLLM's first bucket for tokens ends at 10 ms.
STEP_BOUNDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip

MODEL_LABELS = ("model_name", "engine")


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One metric. ``bounds`` are a histogram's; None for one whose bounds follow the model's context in the 1-2-5
    series. Counters get ``_total`` in the exposition. ``per_model`` puts the model's labels before ``labels``."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] | None = None
    per_model: bool = True

    @property
    def all_labels(self) -> tuple[str, ...]:
        return (*MODEL_LABELS, *self.labels) if self.per_model else self.labels


def _gauge(name: str, text: str, *labels: str, per_model: bool = True) -> Metric:
    return Metric(name=name, kind="gauge", help=text, labels=labels, per_model=per_model)


def _counter(name: str, text: str, *labels: str, per_model: bool = True) -> Metric:
    return Metric(name=name, kind="counter", help=text, labels=labels, per_model=per_model)


def _histogram(name: str, text: str, bounds: tuple[float, ...] | None, *labels: str) -> Metric:
    return Metric(name=name, kind="histogram", help=text, labels=labels, bounds=bounds)


# Under vLLM's names

RUNNING = _gauge("vllm:num_requests_running", "Requests in the batch.")
WAITING = _gauge("vllm:num_requests_waiting", "Requests that wait, before the engine and in it.")
WAITING_BY_REASON = _gauge(
    "vllm:num_requests_waiting_by_reason",
    "Requests that wait: for the engine to take them (admission), or in it for places and cache (capacity).",
    "reason",
)
CACHE_USAGE = _gauge("vllm:kv_cache_usage_perc", "Share of the KV cache's blocks that requests hold, 0 to 1.")
CACHE_CONFIG = _gauge(
    "vllm:cache_config_info",
    "The KV cache's size, as labels; always 1.",
    "block_size",
    "num_gpu_blocks",
    "cache_dtype",
    "enable_prefix_caching",
)
PREFIX_QUERIES = _counter("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
PREFIX_HITS = _counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.")
PREEMPTIONS = _counter("vllm:num_preemptions", "Times that a running request lost its blocks and had to wait again.")
PROMPT_TOKENS = _counter("vllm:prompt_tokens", "Prompt tokens of requests that have begun.")
PROMPT_TOKENS_BY_SOURCE = _counter(
    "vllm:prompt_tokens_by_source", "Prompt tokens, computed (local_compute) or found (local_cache_hit).", "source"
)
PROMPT_TOKENS_CACHED = _counter("vllm:prompt_tokens_cached", "Prompt tokens that were not computed again.")
GENERATION_TOKENS = _counter("vllm:generation_tokens", "Tokens generated.")
REQUEST_SUCCESS = _counter("vllm:request_success", "Requests that have ended, by reason.", "finished_reason")
ADMISSION_REJECTIONS = _counter(
    "vllm:admission_rejections", "Requests refused because the queue was full, by the bound that was met.", "reason"
)
REQUEST_PROMPT_TOKENS = _histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", None)
REQUEST_GENERATION_TOKENS = _histogram("vllm:request_generation_tokens", "Tokens generated for a request.", None)
MOST_GENERATION_TOKENS = _histogram(
    "vllm:request_max_num_generation_tokens", "Tokens of the longest answer of a request.", None
)
STEP_TOKENS = _histogram("vllm:iteration_tokens_total", "Tokens computed in a step.", STEP_TOKEN_BOUNDS)
PARAMS_N = _histogram("vllm:request_params_n", "Answers asked for by a request.", SAMPLE_BOUNDS)
PARAMS_MAX_TOKENS = _histogram("vllm:request_params_max_tokens", "max_tokens of a request.", None)
FIRST_TOKEN = _histogram("vllm:time_to_first_token_seconds", "From arrival to the first token.", FIRST_TOKEN_BOUNDS)
TOKEN_GAP = _histogram(
    "vllm:inter_token_latency_seconds", "Between tokens; several that come at once share the time.", TOKEN_BOUNDS
)
TIME_PER_TOKEN = _histogram(
    "vllm:request_time_per_output_token_seconds", "Mean time per token after the first, of a request.", TOKEN_BOUNDS
)
REQUEST_SECONDS = _histogram("vllm:e2e_request_latency_seconds", "From arrival to the end.", REQUEST_BOUNDS)
QUEUE_SECONDS = _histogram("vllm:request_queue_time_seconds", "From arrival to the first step.", REQUEST_BOUNDS)
INFERENCE_SECONDS = _histogram("vllm:request_inference_time_seconds", "From the first step to the end.", REQUEST_BOUNDS)
PREFILL_SECONDS = _histogram(
    "vllm:request_prefill_time_seconds", "From the first step to the first token.", REQUEST_BOUNDS
)
DECODE_SECONDS = _histogram("vllm:request_decode_time_seconds", "From the first token to the end.", REQUEST_BOUNDS)
REQUEST_PREEMPTIONS = _histogram(
    "vllm:request_num_preemptions", "Times that a request lost its blocks.", (0.0, 1.0, 2.0, 5.0, 10.0)
)
PREFILL_COMPUTED = _histogram(
    "vllm:request_prefill_kv_computed_tokens", "Prompt tokens computed, not found, of a request.", None
)
DRAFTS = _counter("vllm:spec_decode_num_drafts", "Drafts verified.")
DRAFT_TOKENS = _counter("vllm:spec_decode_num_draft_tokens", "Draft tokens verified.")
ACCEPTED_TOKENS = _counter("vllm:spec_decode_num_accepted_tokens", "Draft tokens that were right.")
ACCEPTED_PER_POSITION = _counter(
    "vllm:spec_decode_num_accepted_tokens_per_pos", "Draft tokens that were right, by place in the draft.", "position"
)

# Ours, of each model

STEP_SECONDS = _histogram(
    "flyweight:step_seconds", "Time of a step that computes prompts, newest tokens, or both.", STEP_BOUNDS, "kind"
)
FINE_TOKEN_GAP = _histogram(
    "flyweight:inter_token_latency_seconds", "As vllm:inter_token_latency_seconds, in finer buckets.", STEP_BOUNDS
)
BATCH_SIZE = _histogram("flyweight:step_requests", "Requests in a step.", (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0))
RETRY_AFTER = _gauge("flyweight:retry_after_seconds", "What a refused request would be told to wait now.")
SINCE_STEP = _gauge("flyweight:seconds_since_step", "Since the last step, while work is queued; else 0.")
EVICTIONS = _counter("flyweight:prefix_cache_evictions", "Cached blocks given up for new ones.")
OWNER_QUEUE = _gauge("flyweight:queue_requests", "Requests that wait, by a hash of their key.", "key")
OWNER_TOKENS = _counter("flyweight:served_tokens", "Prompt and answer tokens computed, by a hash of the key.", "key")
FAIRNESS = _gauge(
    "flyweight:fairness_ratio",
    "Jain's index of the tokens served in the last minute to the keys that had work: 1 is even, 1/keys the worst.",
)
GRAMMAR_COMPILE_SECONDS = _histogram(
    "flyweight:grammar_compile_seconds",
    "What requests with a grammar or schema waited for it to be compiled, or found among those that were.",
    STEP_BOUNDS,
)
GRAMMARS_REFUSED = _counter("flyweight:grammars_refused", "Grammars and schemas that could not be kept to.")
GRAMMAR_MASK_SECONDS = _counter(
    "flyweight:grammar_mask_seconds", "Time that the masks of grammars took beside the forward passes."
)
GRAMMAR_WAIT_SECONDS = _counter(
    "flyweight:grammar_wait_seconds", "Time that steps waited for masks after their forward pass."
)
EMBEDDED_TEXTS = _counter("flyweight:embedded_texts", "Texts that became vectors.")
ERRORS = _counter("flyweight:request_errors", "Requests ended by an error of their own.", "reason")
LOADED = _gauge("flyweight:model_loaded", "1 for each model that answers; 0 while one is loaded or drained.")
MODEL_BYTES = _gauge("flyweight:model_memory_bytes", "Memory counted against the bound for this model.")

# Ours, of the server

HTTP_REQUESTS = _counter(
    "flyweight:http_requests", "Answers to HTTP requests, by route and status.", "route", "status", per_model=False
)
MEMORY_BOUND = _gauge("flyweight:models_memory_bound_bytes", "What all models may take together.", per_model=False)
MODEL_CHANGES = _counter(
    "flyweight:model_changes", "Loads, unloads and swaps, by how they ended.", "change", "outcome", per_model=False
)
LOG_LINES_LOST = _counter("flyweight:request_log_lines_lost", "Lines of the request log not written.", per_model=False)
DRAINING = _gauge("flyweight:draining", "1 while the server finishes what it has and takes no more.", per_model=False)
BUILD_INFO = _gauge(
    "flyweight:build_info",
    "Version, kernels' instruction set and threads, as labels; always 1.",
    "version",
    "python",
    "kernel_isa",
    "threads",
    per_model=False,
)

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
