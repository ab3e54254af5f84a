"""The plan of a run: options become stages, each with one shape of load."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flyweight.bench.load.arrivals import Shape, arrival_times
from flyweight.bench.load.options import WITH_RATE, LoadOptions
from flyweight.bench.load.trace import TraceLine
from flyweight.errors import UsageError

USUAL_REQUESTS = 100
SWEEP_SECONDS = 30.0
SWEEP_IN_FLIGHT = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One shape of load. An open loop has ``times`` (seconds from its start), a closed one has ``concurrency``.

    ``rate`` is the mean rate that is offered; ``trace`` the lines that belong to ``times``, where they are replayed.
    """

    label: str
    concurrency: int | None = None
    requests: int | None = None
    duration: float | None = None
    rate: float | None = None
    times: tuple[float, ...] = ()
    max_in_flight: int | None = None
    trace: tuple[TraceLine, ...] = ()

    @property
    def is_open(self) -> bool:
        return self.concurrency is None


def plan_stages(options: LoadOptions, trace: Sequence[TraceLine] = ()) -> list[Stage]:
    """The stages of every load but a sweep, whose rates depend on what it finds.

    Raises:
        UsageError: a stage would send nothing.
    """
    requests, duration = amounts(options)
    if options.load == "concurrency":
        return [closed_stage(places, requests, duration) for places in options.concurrency or (1,)]
    if options.load == "trace":
        times = tuple(line.time for line in trace)
        rate = len(times) / times[-1] if times[-1] > 0 else None
        label = "trace" if options.trace_speed == 1 else f"trace x{options.trace_speed:g}"
        return [
            Stage(
                label=label,
                times=times,
                rate=rate,
                requests=len(times),
                max_in_flight=options.max_in_flight,
                trace=tuple(trace),
            )
        ]
    if options.load == "ramp":
        generator = np.random.default_rng([options.seed, 0])
        low, high = options.rate
        times = tuple(
            arrival_times("ramp", rate=low, final_rate=high, requests=requests, duration=duration, generator=generator)
        )
        return [_open_stage(f"{low:g} to {high:g} requests/s", (low + high) / 2, times, duration, options)]
    return [open_stage(options, rate, place) for place, rate in enumerate(options.rate)]


def open_stage(options: LoadOptions, rate: float, place: int) -> Stage:
    """An open loop at one rate. ``place`` makes its draws differ from other stages'."""
    requests, duration = amounts(options)
    shape: Shape = options.load if options.load in WITH_RATE else "poisson"  # type: ignore[assignment]  # narrowed by WITH_RATE
    times = tuple(
        arrival_times(
            shape,
            rate=rate,
            requests=requests,
            duration=duration,
            generator=np.random.default_rng([options.seed, 0, place]),
            burstiness=options.burstiness,
        )
    )
    return _open_stage(f"{rate:.3g} requests/s", rate, times, duration, options)


def closed_stage(places: int, requests: int | None, duration: float | None) -> Stage:
    """A closed loop with so many requests in flight."""
    return Stage(label=f"{places} in flight", concurrency=places, requests=requests, duration=duration)


def amounts(options: LoadOptions) -> tuple[int | None, float | None]:
    """(requests, seconds) of a stage, with the usual one where neither is given."""
    if options.load == "sweep":
        return options.requests, options.duration if options.duration is not None else SWEEP_SECONDS
    if options.requests is None and options.duration is None:
        return USUAL_REQUESTS, None
    return options.requests, options.duration


def _open_stage(
    label: str, rate: float, times: tuple[float, ...], duration: float | None, options: LoadOptions
) -> Stage:
    if not times:
        raise UsageError(f"no request comes in {duration:g} s at {label}; raise the rate or the duration")
    return Stage(
        label=label,
        times=times,
        rate=rate,
        requests=len(times),
        duration=duration,
        max_in_flight=options.max_in_flight,
    )
