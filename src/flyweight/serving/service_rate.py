"""How many tokens a second an engine serves while it has work, measured over the last minute of such time."""

WINDOW_SECONDS = 60.0
IDLE_SECONDS = 2.0  # a longer pause between two counts is not time of work


class ServiceRate:
    """An average that forgets: tokens and seconds of work both fade with a window's length."""

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window = window_seconds
        self._tokens = 0.0
        self._seconds = 0.0
        self._last: float | None = None

    @property
    def is_known(self) -> bool:
        """Whether enough was measured: at least half a second of work."""
        return self._seconds >= 0.5 and self._tokens > 0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of prompts and answers; 0 before anything was measured."""
        return self._tokens / self._seconds if self._seconds else 0.0

    def pause(self) -> None:
        """The engine has nothing to do: the time until the next count does not matter."""
        self._last = None

    def count(self, tokens: float, now: float) -> None:
        """So many tokens were served until now."""
        if self._last is not None:
            passed = max(0.0, now - self._last)
            fading = 0.5 ** (passed / self._window)
            self._tokens *= fading
            self._seconds = self._seconds * fading + passed
            self._tokens += tokens
        self._last = now
