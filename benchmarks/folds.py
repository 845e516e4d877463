"""Clips in folds for cross-fitting: groups stay whole, and every fold gets its share of every scenario's events."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from benchmarks.figures import ScoredClip
from pipeline.exceptions import ConfigError

__all__ = ["split"]


def split(clips: Iterable[ScoredClip], folds: int) -> dict[str, int]:
    """Deal groups of clips out to folds.

    Greedy, as scikit-learn's ``StratifiedGroupKFold``: the weightiest group first, each to the fold in which the sums
    of squared shares grow least. What is balanced are clips, and by scenario events and clips without any. The names
    of groups break ties, so the order of the clips does not matter.

    Args:
        clips: That were scored.
        folds: How many; 2 or more.

    Returns:
        Fold, from 0, by group; no fold is empty.

    Raises:
        ConfigError: if there are fewer groups than folds.
    """
    weights: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for clip in clips:
        weight = weights[clip.group]
        weight["", "clips"] += 1
        for scenario, result in clip.results.items():
            if result.events_s:
                weight[scenario, "events"] += len(result.events_s)
            else:
                weight[scenario, "quiet"] += 1
    if len(weights) < folds:
        raise ConfigError(
            f"--folds {folds}: found {len(weights)} groups of scored clips, expected {folds} or more"
        )
    totals: Counter[tuple[str, str]] = Counter()
    for weight in weights.values():
        totals += weight
    # A share of all that there is: a rare event weighs as much as many common ones.
    shares = {
        group: {what: count / totals[what] for what, count in sorted(weight.items())}
        for group, weight in weights.items()
    }
    loads: list[dict[tuple[str, str], float]] = [defaultdict(float) for _ in range(folds)]
    fold_of: dict[str, int] = {}
    for group in sorted(shares, key=lambda name: (-sum(shares[name].values()), name)):
        share = shares[group]
        growth = [sum(load[what] * part for what, part in share.items()) for load in loads]
        fold_of[group] = growth.index(min(growth))
        for what, part in share.items():
            loads[fold_of[group]][what] += part
    return fold_of
