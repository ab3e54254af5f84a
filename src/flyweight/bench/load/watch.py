"""Whether the measuring side kept up: how late its event loop was, how much CPU it used, how late it sent.

A client that is late measures itself. The loop's lag also shows a client that is starved of CPU by a server on the same
machine.
"""

import asyncio
import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

INTERVAL = 0.01
MOST_LAG = 0.02
MOST_CPU_SHARE = 0.8
MOST_SEND_DELAY = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientFigures:
    """Seconds, except ``cpu_share``: CPU time of this process over wall time (1 is one core, all of an event loop).

    ``late_sends_p99`` is how long after its due time a request was begun (open loops without a limit in flight).
    """

    loop_lag_mean: float
    loop_lag_p99: float
    loop_lag_max: float
    cpu_share: float
    late_sends_p99: float | None
    num_cores: int
    verdicts: tuple[str, ...]

    @property
    def was_the_limit(self) -> bool:
        return bool(self.verdicts)


class ClientWatch:
    """Measures while it is entered."""

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._task: asyncio.Task[None] | None = None
        self._began = self._cpu = self._wall = 0.0

    async def __aenter__(self) -> Self:
        self._began, self._cpu = time.perf_counter(), time.process_time()
        self._task = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._wall, self._cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
        if self._task is not None:
            self._task.cancel()

    async def _look(self) -> None:
        while True:
            due = time.perf_counter() + INTERVAL
            await asyncio.sleep(INTERVAL)
            self._lags.append(max(0.0, time.perf_counter() - due))

    def figures(self, send_delays: list[float]) -> ClientFigures:
        """What was seen; ``send_delays`` are those of requests that nothing but the client could hold back."""
        lags = np.asarray(self._lags or [0.0])
        lag, late = float(np.quantile(lags, 0.99)), float(np.quantile(send_delays, 0.99)) if send_delays else None
        share = self._cpu / self._wall if self._wall else 0.0
        verdicts = []
        if lag > MOST_LAG:
            verdicts.append(
                f"its event loop was {lag * 1e3:.0f} ms late in 1 of 100 looks (limit {MOST_LAG * 1e3:.0f} ms)"
            )
        if share > MOST_CPU_SHARE:
            verdicts.append(f"it used {share:.0%} of a core (limit {MOST_CPU_SHARE:.0%})")
        if late is not None and late > MOST_SEND_DELAY:
            verdicts.append(
                f"1 of 100 requests was sent {late * 1e3:.0f} ms late (limit {MOST_SEND_DELAY * 1e3:.0f} ms)"
            )
        return ClientFigures(
            loop_lag_mean=float(lags.mean()),
            loop_lag_p99=lag,
            loop_lag_max=float(lags.max()),
            cpu_share=share,
            late_sends_p99=late,
            num_cores=os.cpu_count() or 1,
            verdicts=tuple(verdicts),
        )
