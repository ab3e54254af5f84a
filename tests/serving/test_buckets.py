"""Histogram buckets count like prometheus_client's own."""

import random

from prometheus_client import CollectorRegistry, Histogram

from flyweight.serving.buckets import BucketCounts, token_bounds


def test_buckets_agree_with_the_client_library():
    bounds = (0.01, 0.1, 1.0, 10.0)
    ours, theirs = BucketCounts(bounds), Histogram("h", "", buckets=bounds, registry=CollectorRegistry())
    draw = random.Random(3)
    for value in [*bounds, 0.0, 11.0, *(draw.expovariate(1.0) for _ in range(200))]:
        ours.observe(value)
        theirs.observe(value)
    samples = [sample for metric in theirs.collect() for sample in metric.samples]
    assert ours.cumulative() == [(s.labels["le"], s.value) for s in samples if s.name == "h_bucket"]
    assert ours.count == next(s.value for s in samples if s.name == "h_count")
    assert abs(ours.total - next(s.value for s in samples if s.name == "h_sum")) < 1e-9


def test_several_at_once_count_as_many():
    one, many = BucketCounts((1.0, 2.0)), BucketCounts((1.0, 2.0))
    many.observe(1.5, 3)
    for _ in range(3):
        one.observe(1.5)
    assert one.cumulative() == many.cumulative()
    assert one.total == many.total == 4.5


def test_token_bounds_are_the_one_two_five_series():
    assert token_bounds(100) == (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
    assert token_bounds(101)[-1] == 200.0
    assert token_bounds(1) == (1.0,)
