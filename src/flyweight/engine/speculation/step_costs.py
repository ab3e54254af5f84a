"""How long steps take by the number of tokens in them, measured as they come."""

from bisect import bisect_left, insort

FORGETTING = 0.15
DRIFT = 0.997
GROWTH_PER_TOKEN = 0.05
LARGEST_SURPRISE = 1.5


class StepCosts:
    """Seconds by tokens: a moving mean at every number that has been seen, straight lines between them.

    A step that took more than 1.5 times what its mean says counts as 1.5 times: one hiccup of the machine does not
    turn a decision. Beyond what has been seen, each token is taken to add 5 % of a one-token step.
    """

    def __init__(self) -> None:
        self._means: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._sizes: list[int] = []

    def covers(self, tokens: int) -> bool:
        """Whether a step of so many tokens, or of fewer, has been seen."""
        return bool(self._sizes) and self._sizes[0] <= tokens

    @property
    def largest(self) -> int:
        """The largest step seen; 0 before any."""
        return self._sizes[-1] if self._sizes else 0

    def add(self, tokens: int, seconds: float) -> None:
        """Count a step."""
        if tokens not in self._means:
            insort(self._sizes, tokens)
            self._means[tokens], self._counts[tokens] = seconds, 1
            return
        self._counts[tokens] += 1
        mean = self._means[tokens]
        share = max(FORGETTING, 1.0 / self._counts[tokens])
        self._means[tokens] += share * (min(seconds, LARGEST_SURPRISE * mean) - mean)

    def relax(self, tokens: int) -> None:
        """Let the means of larger steps drift down towards one of ``tokens``, a little: what was measured in a bad
        moment, and then avoided, would otherwise be believed for ever."""
        plain = self.seconds(tokens)
        for size in self._sizes[bisect_left(self._sizes, tokens + 1) :]:
            if self._means[size] > plain:
                self._means[size] = plain + DRIFT * (self._means[size] - plain)

    def seconds(self, tokens: int) -> float:
        """What a step of so many tokens should take. Never less than a smaller one."""
        place = bisect_left(self._sizes, tokens)
        if place < len(self._sizes) and self._sizes[place] == tokens:
            return max(self._means[size] for size in self._sizes[: place + 1])
        if place == 0:
            return self._means[self._sizes[0]]
        below = self._sizes[place - 1]
        least = max(self._means[size] for size in self._sizes[:place])
        if place == len(self._sizes):
            return least + GROWTH_PER_TOKEN * (tokens - below) * self._means[self._sizes[0]]
        above = self._sizes[place]
        share = (tokens - below) / (above - below)
        return max(least, self._means[below] + share * (self._means[above] - self._means[below]))
