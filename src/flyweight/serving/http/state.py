"""What routes share: the services by name, the options, and whether the server shuts down."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar

from starlette.requests import Request

from flyweight.errors import nearest
from flyweight.serving.api_errors import ApiError
from flyweight.serving.asks import Owner
from flyweight.serving.limits import ServerLimits
from flyweight.serving.options import ServeOptions
from flyweight.serving.service import ModelService
from flyweight.serving.stored_responses import RunningResponses, StoredResponses

T = TypeVar("T")


@dataclass(kw_only=True, slots=True)
class ServerState:
    """One server.

    Attributes:
        pool: threads for what would hold up the event loop.
        services: by name; the first is the default where a request names none.
        leaving: services that have lost their name and end what they have begun.
        is_draining: whether it takes no more requests.
        responses: those that are kept.
        running_responses: those that are being made.
    """

    options: ServeOptions
    limits: ServerLimits
    pool: Executor
    services: dict[str, ModelService] = field(default_factory=dict)
    leaving: list[ModelService] = field(default_factory=list)
    is_draining: bool = False
    responses: StoredResponses = field(init=False)
    running_responses: RunningResponses = field(default_factory=RunningResponses)

    def __post_init__(self) -> None:
        self.responses = StoredResponses(self.limits.stored_responses)

    def service(self, name: str | None) -> ModelService:
        """The service of this name.

        Raises:
            ApiError: 404 when there is none.
        """
        if not self.services:
            raise ApiError(503, "no model is loaded", code="no_model", retry_after=5.0)
        if name is None:
            return next(iter(self.services.values()))
        if name not in self.services:
            known = ", ".join(self.services)
            raise ApiError(
                404,
                f"the model {name!r} is not served; served: {known}{nearest(name, self.services)}",
                param="model",
                code="model_not_found",
            )
        return self.services[name]

    async def compute(self, function: Callable[[], T]) -> T:
        """Run something that takes long, but no engine, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, function)

    def illness(self) -> Mapping[str, str]:
        """What is wrong with the engines, by model; empty when all live."""
        found = {name: service.illness() for name, service in self.services.items()}
        return {name: reason for name, reason in found.items() if reason is not None}

    def unreadiness(self) -> Mapping[str, str]:
        """Why new requests should go elsewhere, by model; empty when they are welcome."""
        if self.is_draining:
            return {"server": "it is shutting down"}
        if not self.services:
            return {"server": "no model is loaded"}
        reasons = {name: service.unreadiness() for name, service in self.services.items()}
        return {name: reason for name, reason in reasons.items() if reason is not None}


def state_of(request: Request) -> ServerState:
    """The server that a request came to."""
    state = request.app.state.server
    assert isinstance(state, ServerState)
    return state


def owner_of(request: Request) -> Owner:
    """Who asks, as the guard has found out."""
    owner = request.scope.get("flyweight.owner")
    return owner if isinstance(owner, Owner) else Owner()


def request_id_of(request: Request) -> str:
    """The server's name for the request."""
    return str(request.scope["flyweight.request_id"])
