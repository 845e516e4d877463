"""How long to wait before trying a stream again."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """Exponential back-off with full jitter, so that a switch's restart is not followed by a stampede.

    See "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        first_s: Upper bound of the first delay in seconds.
        longest_s: Upper bound of every delay.
        hopeless_s: Upper bound where trying again can hardly help (wrong password): cameras lock out those who insist.
        rng: Source of the jitter.
    """

    def __init__(
        self,
        first_s: float = 0.5,
        longest_s: float = 30.0,
        hopeless_s: float = 300.0,
        rng: random.Random | None = None,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._hopeless_s = hopeless_s
        self._rng = rng or random.Random()
        self._failures = 0

    def next(self, *, retryable: bool = True) -> float:
        """Seconds to wait after one more failure."""
        if not retryable:
            # Half to whole rather than zero to whole: a lock-out must not be prolonged by a lucky short draw.
            return self._rng.uniform(0.5, 1.0) * self._hopeless_s
        # The exponent is bounded so that years of failures do not overflow a float.
        ceiling = min(self._longest_s, self._first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return self._rng.uniform(0.0, ceiling)

    def reset(self) -> None:
        """The stream has been stable: begin again with short delays."""
        self._failures = 0
