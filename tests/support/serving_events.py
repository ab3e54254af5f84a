"""Events as a server's workers tell them, with defaults for all that a test does not look at."""

from flyweight.engine.block_pool import PoolStatistics
from flyweight.engine.metrics import EngineMetrics
from flyweight.engine.request import RequestRecord
from flyweight.serving.observation import AnswerName, ChunkComputed, Finished, Rejected, StepTaken, Submitted


def name(request="r1", prompt=0, sample=0):
    return AnswerName(request_id=request, prompt=prompt, sample=sample)


def metrics(**changes):
    zero = {
        "running": 0,
        "waiting": 0,
        "num_blocks": 10,
        "held_blocks": 0,
        "findable_blocks": 0,
        "prefix": PoolStatistics(queries=0, hits=0, evictions=0),
        "preemptions": 0,
        "prompt_tokens": 0,
        "answer_tokens": 0,
        "computed_tokens": 0,
        "draft_tokens": 0,
        "accepted_tokens": 0,
        "finished": {},
        "steps": 0,
        "step_seconds": 0.0,
        "last_step_seconds": 0.0,
        "last_step_tokens": 0,
    }
    return EngineMetrics(**{**zero, **changes})


def submitted(request="r1", *, owner="", prompts=(5,), samples=1, max_tokens=None, at=100.0, model="demo"):
    return Submitted(
        request_id=request,
        model=model,
        owner=owner,
        prompt_tokens=prompts,
        samples=samples,
        max_tokens=max_tokens if max_tokens is not None else (16,) * len(prompts),
        at=at,
        streams=False,
    )


def rejected(request="r1", *, owner="", reason="queued_requests", retry_after=3.0):
    return Rejected(request_id=request, model="demo", owner=owner, reason=reason, retry_after=retry_after)


def chunk(of, start, count, *, drafts=0, found=0):
    return ChunkComputed(name=of, start=start, count=count, drafts=drafts, found=found)


def step(number, began, ended, chunks, answered=(), *, admitted=(), preempted=(), counts=None, model="demo"):
    return StepTaken(
        model=model,
        number=number,
        began=began,
        ended=ended,
        chunks=tuple(chunks),
        answered=tuple(answered),
        admitted=tuple(admitted),
        preempted=tuple(preempted),
        waiting=0,
        queued=0,
        metrics=counts if counts is not None else metrics(),
    )


def record(**changes):
    base = {
        "arrived": 100.1,
        "began": 101.0,
        "first_token": 102.0,
        "finished": 104.0,
        "prefill_seconds": 1.0,
        "decode_seconds": 2.0,
        "prompt_tokens": 5,
        "answer_tokens": 5,
        "cached_tokens": 0,
        "preemptions": 0,
        "draft_tokens": 0,
        "accepted_tokens": 0,
    }
    return RequestRecord(**{**base, **changes})


def finished(
    of=None, *, owner="", outcome="stop", queued_at=100.0, ended_at=104.0, of_record=..., samples=1, message=""
):
    return Finished(
        name=of if of is not None else name(),
        model="demo",
        owner=owner,
        outcome=outcome,
        queued_at=queued_at,
        released_at=100.1 if of_record is not None else 0.0,
        ended_at=ended_at,
        max_tokens=16,
        samples=samples,
        record=record() if of_record is ... else of_record,
        message=message,
    )
