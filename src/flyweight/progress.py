"""Progress of long work, told to whoever listens: a terminal, a log or a test; the work does not know which."""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """What long work calls. ``start`` opens one stage of ``total`` units; stages follow one another."""

    def start(self, stage: str, total: int, *, done: int = 0) -> None: ...

    def advance(self, amount: int = 1, *, note: str = "") -> None: ...

    def finish(self) -> None: ...


class Silent:
    """Listens to nothing: the default of the Python functions."""

    def start(self, stage: str, total: int, *, done: int = 0) -> None:
        pass

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        pass

    def finish(self) -> None:
        pass


class Bar:
    """A progress bar with time left on standard error; a line per stage where that is not a terminal."""

    def __init__(self, console: "Console | None" = None) -> None:
        from rich.console import Console  # for those who want a bar: it takes as long to import as a first token

        self._console = console if console is not None else Console(stderr=True)
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def start(self, stage: str, total: int, *, done: int = 0) -> None:
        self.finish()
        if not self._console.is_terminal:
            print(f"{stage}: {total} steps", file=sys.stderr, flush=True)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[note]}"),
            console=self._console,
        )
        self._bar.start()
        self._task = self._bar.add_task(stage, total=total, completed=done, note="")

    def advance(self, amount: int = 1, *, note: str = "") -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=amount, note=note)

    def finish(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._task = None, None
