"""Exact intervals for shares and rates, and the bootstrap over groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats  # type: ignore[import-untyped,unused-ignore]

__all__ = [
    "CONFIDENCE",
    "Counts",
    "bootstrap_lower",
    "clopper_pearson_lower",
    "further_true_needed",
    "further_true_needed_each",
    "lower_bounds",
    "poisson_interval",
    "upper_bounds",
]

Counts: TypeAlias = NDArray[np.int64]
"""Counts of many groups: (n,)."""

CONFIDENCE = 0.95
RESAMPLES = 10_000  # the 5th percentile is then stable to a few tenths of a percent
SEED = 20_260_101  # any; fixed, so that the same run prints the same figure


def clopper_pearson_lower(true: int, total: int, confidence: float = CONFIDENCE) -> float:
    """One-sided exact lower bound of a share (Clopper and Pearson, Biometrika 1934).

    Args:
        true: Successes.
        total: Trials; without any, nothing is known and the bound is 0.
        confidence: Probability with which the true share lies above the bound.
    """
    if not 0 <= true <= total:
        raise ValueError(f"expected 0 <= true <= total, found {true} of {total}")
    if true == 0:
        return 0.0
    return float(stats.beta.ppf(1.0 - confidence, true, total - true + 1))


def further_true_needed(true: int, total: int, target: float) -> int:
    """How many alarms, all of them true, must follow until the lower bound reaches `target` (below 1)."""
    if not 0 <= target < 1:
        raise ValueError(f"expected a target from 0 to below 1, found {target}")

    def enough(further: int) -> bool:
        return clopper_pearson_lower(true + further, total + further) >= target

    if enough(0):
        return 0
    high = 1
    while not enough(high):
        high *= 2
    low = high // 2  # not enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def lower_bounds(
    true: Counts, total: Counts, confidence: float = CONFIDENCE
) -> NDArray[np.float64]:
    """`clopper_pearson_lower` of many groups at once: (n,) and (n,) give (n,)."""
    bounds = special.betaincinv(np.maximum(true, 1), total - true + 1.0, 1.0 - confidence)
    return np.where(true > 0, bounds, 0.0)


def upper_bounds(
    true: Counts, total: Counts, confidence: float = CONFIDENCE
) -> NDArray[np.float64]:
    """One-sided exact upper bound of the shares of many groups; 1 where nothing speaks against it.

    Args:
        true: Successes; (n,).
        total: Trials; (n,).
        confidence: Probability with which the true share lies below the bound.
    """
    bounds = special.betaincinv(true + 1.0, np.maximum(total - true, 1), confidence)
    return np.where(true < total, bounds, 1.0)


def further_true_needed_each(
    true: Counts, total: Counts, target: float, confidence: float = CONFIDENCE
) -> Counts:
    """`further_true_needed` of many groups at once: (n,) and (n,) give (n,)."""
    false = (total - true) + 1.0

    def enough(further: Counts) -> NDArray[np.bool_]:
        # The lower bound reaches the target where the beta distribution leaves no more than the tail below it.
        below = special.betainc(np.maximum(true + further, 1e-9), false, target)
        return np.asarray(below <= 1.0 - confidence)

    if not 0 <= target < 1:
        raise ValueError(f"expected a target from 0 to below 1, found {target}")
    low, high = np.full(len(true), -1, np.int64), np.zeros(len(true), np.int64)
    while not (reached := enough(high)).all():
        low = np.where(reached, low, high)
        high = np.where(reached, high, 2 * high + 1)
    while (high - low > 1).any():
        middle = np.where(high - low > 1, (low + high) // 2, high)
        reached = enough(middle)
        low = np.where(reached, low, middle)
        high = np.where(reached, middle, high)
    return high


def poisson_interval(
    count: int, exposure: float, confidence: float = CONFIDENCE
) -> tuple[float, float] | None:
    """Two-sided exact interval of a rate (Garwood, Biometrika 1936), in events per unit of `exposure`.

    Returns:
        Lower and upper limit; None without exposure.
    """
    if exposure <= 0:
        return None
    tail = (1.0 - confidence) / 2.0
    low = float(stats.chi2.ppf(tail, 2 * count)) / 2.0 if count else 0.0
    high = float(stats.chi2.ppf(1.0 - tail, 2 * count + 2)) / 2.0
    return low / exposure, high / exposure


def bootstrap_lower(
    groups: Sequence[tuple[int, int]], confidence: float = CONFIDENCE
) -> float | None:
    """One-sided lower percentile bound of a pooled share, resampling whole groups.

    Clips of one place or one incident err together; an interval that takes their alarms for independent is too
    narrow. A resample without any trial counts as 0, the worst case.

    Args:
        groups: Successes and trials of every group, those without trials too.
        confidence: Of the bound.

    Returns:
        The bound; None with fewer than two groups that have trials, which say nothing of the spread between groups.
    """
    if sum(trials > 0 for _, trials in groups) < 2:
        return None
    table = np.array(groups, np.int64)  # (n, 2)
    rng = np.random.default_rng(SEED)
    weights = rng.multinomial(len(table), np.full(len(table), 1.0 / len(table)), size=RESAMPLES)
    true, trials = (weights @ table).T
    shares = np.divide(true, trials, out=np.zeros(RESAMPLES), where=trials > 0)
    return float(np.quantile(shares, 1.0 - confidence))
