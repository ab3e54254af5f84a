"""Several models behind their names, which may change while the server runs: load, unload, swap.

A model is loaded only when what it will take, told from its headers, fits under the bound beside those that are there.
A swap loads and warms the new model beside the old one, gives it the name in one assignment, sends those who still hold
the old one on to the new, lets what the old one has begun end, and only then unloads it. One change at a time. It
belongs to the event loop; loading runs on a thread.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from flyweight.engine.forecast import MemoryForecast
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.sampling_options import SamplingOptions
from flyweight.errors import FlyweightError, ResourceError, nearest
from flyweight.machine import Machine
from flyweight.reporting.units import format_bytes
from flyweight.serving import metric_names
from flyweight.serving.api_errors import ApiError
from flyweight.serving.limits import ServerLimits
from flyweight.serving.model_loader import ModelLoader
from flyweight.serving.service import ModelService
from flyweight.serving.watch import Watch

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MOST_MODELS = 16
WARM_TOKENS = 2

T = TypeVar("T")

Change = Literal["load", "unload", "swap"]

log = logging.getLogger("flyweight")


@dataclass(kw_only=True, slots=True, eq=False)
class Resident:
    """A model in memory. ``origin`` is what it was loaded from, as it was asked for."""

    service: ModelService
    origin: str
    bytes: int


class ModelHouse:
    """The models of one server.

    Args:
        services, leaving: by name, and those that have lost theirs and end what they have begun; shared with the
            routes, changed by the house only.
        loader: loads checkpoints; replaced by tests.
        root: the folder below which checkpoints may be named; None forbids every load at run time.
        memory_bound: bytes that all models may take together; None for what the machine has free.
        pool: threads of the services.
    """

    def __init__(
        self,
        services: dict[str, ModelService],
        leaving: list[ModelService],
        *,
        loader: ModelLoader,
        limits: ServerLimits,
        pool: Executor,
        watch: Watch,
        root: Path | None = None,
        memory_bound: int | None = None,
        free_bytes: Callable[[], int] = lambda: Machine.detect().free_memory_bytes,
    ) -> None:
        self._services = services
        self._leaving = leaving
        self._loader = loader
        self._limits = limits
        self._pool = pool
        self._watch = watch
        self._root = None if root is None else root.resolve()
        self._free_bytes = free_bytes
        self._residents: list[Resident] = []
        self.memory_bound = memory_bound if memory_bound is not None else free_bytes()
        self._changing: str | None = None
        self._endings: set[asyncio.Task[None]] = set()
        watch.memory_of = self._bytes_of
        watch.metrics.set_gauge(metric_names.MEMORY_BOUND, lambda: self.memory_bound)

    # At the start and the end

    def adopt(self, name: str, model: LanguageModel) -> ModelService:
        """Serve a model that is loaded already."""
        sizes = model.cache_sizes
        forecast = self._loader.forecast(
            model.checkpoint.folder, room_bytes=1 << 62, cache_tokens=sizes.num_blocks * sizes.block_size
        )
        folder = model.checkpoint.folder
        resident = self._make(name, model, origin=folder.name, num_bytes=forecast.total_bytes)
        self._services[name] = resident.service
        return resident.service

    async def close(self) -> None:
        """Wait for nothing more: stop every service, those that were leaving too."""
        for task in self._endings:
            task.cancel()
        await asyncio.gather(*self._endings, return_exceptions=True)
        await asyncio.gather(*(one.service.stop() for one in self._residents))
        self._residents.clear()

    # At run time

    def describe(self) -> dict[str, Any]:
        """What is in memory, for who administers the server."""
        used = sum(one.bytes for one in self._residents)
        return {
            "object": "list",
            "data": [
                {
                    "name": one.service.name,
                    "path": one.origin,
                    "state": "leaving" if one.service in self._leaving else "serving",
                    "memory_bytes": one.bytes,
                    "running": one.service.metrics.running,
                    "waiting": one.service.metrics.waiting + one.service.queued,
                }
                for one in self._residents
            ],
            "memory_bytes": used,
            "memory_bound_bytes": self.memory_bound,
            "changing": self._changing,
        }

    async def load(self, name: str, path: str, *, cache_tokens: int | None = None) -> ModelService:
        """Serve a further checkpoint.

        Raises:
            ApiError: 400 for a bad name or path, 404 where nothing is there, 409 when the name is taken, another change
                is under way, or memory would not suffice.
        """
        if NAME.fullmatch(name) is None:
            raise ApiError(
                400,
                f"the name {name!r} is not possible; choose up to 64 letters, digits, dots, dashes and underscores",
                param="name",
            )
        if name in self._services:
            raise ApiError(409, f"the name {name!r} is taken; swap the model behind it", param="name")
        if len(self._services) >= MOST_MODELS:
            raise ApiError(409, f"{len(self._services)} models are served, as many as are allowed; unload one")
        return await self._change("load", name, partial(self._replace, name, path, cache_tokens))

    async def swap(self, name: str, path: str, *, cache_tokens: int | None = None) -> ModelService:
        """Serve another checkpoint behind a name that is in use; no request is lost.

        Raises:
            ApiError: as ``load``; 404 when nothing is served under the name.
        """
        self._check_served(name)
        return await self._change("swap", name, partial(self._replace, name, path, cache_tokens))

    async def unload(self, name: str) -> None:
        """Serve a name no longer; what was begun may end.

        Raises:
            ApiError: 404 when nothing is served under it, 409 when another change is under way.
        """
        self._check_served(name)

        async def unload() -> None:
            self._leave(self._services.pop(name), successor=None)

        await self._change("unload", name, unload)

    async def _change(self, change: Change, name: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """One change, to its end even when nobody waits for it any more."""
        if self._changing is not None:
            raise ApiError(409, f"a {self._changing} is under way; try again when it is done", retry_after=5.0)
        self._changing = f"{change} of {name}"
        task = asyncio.ensure_future(self._counted(change, work))
        return await asyncio.shield(task)

    async def _counted(self, change: Change, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        outcome = "failed"
        try:
            result = await work()
            outcome = "done"
        except ApiError as error:
            outcome = "refused" if error.status < 500 else "failed"
            raise
        finally:
            self._changing = None
            self._watch.metrics.count(metric_names.MODEL_CHANGES, 1, change, outcome)
        return result

    async def _replace(self, name: str, path: str, cache_tokens: int | None) -> ModelService:
        folder = self._folder(path)
        model, forecast = await self._load(folder, path, cache_tokens)
        resident = self._make(name, model, origin=path, num_bytes=forecast.total_bytes)
        before = self._services.get(name)
        self._services[name] = resident.service
        log.info("%s is now %s (%s)", name, path, forecast.describe())
        if before is not None:
            self._leave(before, successor=resident.service)
        return resident.service

    async def _load(self, folder: Path, path: str, cache_tokens: int | None) -> tuple[LanguageModel, MemoryForecast]:
        room = self._room()
        loop = asyncio.get_running_loop()
        try:
            forecast = await loop.run_in_executor(
                None, partial(self._loader.forecast, folder, room_bytes=room, cache_tokens=cache_tokens)
            )
            model = await loop.run_in_executor(None, self._load_and_warm, folder, forecast)
        except ResourceError as error:
            raise ApiError(409, _without(str(error), folder, path), code="not_enough_memory") from error
        except FlyweightError as error:
            raise ApiError(400, _without(str(error), folder, path), param="path") from error
        return model, forecast

    def _load_and_warm(self, folder: Path, forecast: MemoryForecast) -> LanguageModel:
        """Load, and answer once, so that the first who asks does not pay for what is made at the first step."""
        model = self._loader.load(folder, cache_tokens=forecast.cache_tokens)
        options = SamplingOptions(max_tokens=WARM_TOKENS, temperature=0.0, ignore_eos=True)
        model.generate([[min(model.stop_ids, default=0)]], options)
        return model

    def _room(self) -> int:
        """Bytes that a further model may take: under the bound, and in the memory that is free now."""
        used = sum(one.bytes for one in self._residents)
        return min(self.memory_bound - used, self._free_bytes())

    def _folder(self, path: str) -> Path:
        """The folder that a path below the root names.

        Raises:
            ApiError: 403 without a root, 400 for a path that leads elsewhere, 404 where no checkpoint is.
        """
        if self._root is None:
            raise ApiError(403, "this server loads no models at run time; start it with --model-root", param="path")
        try:
            found = (self._root / path).resolve()
            is_inside = not Path(path).is_absolute() and found.is_relative_to(self._root) and found != self._root
            is_checkpoint = is_inside and (found / "config.json").is_file()
        except (OSError, ValueError, RuntimeError):  # a NUL, a name that is too long, links in a circle
            is_inside = is_checkpoint = False
        if not is_inside:
            raise ApiError(400, "path must name a folder below the server's --model-root, from there", param="path")
        if not is_checkpoint:
            raise ApiError(404, f"there is no checkpoint at {path!r}", param="path")
        return found

    def _make(self, name: str, model: LanguageModel, *, origin: str, num_bytes: int) -> Resident:
        service = ModelService(
            model,
            name=name,
            limits=self._limits,
            pool=self._pool,
            observers=self._watch.observers(name, context_length=model.context_length),
        )
        service.start()
        self._watch.follow(service)
        resident = Resident(service=service, origin=origin, bytes=num_bytes)
        self._residents.append(resident)
        return resident

    def _leave(self, service: ModelService, *, successor: ModelService | None) -> None:
        """Let a service without a name end what it has begun, then unload it."""
        resident = next(one for one in self._residents if one.service is service)
        self._leaving.append(service)
        service.retire(successor)
        task = asyncio.ensure_future(self._end(resident))
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _end(self, resident: Resident) -> None:
        await resident.service.drain(self._limits.answer_seconds)
        await resident.service.stop()
        self._leaving.remove(resident.service)
        self._residents.remove(resident)
        if resident.service.name not in self._services:
            self._watch.forget(resident.service.name)
        log.info(
            "%s, which was %s, is unloaded; %s are given back",
            resident.service.name,
            resident.origin,
            format_bytes(resident.bytes),
        )

    def _check_served(self, name: str) -> None:
        if name not in self._services:
            raise ApiError(
                404,
                f"the model {name!r} is not served{nearest(name, self._services)}",
                param="name",
                code="model_not_found",
            )

    def _bytes_of(self, name: str) -> int:
        return sum(one.bytes for one in self._residents if one.service.name == name)


def _without(message: str, folder: Path, path: str) -> str:
    """A message about a checkpoint without the place of this machine where it lies."""
    return message.replace(str(folder), path)
