"""The engine's thread: news of many requests, and a fault in one that leaves the others alone."""

import queue
import time

import pytest

from flyweight import SamplingOptions, load
from flyweight.demo_model import model_path
from flyweight.errors import FlyweightError
from flyweight.serving.engine_worker import EngineWorker
from flyweight.serving.jobs import Job

PROMPT = "The opposite of hot is"


class Runs:
    """A worker and what it has told."""

    def __init__(self):
        self.model = load(model_path())
        self.deliveries = queue.Queue()
        self.worker = EngineWorker(self.model, name="demo", deliver=self.deliveries.put)
        self.count = 0

    def submit(self, *, samples=1, prompt=PROMPT, **options):
        self.count += 1
        asked = self.model.ask(prompt, SamplingOptions(temperature=0.0, **options), samples=samples)
        job = Job(request_id=f"r{self.count}", prompt=0, asked=asked)
        self.worker.submit(job)
        return job

    def until_ended(self, jobs):
        """The last news of each job's first answer."""
        last = {}
        deadline = time.monotonic() + 20
        while len(last) < len(jobs):
            delivery = self.deliveries.get(timeout=max(0.1, deadline - time.monotonic()))
            for news in delivery.news:
                if news.is_last and news.sample == 0:
                    last[news.job] = news
        return [last[job] for job in jobs]


@pytest.fixture
def runs():
    found = Runs()
    yield found
    assert found.worker.stop(10)


def test_answers_are_those_of_the_model_alone(runs):
    alone = load(model_path()).generate([PROMPT], SamplingOptions(temperature=0.0, max_tokens=12))[0]
    runs.worker.start()
    for news in runs.until_ended([runs.submit(max_tokens=12) for _ in range(3)]):
        assert news.completion.text == alone.text
        assert news.record.prompt_tokens == alone.usage.prompt_tokens
    assert runs.worker.pulse.illness(60) is None


def test_an_exception_in_one_sampler_ends_that_request_only(runs):
    good, bad = runs.submit(max_tokens=12, ignore_eos=True), runs.submit(max_tokens=12, seed=77)
    engine = runs.worker._engine
    add = engine._add

    def add_broken(request, namespace, *, stream):
        number = add(request, namespace, stream=stream)
        if request.options.seed == 77:
            engine._requests[number].sampler.rule = lambda: 1 // 0
        return number

    engine._add = add_broken
    runs.worker.start()
    fine, broken = runs.until_ended([good, bad])
    assert fine.completion is not None
    assert len(fine.completion.token_ids) == 12
    assert isinstance(broken.error, FlyweightError)
    assert "ZeroDivisionError" in str(broken.error)
    runs.worker.run(lambda one: one.check_integrity()).result(5)


def test_a_step_that_fails_once_is_made_again(runs):
    engine = runs.worker._engine
    forward, calls = engine._forward, []

    def fails_once(batch):
        calls.append(batch)
        if len(calls) == 2:
            raise RuntimeError("a kernel stumbled")
        return forward(batch)

    engine._forward = fails_once
    runs.worker.start()
    (news,) = runs.until_ended([runs.submit(max_tokens=8, ignore_eos=True)])
    assert len(news.completion.token_ids) == 8
    assert runs.worker.pulse.failed_steps == 1


def test_the_request_that_makes_steps_fail_is_found(runs):
    """A forward pass that raises whenever it sees a certain token."""
    engine = runs.worker._engine
    poison = runs.model.encode("zebra")[-1]
    forward = engine._forward

    def refuses(batch):
        if poison in batch.token_ids:
            raise RuntimeError("poisoned")
        return forward(batch)

    engine._forward = refuses
    jobs = [runs.submit(max_tokens=6, ignore_eos=True, prompt=text) for text in (PROMPT, "zebra", PROMPT)]
    runs.worker.start()
    first, bad, last = runs.until_ended(jobs)
    assert len(first.completion.token_ids) == len(last.completion.token_ids) == 6
    assert "RuntimeError" in str(bad.error)
    assert runs.worker.pulse.illness(60) is None
    runs.worker.run(lambda one: one.check_integrity()).result(5)


def test_a_model_that_always_fails_is_ill_until_it_works(runs):
    engine = runs.worker._engine
    forward = engine._forward

    def fails(_batch):
        raise RuntimeError("broken")

    engine._forward = fails
    runs.worker.start()
    for news in runs.until_ended([runs.submit(max_tokens=4) for _ in range(4)]):
        assert news.error is not None
    assert "failed one after another" in runs.worker.pulse.illness(60)
    engine._forward = forward
    runs.until_ended([runs.submit(max_tokens=4)])
    assert runs.worker.pulse.illness(60) is None


def test_an_aborted_job_gives_its_blocks_back(runs):
    runs.worker.start()
    job = runs.submit(max_tokens=400, ignore_eos=True, samples=2)
    runs.deliveries.get(timeout=10)
    runs.worker.abort(job)
    (news,) = runs.until_ended([job])
    assert news.completion is None
    assert news.error is None
    assert news.record is not None
    held = runs.worker.run(lambda engine: engine.metrics().held_blocks).result(5)
    assert held == 0


def test_a_hanging_step_shows_in_the_pulse(runs):
    engine = runs.worker._engine
    forward = engine._forward
    engine._forward = lambda batch: (time.sleep(0.5), forward(batch))[1]
    runs.worker.start()
    job = runs.submit(max_tokens=1)
    time.sleep(0.3)
    assert "no step was made" in runs.worker.pulse.illness(0.1)
    runs.until_ended([job])
    time.sleep(0.05)
    assert runs.worker.pulse.illness(0.1) is None
