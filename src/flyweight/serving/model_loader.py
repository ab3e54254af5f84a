"""How a server loads a checkpoint: with the options it was started with, after telling what that would take."""

from dataclasses import dataclass, field
from pathlib import Path

from flyweight.engine.forecast import MemoryForecast, forecast_memory
from flyweight.engine.language_model import LanguageModel
from flyweight.engine.load import KVChoice, load
from flyweight.engine.options import EngineOptions
from flyweight.engine.preparing import WeightOptions
from flyweight.progress import Progress
from flyweight.runtime.prepared import ModelCompute


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelLoader:
    """Loads checkpoints, all with the same options; see :func:`flyweight.engine.load.load`."""

    compute: ModelCompute = "auto"
    kv_dtype: KVChoice = "auto"
    batch_invariant: bool = False
    speculate: str = "off"
    engine: EngineOptions = field(default_factory=EngineOptions)
    weights: WeightOptions = field(default_factory=WeightOptions)

    def forecast(self, path: str | Path, *, room_bytes: int, cache_tokens: int | None = None) -> MemoryForecast:
        """What the model would take.

        Raises:
            UsageError: when it cannot be loaded, or not into ``room_bytes``.
        """
        return forecast_memory(
            path,
            room_bytes=room_bytes,
            compute=self.compute,
            kv_dtype=self.kv_dtype,
            cache_tokens=cache_tokens,
            head=self.weights.head,
        )

    def load(
        self, path: str | Path, *, cache_tokens: int | None = None, progress: Progress | None = None
    ) -> LanguageModel:
        """Load it.

        Raises:
            UsageError: when it cannot be loaded.
        """
        return load(
            path,
            compute=self.compute,
            cache_tokens=cache_tokens,
            kv_dtype=self.kv_dtype,
            weights=self.weights,
            engine=self.engine,
            batch_invariant=self.batch_invariant,
            speculate=self.speculate,
            progress=progress,
        )
